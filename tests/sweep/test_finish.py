"""The end of a sweep: its exit code, what is printed, and the comparison of its variants."""

import json
import signal

import pytest

from rlx.sweep.finish import finish_sweep
from rlx.sweep.state import JobState, SweepState
from tests.comparison.records import write_run
from tests.sweep.search.test_study import settings


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A sweep of two variants and two seeds whose jobs ended as told."""
    monkeypatch.chdir(tmp_path)

    def make(*states):
        jobs = {}
        for place, state in enumerate(states):
            name, seed, beta = f"job{place}", place % 2, 0.1 + place // 2
            overrides = ["algorithm=dpo", f"loss.beta={beta}", f"seed={seed}"]
            score = 0.5 + 0.1 * place
            if state == "completed":
                values = {"loss__beta": beta, "algorithm__loss__beta": beta}
                write_run(tmp_path / name, algorithm="dpo", seed=seed, score=score, overrides=overrides, **values)
            job = JobState(name, f"dpo loss.beta={beta}", seed, overrides, name, state=state)
            job.score = score if state == "completed" else None
            job.reason = "because" if state == "failed" else None
            jobs[name] = job
        return SweepState(tmp_path, {"command": ["rlx", "-m", "seed=0,1"]}, jobs)

    return make


def ended(state, asked=None, **changes):
    return finish_sweep(state, settings(**{"compare": False, **changes}), asked, is_group=lambda key: key == "algorithm")


@pytest.mark.parametrize(
    ("states", "asked", "code", "status"),
    [
        (["completed"] * 4, None, 0, "completed"),
        (["completed", "completed", "failed", "completed"], None, 3, "failed"),
        (["completed", "waiting"], None, 3, "interrupted"),
        (["completed", "interrupted"], signal.SIGINT, 130, "interrupted"),
        (["completed", "interrupted"], signal.SIGTERM, 75, "interrupted"),
        (["completed", "pruned"], None, 0, "completed"),
    ],
)
def test_exit_codes(finished, tmp_path, states, asked, code, status, capsys):
    assert ended(finished(*states), asked) == code
    assert json.loads((tmp_path / "sweep.json").read_text())["status"] == status
    assert ("rlx -m resume=" in capsys.readouterr().err) == (code != 0)


def test_it_ends_with_the_comparison_of_its_variants(finished, capsys):
    assert ended(finished(*["completed"] * 4), compare=True) == 0
    out = capsys.readouterr().out
    assert "2 variants, 4 runs" in out
    assert "dpo loss.beta=1.1" in out


def test_a_comparison_that_cannot_be_made_says_why(finished, tmp_path, capsys):
    state = finished("completed", "completed")
    for job in ("job0", "job1"):
        (tmp_path / job / "metrics.jsonl").write_text("torn")
        (tmp_path / job / "run.json").write_text("torn")
    assert ended(state, compare=True) == 0
    assert "no comparison" in capsys.readouterr().err


def test_best_yaml_waits_for_the_whole_sweep(finished, tmp_path):
    ended(finished("completed", "completed", "interrupted", "waiting"))
    assert not (tmp_path / "best.yaml").exists()


def test_best_yaml_is_the_winner(finished, tmp_path):
    ended(finished(*["completed"] * 4))
    text = (tmp_path / "best.yaml").read_text()
    assert "beta: 1.1" in text
    assert "override /algorithm: dpo" in text
