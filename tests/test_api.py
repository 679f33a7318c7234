"""rlx from Python."""

import subprocess
import sys

import pytest

import rlx
from rlx.errors import ConfigError

pytestmark = pytest.mark.whole


def test_importing_rlx_is_cheap():
    code = "import sys, rlx; print([m for m in ('torch', 'numpy', 'hydra', 'omegaconf', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_evidence_wing_from_python_imports_no_torch(tmp_path):
    code = f"import sys, rlx; print(rlx.runs({str(tmp_path)!r}), 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[] False"


def test_load_a_loss():
    loss = rlx.load("loss", "ipo", beta=0.5)
    assert (type(loss).__name__, loss.beta) == ("ipo", 0.5)


def test_load_without_overrides_has_the_values_of_the_yaml():
    assert rlx.load("loss", "dpo").beta == 0.1
    assert rlx.load("task", "arithmetic", max_operand=9).max_operand == 9
    assert rlx.load("scheduler", "linear", warmup_steps=3).warmup_steps == 3
    assert type(rlx.load("logger", "tensorboard")).__name__ == "TensorBoardLogger"


def test_load_an_algorithm_with_its_loss():
    algorithm = rlx.load("algorithm", "custom_dpo", sft_loss_weight=0.5, **{"loss.beta": 0.7})
    assert (algorithm.sft_loss_weight, algorithm.loss.beta) == (0.5, 0.7)


def test_an_object_in_the_place_of_a_node_is_said_with_what_to_give_instead():
    with pytest.raises(ConfigError, match=r"given an object of ipo, .*'_target_': 'rlx\.loss\.preference\.margin\.ipo'"):
        rlx.load("algorithm", "custom_dpo", loss=rlx.load("loss", "ipo"))


def test_load_a_class_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "note_lab.py").write_text(
        "from dataclasses import dataclass\nfrom rlx.loss.preference.margin import dpo\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(dpo):\n    gamma: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loss = rlx.load("loss", "note_lab.Mine", gamma=3.0)
    assert (loss.beta, loss.gamma) == (0.1, 3.0)


def test_a_class_of_ones_own_may_stand_below_the_node(tmp_path, monkeypatch):
    (tmp_path / "game_lab.py").write_text(
        "from rlx.task.environment import Environment\n\n\n"
        "class Game(Environment):\n"
        "    def __init__(self, highest: int = 9):\n        self.highest = highest\n\n"
        "    def start(self, prompt, seed):\n        return '1'\n\n"
        "    def step(self, completion):\n        raise NotImplementedError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = rlx.load("task", "environment", environment={"_target_": "game_lab.Game", "highest": 7})
    assert (type(task.environment).__name__, task.environment.highest, task.name) == ("Game", 7, "game_lab.Game")
    with pytest.raises(ConfigError, match=r"names os\.system, which a config may not call"):
        rlx.load("task", "environment", environment={"_target_": "os.system"})


@pytest.mark.parametrize(
    ("group", "name", "overrides", "message"),
    [
        ("los", "ipo", {}, "did you mean loss"),
        ("loss", "ipoo", {}, "did you mean ipo"),
        ("loss", "ipo", {"betta": 1}, r"loss\.betta is not a key of ipo; did you mean loss\.beta"),
        ("loss", "ipo", {"beta": "x"}, "a number"),
        ("loss", "ipo", {"beta": -1.0}, "beta"),
        ("loss", "os.system", {}, "neither a subclass of Loss"),
        ("task", "arithmetik", {}, "did you mean arithmetic"),
    ],
)
def test_load_says_what_is_wrong(group, name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        rlx.load(group, name, **overrides)


@pytest.mark.parametrize(
    ("overrides", "message"), [(["loss.betta=1"], "loss.beta"), (["seed=x"], "whole number"), (["loss=ippo"], "did you mean ipo")]
)
def test_train_says_what_is_wrong(overrides, message):
    with pytest.raises(ConfigError, match=message):
        rlx.train(overrides)


@pytest.mark.parametrize(("overrides", "callbacks"), [("num_steps=3", []), ([], print)])
def test_one_word_in_the_place_of_a_list_is_said(overrides, callbacks):
    with pytest.raises(ConfigError, match=r'a list: rlx\.train\(\["num_steps=3"\], callbacks=\[print\]\)'):
        rlx.train(overrides, callbacks=callbacks)


def test_train_hands_over_the_checked_config(monkeypatch):
    import rlx.training.run

    seen = {}
    monkeypatch.setattr(rlx.training.run, "train", lambda cfg, **options: seen.update(options, seed=cfg.seed) or "the result")
    assert rlx.train(["seed=4", "loss=ipo"]) == "the result"
    assert (seen["seed"], seen["algorithm"], seen["overrides"]) == (4, "custom_dpo", ["seed=4", "loss=ipo"])


@pytest.mark.whole
def test_steps_are_told_and_nothing_is_printed(tmp_path, monkeypatch, capfd):
    from tests.training.conftest import SMALL

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    seen = []
    result = rlx.train([*SMALL, "evaluation.num_prompts=40"], callbacks=[lambda *told: seen.append(told)], quiet=True)
    printed, said = capfd.readouterr()
    assert printed == ""
    assert all(line.startswith("warning:") for line in said.splitlines())
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert all("train/loss" in metrics for _, metrics in seen)
    assert seen[-1][1]["eval/score"] == result.performance_metrics["eval/score"]

    def stop(step, metrics):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        rlx.train(SMALL, callbacks=[stop], quiet=True)
    assert {run.status for run in rlx.runs("outputs")} == {"completed", "failed"}
    assert {run.status for run in rlx.runs("outputs", where="status=failed")} == {"failed"}
