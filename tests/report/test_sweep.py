"""How a sweep looks while it runs, and what is said of its plan and its failures."""

import io
import os
from dataclasses import dataclass

import pytest
from rich.console import Console

from rlx.report.sweep import SweepView, lasting_console, outcome, plan_lines, print_failures
from rlx.sweep.pool.worker import output_into


@dataclass
class Job:
    name: str
    state: str = "waiting"
    score: float | None = None
    step: int | None = None
    num_steps: int | None = 10
    reason: str | None = None
    seconds: float | None = None
    log_tail: str | None = None
    variant: str = "v"
    seed: int = 0
    overrides: tuple = ()


def view(jobs, *, terminal, total=None):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False, color_system=None)
    return SweepView({job.name: job for job in jobs}, workers=2, total=total or len(jobs), console=console), out


def test_without_a_terminal_there_is_a_line_for_each_job_that_ends():
    jobs = [Job("a"), Job("b"), Job("c")]
    shown, out = view(jobs, terminal=False)
    shown.start(["sweep of 3 jobs"])
    jobs[0].state, jobs[0].score, jobs[0].seconds = "completed", 0.61, 12.0
    shown.ended(jobs[0])
    jobs[1].state, jobs[1].reason, jobs[1].seconds = "failed", "boom\nat once", 1.0
    shown.ended(jobs[1])
    shown.note("stopping")
    shown.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "sweep of 3 jobs"
    assert lines[1].startswith("[1/3] a: completed, score 0.61, 12 s  left")
    assert lines[2].startswith("[2/3] b: failed, 1 s: boom")
    assert lines[3] == "stopping"
    assert "\x1b" not in out.getvalue()


def test_in_a_narrow_terminal_the_name_is_cut_and_not_the_figures():
    jobs = [Job("n" * 57, "completed", 0.1234, 10), Job("m" * 57, "running", 0.5678, 4)]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, highlight=False, color_system=None)
    shown = SweepView({job.name: job for job in jobs}, workers=2, console=console)
    shown.start([])
    shown.ended(jobs[0])
    shown.refresh()
    shown.close()
    rows = [line for line in out.getvalue().splitlines() if "nnn" in line or "mmm" in line]
    assert all(".." in row for row in rows)
    assert any("completed" in row and "10/10" in row and "0.1234" in row for row in rows)
    assert any("running" in row and "4/10" in row and "0.5678" in row for row in rows)


def test_a_lasting_console_is_not_redirected_with_the_output_of_a_job(tmp_path, capfd):
    console = lasting_console()
    with output_into(tmp_path / "log"):
        console.print("the sweep")
        os.system("echo the job")
    assert capfd.readouterr().out == "the sweep\n"
    assert (tmp_path / "log").read_text() == "the job\n"


def test_in_a_terminal_there_is_a_table_of_what_runs():
    jobs = [Job("done", "completed", 0.5, 10, seconds=3.0), Job("runs", "running", 0.25, 4), Job("waits")]
    shown, out = view(jobs, terminal=True)
    shown.start([])
    shown.refresh()
    shown.close()
    text = out.getvalue()
    assert "runs" in text
    assert "4/10" in text
    assert "0.25" in text
    assert "1/3 ended  1 running  1 waiting" in text


def test_time_left_is_guessed_from_the_jobs_that_ended(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("rlx.report.sweep.time.monotonic", lambda: clock[0])
    jobs = [Job(name) for name in "abcd"]
    shown, _ = view(jobs, terminal=False)
    assert shown.seconds_left() is None
    clock[0] += 10
    jobs[0].state = "completed"
    shown.ended(jobs[0])
    assert shown.seconds_left() == pytest.approx(30)
    search, _ = view([jobs[0]], terminal=False, total=5)  # a search does not know its jobs yet
    search.ended(jobs[0])
    clock[0] += 10
    assert search.seconds_left() == pytest.approx(40)


def test_an_outcome_in_a_line():
    assert outcome(Job("a", "completed", 0.5, seconds=12.0)) == "completed, score 0.5, 12 s"
    assert outcome(Job("a", "pruned", reason="pruned after step 3")) == "pruned: pruned after step 3"


def test_a_plan_says_what_all_share_once():
    jobs = [Job(f"j{seed}", seed=seed, overrides=("num_steps=3", "loss.beta=0.1", f"seed={seed}")) for seed in range(3)]
    assert plan_lines(jobs) == [
        "3 jobs: 1 variant x 3 seeds",
        "  all: num_steps=3 loss.beta=0.1",
        "     0  j0  seed=0",
        "     1  j1  seed=1",
        "     2  j2  seed=2",
    ]
    assert plan_lines(jobs[:1])[1].endswith("num_steps=3 loss.beta=0.1 seed=0")
    long = [Job(f"j{seed}", seed=seed, overrides=("k=" + "x" * 9999, f"k{seed}=" + "y" * 9999)) for seed in range(2)]
    assert max(map(len, plan_lines(long))) < 200


def test_failures_are_named_and_each_reason_shows_one_log():
    jobs = [Job("ok", "completed")]
    jobs += [Job(f"bad{number}", "failed", reason="boom", log_tail=f"log {number}") for number in range(2)]
    jobs += [Job("killed", "failed", reason="SIGKILL", log_tail="last words"), Job("silent", "failed")]
    out = io.StringIO()
    print_failures(jobs, place="outputs/sweep/x", file=out)
    text = out.getvalue()
    assert "4 of 5 jobs failed" in text
    assert all(name in text for name in ("bad0", "bad1", "killed", "silent", "no reason was left"))
    assert "log 0" in text
    assert "log 1" not in text
    assert "outputs/sweep/x/killed/job.log" in text
    quiet = io.StringIO()
    print_failures(jobs[:1], place="x", file=quiet)
    assert quiet.getvalue() == ""
