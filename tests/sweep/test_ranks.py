"""A job of a sweep that two processes train."""

import json

import pytest
from omegaconf import OmegaConf

from rlx.cli.main import main
from rlx.errors import ConfigError
from rlx.parallel.launch import Outcome
from rlx.record.run import read_run
from rlx.sweep import job, ranks
from tests.training.conftest import SMALL


@pytest.mark.whole
def test_a_sweep_trains_each_job_with_two_ranks(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from rlx.algorithm.custom_dpo import CustomDpo\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(CustomDpo):\n"
        "    extra: float = 1.0\n"
    )
    own = [
        "algorithm=mine.Mine",
        "num_steps=2",
        "sweep.ranks_per_job=2",
        "sweep.workers=1",
        "sweep.name=two",
        "sweep.compare=false",
    ]
    assert main(["-m", *SMALL, *own, "parallel.timeout=120"]) == 0, capfd.readouterr()
    states = json.loads((tmp_path / "outputs/sweep/two/sweep.json").read_text())["jobs"]
    assert [state["state"] for state in states] == ["completed"]
    run = read_run(tmp_path / "outputs/sweep/two" / states[0]["name"])
    assert (run.status, run.config["ranks"]) == ("completed", 2)


def test_ranks_of_a_single_run_are_refused_in_a_sweep(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *SMALL, "ranks=2", "seed=0,1", "sweep.dry_run=true"]) == ConfigError.exit_code
    assert "in a sweep set sweep.ranks_per_job=2" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["nodes", "tasks_per_node"])
def test_a_job_over_several_tasks_of_a_launcher_is_refused(tmp_path, monkeypatch, capfd, key):
    monkeypatch.chdir(tmp_path)
    words = ["hydra/launcher=submitit_local", f"hydra.launcher.{key}=2", "seed=0,1", "sweep.dry_run=true"]
    assert main(["-m", *SMALL, *words]) == ConfigError.exit_code
    assert f"hydra.launcher.{key}=2: every task of a job would run the whole of it" in capfd.readouterr().err


def test_a_pruner_is_refused_with_several_ranks(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["sweep=optuna", "sweep.pruner=median", "sweep.ranks_per_job=2", "optimizer.lr=interval(0.1,0.2)"]
    assert main(["-m", *SMALL, *words]) == ConfigError.exit_code
    assert "sweep.pruner=median ends jobs of one process alone" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "message", "state", "reason"),
    [
        (75, "", "interrupted", "its ranks ended with exit code 75"),
        (1, "rlx: rank 1 was killed by SIGKILL\nmore", "failed", "rank 1 was killed by SIGKILL"),
    ],
)
def test_how_the_ranks_ended_is_how_the_job_did(tmp_path, monkeypatch, capfd, code, message, state, reason):
    monkeypatch.setattr(ranks, "launch", lambda *_, **__: Outcome(code, message))
    cfg = OmegaConf.create({"ranks": 1, "threads": None, "parallel": {"timeout": 5}})
    done = job._of_ranks(cfg, 2, {"directory": tmp_path / "none"})
    assert (done.state, done.reason) == (state, reason)
