"""The run's loss: its algorithm's YAML says the default, the command line chooses another; one that nobody reads is refused."""

import pytest
from omegaconf import OmegaConf

from rlx.cli.failure import composed_line
from rlx.cli.main import invoke
from rlx.config.check import check_config, plain_config
from rlx.config.compose import CommandLine, compose, groups
from rlx.config.schema import RunConfig, conf_dir
from rlx.config.sources import default_loss
from rlx.errors import ConfigError

DEFAULT = {
    "custom_dpo": "dpo",
    "online_dpo": "dpo",
    "ppo": "clipped",
    "dapo": "dapo",
    "rloo": "rloo",
    "hybrid": None,
    "sft": None,
}


@pytest.mark.parametrize(("algorithm", "loss"), DEFAULT.items())
def test_an_algorithms_yaml_says_its_default_loss(algorithm, loss):
    assert default_loss(algorithm) == loss
    cfg = compose("train", [f"algorithm={algorithm}"])
    assert cfg.loss == (None if loss is None else compose("train", ["algorithm=dpo", f"loss={loss}"]).loss)


def test_no_config_holds_a_loss_twice():
    for algorithm in groups([conf_dir()])["algorithm"]:
        config = plain_config(compose("train", [f"algorithm={algorithm}"]))
        assert ("loss" in config["algorithm"]) is False
        check_config(compose("train", [f"algorithm={algorithm}"]))


def test_the_name_of_an_algorithm_stands_for_its_default_loss():
    assert compose("train", ["loss=custom_dpo"]).loss == compose("train", ["loss=dpo"]).loss
    assert invoke(["train", "loss=sft", "--cfg", "job"])[1].startswith("rlx: there is no loss sft; ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algorithm=hybrid", "loss=ipo"], "choose with loss@algorithm.dpo.loss=NAME, set with algorithm.dpo.loss.beta=..."),
        (["algorithm=hybrid", "loss.beta=2"], "the losses of algorithm Hybrid are algorithm.dpo.loss, algorithm.grpo.loss"),
        (["algorithm=mixture", "loss=ipo"], "choose with loss@algorithm.terms.preference.algorithm.loss=NAME"),
        (["algorithm=sft", "loss=ipo"], "algorithm Sft has no loss; leave out loss=..."),
        (["algorithm=sft", "loss.beta=1"], "algorithm Sft has no loss"),
        (["algorithm=dpo", "algorithm.loss.beta=1"], "algorithm.loss.beta is not a key of dpo; did you mean loss.beta?"),
        (["-m", "algorithm=dpo,sft", "loss=ipo", "sweep.dry_run=true"], "algorithm Sft has no loss"),
        (["-m", "loss=ipo,ippo", "sweep.dry_run=true"], "there is no loss ippo; did you mean ipo?"),
        (
            ["algorithm=mixture", "loss@algorithm.terms.preference.loss=ipo"],
            "it is chosen by loss@algorithm.terms.preference.algorithm.loss=NAME",
        ),
        (
            ["algorithm=hybrid", "algorithm@algorithm.dpo=sft", "loss@algorithm.dpo.loss=ipo"],
            "algorithm.dpo.loss: Sft has no loss; ",
        ),
        (
            ["algorithm=hybrid", "algorithm@algorithm.dpo=sft", "algorithm.dpo.loss.beta=1"],
            "leave out what chooses it or sets its",
        ),
        (
            ["algorithm=mixture", "algorithm@algorithm.terms.likelihood.algorithm=dpo"],
            "needs one; give it one: +loss@algorithm.terms.likelihood.algorithm.loss=NAME",
        ),
        (["loss=grpo"], "loss: rlx.loss.policy_gradient.token.clipped is not a PreferenceLoss, which CustomDpo reads"),
    ],
)
def test_a_loss_that_nobody_reads_is_refused_with_the_key_to_use(words, said):
    code, message = invoke(words)
    assert code == 2
    assert said in message


def test_a_terms_loss_is_chosen_and_set_below_it():
    cfg = compose("train", ["algorithm=hybrid", "loss@algorithm.dpo.loss=ipo", "algorithm.dpo.loss.beta=0.2"])
    assert (cfg.algorithm.dpo.loss._target_.rpartition(".")[2].lower(), cfg.algorithm.dpo.loss.beta, cfg.loss) == (
        "ipo",
        0.2,
        None,
    )
    assert cfg.algorithm.grpo.loss.clip_low == 0.2


LOSSLESS = """from dataclasses import dataclass
from rlx.algorithm.sft import Sft
@dataclass(frozen=True, kw_only=True)
class Mine(Sft): ...
"""


@pytest.mark.parametrize("option", ["sft", "lossless_term.Mine"])
@pytest.mark.parametrize(("algorithm", "term"), [("hybrid", "dpo"), ("mixture", "terms.preference.algorithm")])
def test_a_term_whose_algorithm_has_no_loss_gets_none(tmp_path, monkeypatch, capsys, algorithm, term, option):
    (tmp_path / "lossless_term.py").write_text(LOSSLESS)
    monkeypatch.syspath_prepend(tmp_path)
    words = [f"algorithm={algorithm}", f"algorithm@algorithm.{term}={option}"]
    composed = composed_line(CommandLine(argv=["train", *words], verb="train", overrides=words))
    assert "loss" not in OmegaConf.select(composed.config, f"algorithm.{term}")
    composed.check(RunConfig)
    assert invoke(["train", *words, "--cfg", "job", "--package", f"algorithm.{term}"]) == (0, "")
    shown = capsys.readouterr().out
    assert "pairs_per_step" in shown
    assert "loss:" not in shown
    assert invoke(["-m", f"algorithm={algorithm}", f"algorithm@algorithm.{term}=dpo,{option}", "sweep.dry_run=true"]) == (0, "")


def test_an_experiment_may_choose_the_loss(tmp_path, monkeypatch, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /algorithm: dpo\n  - override /loss: ipo\nloss:\n  beta: 0.25\n"
    )
    assert invoke(["train", "--config-dir", str(tmp_path), "experiment=mine", "--cfg", "job", "--package", "loss"]) == (0, "")
    assert "beta: 0.25" in capsys.readouterr().out


def test_a_yaml_of_before_is_told_what_to_write_now(tmp_path):
    (tmp_path / "algorithm").mkdir()
    node = "_target_: rlx.algorithm.dpo.Dpo\npairs_per_step: 4\nupdates_per_batch: 1\nmax_grad_norm: 1.0\n"
    (tmp_path / "algorithm" / "mine.yaml").write_text(f"{node}loss: ${{..loss}}\n")
    (tmp_path / "algorithm" / "both.yaml").write_text(
        "defaults:\n  - /algorithm@terms.a.algorithm: dpo\n  - /algorithm@terms.b.algorithm: custom_grpo\n  - _self_\n"
        "_target_: rlx.algorithm.mixture.Mixture\n"
    )
    for words in (["algorithm=mine"], ["algorithm=mine", "loss=ipo"]):
        code, message = invoke(["train", "--config-dir", str(tmp_path), *words])
        assert (code, "`- /loss@_global_.loss: dpo`" in message) == (2, True), message
    assert "`- override /loss@_global_.loss: null`" in invoke(["train", "--config-dir", str(tmp_path), "algorithm=both"])[1]


def test_an_algorithm_without_a_loss_and_without_a_default_asks_for_one(tmp_path, monkeypatch):
    (tmp_path / "lossless_lab.py").write_text(
        "from dataclasses import dataclass\nfrom rlx.algorithm import Algorithm\n"
        "from rlx.loss.preference.base import PreferenceLoss\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Algorithm):\n    loss: PreferenceLoss\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="reads a loss, but none is chosen; choose one: loss=NAME"):
        check_config(compose("train", ["algorithm=lossless_lab.Mine"]), allowed=["lossless_lab.Mine"])
    check_config(compose("train", ["algorithm=lossless_lab.Mine", "loss=ipo"]), allowed=["lossless_lab.Mine"])
