"""What `rlx train` hands to the training, and what it makes of how that ends."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

import rlx.training.run
from rlx.cli.main import invoke
from rlx.errors import TrainingError
from rlx.training.stop import Stopped
from tests.comparison.records import write_run

pytestmark = pytest.mark.whole


@pytest.fixture
def training(monkeypatch, tmp_path):
    """A training that does nothing but remember what it was given; `training.error` is raised if there is one."""
    monkeypatch.chdir(tmp_path)
    seen = SimpleNamespace(runs=[], error=None)

    def train(cfg, **options):
        seen.runs.append(SimpleNamespace(cfg=cfg, **options))
        if seen.error is not None:
            raise seen.error

    monkeypatch.setattr(rlx.training.run, "train", train)
    return seen


def test_a_run(training):
    assert invoke(["train", "algorithm=dpo", "seed=3"]) == (0, "")
    (run,) = training.runs
    assert (run.algorithm, run.overrides, run.command) == (
        "dpo",
        ["algorithm=dpo", "seed=3"],
        ["rlx", "train", "algorithm=dpo", "seed=3"],
    )
    assert run.directory is None


def test_a_policy_of_the_latest_run_is_that_run_and_not_the_one_that_begins(training, tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("first")
    assert invoke(["train", "policy=pretrained", "policy.path=runs/latest"]) == (0, "")
    (run,) = training.runs
    assert run.cfg.policy.path == "runs/first"
    assert run.overrides[-1] == run.command[-1] == "policy.path=runs/first"


def test_a_place_of_the_users_own_is_honoured(training, tmp_path):
    assert invoke(["train", "hydra.run.dir=here it is"]) == (0, "")
    assert training.runs[0].directory == tmp_path / "here it is"


def test_jobs_of_a_sweep_have_places_and_commands_of_their_own(training, tmp_path):
    assert invoke(["-m", "hydra/sweeper=basic", "seed=0,1", "algorithm=dpo"]) == (0, "")
    assert [run.command for run in training.runs] == [["rlx", "train", f"seed={seed}", "algorithm=dpo"] for seed in (0, 1)]
    assert [run.directory.name for run in training.runs] == ["0", "1"]
    assert training.runs[0].directory.parent == training.runs[1].directory.parent
    assert training.runs[0].directory.parent.parent == tmp_path / "outputs" / "sweep"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR2, 75)])
def test_a_run_that_was_stopped(training, number, code, capsys):
    training.error = Stopped(7, number)
    training.error.directory = write_run(Path.cwd() / "outputs" / "train" / "mine")
    assert invoke(["train"]) == (code, "")
    assert "resume=outputs/train/mine" in capsys.readouterr().err


def test_a_run_that_failed(training):
    training.error = TrainingError("the loss is not finite")
    assert invoke(["train"]) == (1, "rlx: the loss is not finite")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["+loss.betta=1"], "did you mean loss.beta?"),
        (["loss.beta=x"], "loss.beta=x: it must be a number"),
        (["loss.beta=null"], "it must be a number"),
        (["optimizer.betas=[0.9]"], "optimizer.betas"),
        (["optimizer._target_=os.system"], "optimizer._target_ names os.system, which a config may not call"),
        (["loss._target_=builtins.eval"], "loss._target_ names builtins.eval, which a config may not call"),
        (["+task.label_nois=1"], "did you mean task.label_noise?"),
        (["+loss.modifiers.x._target_=os.system"], "loss.modifiers.x._target_ names os.system, which a config may not call"),
        (["policy.max_length={_target_:os.system,command:x}"], "policy.max_length._target_ names os.system"),
        (["task=preference_file"], "task.path has no value"),
        (["~loss"], "reads a loss, but none is chosen"),
    ],
)
def test_what_only_the_classes_know_is_refused_before_anything_is_loaded(training, argv, message):
    code, text = invoke(["train", *argv])
    assert code == 2, text
    assert message in text
    assert training.runs == []


def test_a_class_of_ones_own(training, tmp_path, monkeypatch):
    (tmp_path / "cwd_lab.py").write_text(
        "from dataclasses import dataclass\nfrom rlx.algorithm.custom_dpo import CustomDpo\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(CustomDpo):\n    extra: float = 0.5\n"
    )
    monkeypatch.setattr("sys.path", list(__import__("sys").path))  # the current directory is put on it
    assert invoke(["train", "algorithm=cwd_lab.Mine", "algorithm.extra=0.1"]) == (0, "")
    assert training.runs[0].cfg.algorithm.extra == 0.1
    assert training.runs[0].algorithm == "cwd_lab.Mine"
    assert invoke(["-m", "hydra/sweeper=basic", "algorithm=cwd_lab.Mine,dpo", "seed=0"]) == (0, "")
    assert [run.algorithm for run in training.runs[1:]] == ["cwd_lab.Mine", "dpo"]
    code, message = invoke(["train", "algorithm=cwd_lab.Mine", "algorithm.extr=0.1"])
    assert (code, "did you mean algorithm.extra?" in message) == (2, True)
