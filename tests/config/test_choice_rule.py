"""A choice that cannot be one is refused in words of rlx, with what was meant."""

import pytest

from rlx.config.compose import check_choices
from rlx.errors import ConfigError

KNOWN = {
    "algorithm": ["custom_dpo", "dpo"],
    "loss": ["dpo", "ipo"],
    "experiment": ["tiny_policy"],
    "logger": ["tensorboard", "wandb"],
    "task/reward": ["numeric"],
}


@pytest.fixture(autouse=True)
def _lab(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text("import nothing_of_the_kind\nclass First: pass\nclass Second(First): pass\n")
    (tmp_path / "broken.py").write_text("class (\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("algorithm=", "algorithm= chooses nothing; it is one of custom_dpo, dpo"),
        ("algorithm=null", "algorithm=null chooses nothing"),
        ("loss=none", "loss=none chooses nothing; leave it out for the algorithm's own"),
        ("loss=null", "loss=null chooses nothing"),
        ("experiment=null", "experiment=null chooses nothing; leave it out for none"),
        ("algorithm=[dpo]", "algorithm=dpo"),
        ("algorithm=dpo,custom_dpo", "add -m"),
        ("algorithm=dpo,custom_dop", "there is no algorithm custom_dop; did you mean custom_dpo?"),
        ("logger=none", "write logger=[]"),
        ("logger=null", "write logger=[]"),
        ("algorithm=my_lab", "algorithm=my_lab.Second"),
        ("algorithm=my_lab.py", "algorithm=my_lab.Second"),
        ("loss=labs/my_lab.py", "no such file"),
        ("algorithm=broken.py", "cannot be read as Python"),
    ],
)
def test_no_choice(override, expected):
    with pytest.raises(ConfigError) as refused:
        check_choices([override], KNOWN, multirun=False)
    assert expected in str(refused.value)


def test_a_file_elsewhere_says_how_it_is_found(tmp_path):
    (tmp_path / "labs").mkdir()
    (tmp_path / "my_lab.py").rename(tmp_path / "labs" / "my_lab.py")
    with pytest.raises(ConfigError, match=r"algorithm=my_lab\.Second, with labs on the Python path"):
        check_choices(["algorithm=labs/my_lab.py"], KNOWN, multirun=False)


@pytest.mark.parametrize(
    "override",
    ["algorithm=dpo", "loss={beta:0.1}", "logger=[]", "logger=[tensorboard,wandb]", "algorithm=my_lab.First",
     "task/reward=[numeric]", "seed=", "~loss", "loss@algorithm.loss=ipo", "algorithm=no_file_of_that_name"],
)  # fmt: skip
def test_what_may_be_a_choice_is_left_to_hydra(override):
    check_choices([override], KNOWN, multirun=False)


def test_a_sweep_chooses_several():
    check_choices(["algorithm=dpo,custom_dpo"], KNOWN, multirun=True)
