"""What `rlx new` writes runs, keeps the laws and passes its own tests as it is."""

import subprocess
import sys
from importlib.resources import files

import pytest

from rlx.cli.main import invoke, main
from rlx.cli.verb.new import FOLDER, KINDS, class_name, texts

pytestmark = pytest.mark.whole

CHECKED = {
    "algorithm": ["algorithm=fresh_algorithm.FreshAlgorithm"],
    "loss": ["loss=fresh_loss.fresh_loss"],
    "advantage": ["algorithm=custom_grpo", "algorithm/advantage=fresh_advantage.fresh_advantage"],
    "reward": ["algorithm=custom_grpo", "task/reward=[fresh_reward.FreshReward]"],
}
BY_YAML = {
    "algorithm": ["algorithm=fresh_algorithm"],
    "loss": ["algorithm=dpo", "loss=fresh_loss"],
    "advantage": ["algorithm=custom_grpo", "algorithm/advantage=fresh_advantage"],
    "reward": ["algorithm=custom_grpo", "task/reward=[exact_match,fresh_reward]"],
}


def named(what: str) -> str:
    """The dotted name of what is written: of a function for a loss and an advantage, else of a class."""
    return f"fresh_{what}.fresh_{what}" if what in ("loss", "advantage") else f"fresh_{what}.Fresh{what.capitalize()}"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in [module for module in sys.modules if module.startswith("fresh_")]:
        del sys.modules[module]


@pytest.mark.parametrize("what", FOLDER)
def test_it_writes_a_module_its_yaml_and_its_test(what, place, capsys):
    assert main(["new", what, f"fresh_{what}"]) == 0
    written = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert written == {f"fresh_{what}.py", f"test_fresh_{what}.py", f"conf/{FOLDER[what]}/fresh_{what}.yaml"}
    for path in written:
        text = (place / path).read_text()
        assert "NAME" not in text
        assert "CLASS" not in text
    assert named(what) in capsys.readouterr().out


def test_the_test_is_run_by_a_command_that_works_without_pytest(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pytest", None)
    assert main(["new", "loss", "fresh_loss"]) == 0
    assert "  python -m pip install pytest && python -m pytest test_fresh_loss.py\n" in capsys.readouterr().out


@pytest.mark.parametrize("what", FOLDER)
def test_the_yaml_composes_to_the_values_of_the_class(what, place, capsys):
    assert main(["new", what, f"fresh_{what}"]) == 0
    capsys.readouterr()
    assert invoke(["train", "--config-dir", "conf", *BY_YAML[what], "--cfg", "job"]) == (0, "")
    by_yaml = capsys.readouterr().out
    assert f"_target_: {named(what)}" in by_yaml
    by_name = [word.replace(f"fresh_{what}", named(what)) for word in BY_YAML[what]]
    assert invoke(["train", *by_name, "--cfg", "job"]) == (0, "")
    assert sorted(capsys.readouterr().out.lower().replace(f"fresh{what}:", f"fresh_{what}:").split()) == sorted(
        by_yaml.lower().split()
    )


@pytest.mark.parametrize("what", FOLDER)
def test_it_keeps_the_laws(what, place, capsys):
    main(["new", what, f"fresh_{what}"])
    assert main(["check", *CHECKED[what]]) == 0, capsys.readouterr().out


def test_an_algorithm_that_samples_composes_trains_and_keeps_the_laws(place, monkeypatch, capsys):
    monkeypatch.setenv("RLX_CACHE", str(place / "cache"))
    assert main(["new", "algorithm", "fresh_rollouts", "kind=rollouts"]) == 0
    capsys.readouterr()
    for name in ("fresh_rollouts", "fresh_rollouts.FreshRollouts"):
        assert invoke(["train", "--config-dir", "conf", f"algorithm={name}", "--cfg", "job"]) == (0, "")
    by_yaml, by_name = capsys.readouterr().out.split("algorithm:")[1:]
    assert sorted(by_yaml.split("task:")[0].split()) == sorted(by_name.split("task:")[0].split())
    small = ["num_steps=3", "algorithm.prompts_per_step=4", "evaluation.num_prompts=8", "logger=[]", "threads=1"]
    assert main(["train", "algorithm=fresh_rollouts.FreshRollouts", *small]) == 0
    assert main(["check", "algorithm=fresh_rollouts.FreshRollouts"]) == 0, capsys.readouterr().out
    assert invoke(["new", "algorithm", "other", "kind=rolouts"])[1].endswith("did you mean rollouts?")


@pytest.mark.slow
@pytest.mark.parametrize("what", [*FOLDER, "rollouts"])
def test_its_own_test_passes(what, place):
    main(["new", *(("algorithm", "fresh_rollouts", "kind=rollouts") if what == "rollouts" else (what, f"fresh_{what}"))])
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", f"test_fresh_{what}.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_overwritten_unless_asked(place):
    assert invoke(["new", "loss", "fresh_loss"])[0] == 0
    (place / "fresh_loss.py").write_text("mine")
    code, message = invoke(["new", "loss", "fresh_loss"])
    assert code == 2
    assert "force=true" in message
    assert (place / "fresh_loss.py").read_text() == "mine"
    assert invoke(["new", "loss", "fresh_loss", "force=true"])[0] == 0
    assert (place / "fresh_loss.py").read_text() != "mine"


def test_out_is_another_folder(place, capsys):
    assert main(["new", "reward", "fresh_reward", "out=lab"]) == 0
    assert (place / "lab" / "fresh_reward.py").is_file()
    assert "cd lab && " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of algorithm, advantage, loss, reward"),
        (["algoritm", "x"], "did you mean algorithm?"),
        (["loss"], "takes one name"),
        (["loss", "a", "b"], "takes one name"),
        (["loss", "MyLoss"], "did you mean my_loss?"),
        (["loss", "Json"], "did you mean my_json?"),
        (["loss", "class"], "name"),
        (["loss", "torch"], "would hide"),
        (["loss", "json"], "would hide"),
        (["loss", "fresh", "outt=x"], "did you mean out?"),
        (["loss", "x" * 300], "cannot be written: File name too long"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_what_cannot_be_made_is_said(words, said, place):
    code, message = invoke(["new", *words])
    assert code == 2
    assert said in message
    assert not any(place.iterdir())


def test_names():
    assert class_name("my_idea_2") == "MyIdea2"
    assert texts("loss", "a_b")["a_b.py"].count("def a_b(") == 1


def test_the_templates_are_packaged():
    folder = files("rlx.cli.verb") / "template"
    names = [*FOLDER, *(f"{what}_{kind}" for what, kinds in KINDS.items() for kind in kinds[1:])]
    assert {f"{name}{kind}.txt" for name in names for kind in (".py", ".yaml", "_test.py")} == {p.name for p in folder.iterdir()}
