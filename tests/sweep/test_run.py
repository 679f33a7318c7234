"""A sweep as a whole: planned before it runs, nothing lost, resumed, and its exit code."""

import json
import shlex
import signal

import pytest

from rlx.cli import main
from rlx.sweep.pool.pool import Pool

pytestmark = pytest.mark.whole


def test_a_grid_with_its_seeds(sweep):
    ran = sweep("algorithm.x=0,0.25", "seed=range(0,3)")
    assert ran.code == 0
    assert list(ran.states) == [f"x-{x}_seed-{seed}" for x in ("0", "0.25") for seed in (0, 1, 2)]
    assert set(ran.states.values()) == {"completed"}
    assert ran.plan["status"] == "completed"
    best = ran.plan["best"]
    assert (best["variant"], best["seeds"]) == ("wild.Wild algorithm.x=0.25 eval_every=1 num_steps=3", [0, 1, 2])
    assert best["score"] == pytest.approx(sum(job["score"] for job in ran.plan["jobs"][3:]) / 3)
    assert "6 completed" in ran.out


def test_the_whole_plan_is_written_before_the_first_job(sweep, monkeypatch):
    seen = {}

    def at_the_start(self, size, **facts):
        (plan,) = __import__("pathlib").Path("outputs/sweep").glob("2*/sweep.json")
        seen.update(json.loads(plan.read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr("rlx.sweep.pool.pool.Pool.set_up", at_the_start)
    assert sweep("algorithm.x=0,1", "seed=0,1").code == 130
    assert [job["state"] for job in seen["jobs"]] == ["waiting"] * 4
    assert all("seed=" in " ".join(job["overrides"]) for job in seen["jobs"])


def test_a_signal_before_the_first_job_says_how_to_go_on(sweep, monkeypatch):
    def planned(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlx.sweep.run.plan_sweep", planned)
    early = sweep("algorithm.x=0,1")
    assert (early.code, early.err) == (130, "rlx: stopped by SIGINT before anything was saved; run it again\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_as_the_pool_is_set_up_says_how_to_go_on(sweep, monkeypatch, number, code):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process that runs tests for another one ignores it
    with monkeypatch.context() as patched:
        patched.setattr(Pool, "set_up", lambda self, size, **facts: signal.raise_signal(number))
        ran = sweep("algorithm.x=0,1")
    signal.signal(signal.SIGINT, before)
    assert ran.code == code
    assert ran.err.splitlines()[0] == f"stopped by {signal.Signals(number).name}"
    command = shlex.split(ran.err.partition(": ")[2].partition(" (or")[0])
    assert command[:2] == ["rlx", "-m"]
    assert (ran.plan["status"], ran.plan["error"]) == ("interrupted", f"stopped by {signal.Signals(number).name}")
    assert sweep(*command[2:], plain=True).code == 0


def test_processes_begin_while_the_plan_is_made_and_end_with_a_mistake_in_it(sweep, monkeypatch):
    pools = []

    def watched(self):
        started(self)
        pools.append((self, [worker.process for worker in self.workers]))

    started = Pool.start
    monkeypatch.setattr(Pool, "start", watched)
    assert sweep("algorithm.x=0,much").code == 2
    ((pool, processes),) = pools
    assert (len(processes), pool.workers) == (2, [])
    assert all(process.poll() is not None for process in processes)


def test_no_more_processes_begin_than_there_are_jobs(sweep, monkeypatch):
    sizes = []
    monkeypatch.setattr(Pool, "start", lambda self: sizes.append(self.size))
    sweep("algorithm.x=0,much", "sweep.workers=9")
    sweep("algorithm.x=0,much", "seed=0,1", "sweep.workers=9")
    sweep("algorithm.x=0,1", "sweep.dry_run=true")
    assert sizes == [2, 4]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("algorithm.x=0,much", "algorithm.x"),
        ("algorithm.xx=0,1", "did you mean algorithm.x"),
        ("optimizer=adamw,adamv", "adamw"),
        ("seed=0,-1", "seed"),
        ("seed=interval(0,4)", "repeats"),
        ("algorithm.x=interval(0,1)", "sweep=random or sweep=optuna"),
    ],
)
def test_a_mistake_in_the_last_job_is_told_before_the_first(sweep, place, wrong, said):
    ran = sweep(wrong)
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not (place / "outputs").exists()


def test_dry_run_shows_the_plan_and_runs_nothing(sweep, place):
    ran = sweep("algorithm.x=0,0.5", "seed=0,1,2", "sweep.dry_run=true")
    assert ran.code == 0
    assert "6 jobs: 2 variants x 3 seeds" in ran.out
    assert [line.split()[-2:] for line in ran.out.splitlines()[-6:]] == [
        [f"algorithm.x={x}", f"seed={seed}"] for x in ("0", "0.5") for seed in (0, 1, 2)
    ]
    assert not (place / "outputs").exists()


def test_whatever_happens_to_some_jobs_the_others_run(sweep):
    ran = sweep("algorithm.does=well,raise,kill,hang,exit,not_a_number", "seed=0,1", "sweep.timeout=4", "sweep.grace=0.5")
    assert ran.code == 3
    assert {name: state for name, state in ran.states.items() if state != "failed"} == {
        f"does-{does}_seed-{seed}": "completed" for does in ("well", "not_a_number") for seed in (0, 1)
    }
    reasons = {job["name"].partition("_")[0]: job["reason"] for job in ran.plan["jobs"]}
    assert reasons["does-raise"] == "RuntimeError: boom"
    assert "killed by SIGKILL" in reasons["does-kill"]
    assert "timeout" in reasons["does-hang"]
    assert "sweep.timeout" in reasons["does-hang"]
    assert "code 7" in reasons["does-exit"]
    assert "about to misbehave" in ran.job("does-kill_seed-0")["log_tail"]
    assert "8 of 12 jobs failed" in ran.err
    assert all(name.rpartition("_")[0] in ran.err for name, state in ran.states.items() if state == "failed")
    assert len(ran.steps("does-well")) == 6
    assert "resume=" in ran.err
    assert ran.plan["best"]["variant"].startswith("wild.Wild algorithm.does=well")


def test_a_failed_job_reads_as_failed_in_its_own_record(sweep):
    ran = sweep("algorithm.does=kill,hang", "sweep.timeout=4", "sweep.grace=0.5")
    for does, word in (("kill", "SIGKILL"), ("hang", "timeout")):
        record = ran.record(f"does-{does}")
        assert record.status == "failed"
        assert word in record.error["message"]


def test_the_same_command_again_runs_nothing_twice(sweep):
    first = sweep("algorithm.does=well,kill", "seed=0,1")
    assert len(first.steps("does-well")) == 6
    second = sweep("algorithm.does=well,kill", "seed=0,1")
    assert second.directory == first.directory
    assert len(second.steps("does-well")) == 6
    assert second.job("does-kill_seed-0")["attempts"] == 2
    assert second.steps("does-kill_seed-0") == [f"{second.job('does-kill_seed-0')['name']} {step}" for step in (1, 2, 3)]
    assert set(second.states.values()) == {"completed"}
    third = sweep("algorithm.does=well,kill", "seed=0,1")
    assert (third.code, third.directory, len(third.steps())) == (0, first.directory, 12)


def test_resume_names_the_sweep(sweep):
    first = sweep("algorithm.does=kill", "seed=0,1", "sweep.name=mine")
    assert first.code == 3
    second = sweep("resume=outputs/sweep/mine", "algorithm=wild.Wild", plain=True)
    assert second.code == 0
    assert second.directory.name == "mine" or set(second.states.values()) == {"completed"}


def test_new_begins_anew(sweep):
    first = sweep("seed=0,1")
    second = sweep("seed=0,1", "sweep.new=true")
    assert second.directory != first.directory
    assert len(second.steps()) == 6


def test_retries(sweep):
    ran = sweep("algorithm.does=raise_once,well", "sweep.retries=1")
    assert (ran.code, ran.job("does-raise_once")["attempts"]) == (0, 2)
    assert "retried" in ran.out


def test_on_failure_stop_begins_no_other(sweep):
    ran = sweep("algorithm.does=raise", "seed=range(0,5)", "sweep.on_failure=stop", "sweep.workers=1")
    assert ran.code == 3
    assert list(ran.states.values()) == ["failed"] + ["waiting"] * 4


def test_named_experiments_and_paired_values(sweep, place):
    folder = place / "mine" / "experiment"
    folder.mkdir(parents=True)
    for name, x in (("low", 0.1), ("high", 0.9)):
        (folder / f"{name}.yaml").write_text(f"# @package _global_\nalgorithm:\n  x: {x}\n")
    ran = sweep("--config-dir", str(place / "mine"), "experiment=low,high")
    assert ran.code == 0
    assert [ran.record(name).config["algorithm"]["x"] for name in ("experiment-low", "experiment-high")] == [0.1, 0.9]
    paired = sweep("algorithm.x=0,1", "algorithm.y=5,6", "sweep.zip=[algorithm.x,algorithm.y]")
    assert list(paired.states) == ["x-0_y-5_seed-0", "x-1_y-6_seed-0"]


def test_random_search_draws_the_same_and_more(sweep):
    few = sweep("sweep=random", "sweep.trials=3", "algorithm.x=interval(0,1)", "algorithm.y=tag(log,interval(0.001,1))")
    more = sweep("sweep=random", "sweep.trials=5", "algorithm.x=interval(0,1)", "algorithm.y=tag(log,interval(0.001,1))")
    drawn = [[word for word in job["overrides"] if word.startswith("algorithm.")] for job in more.plan["jobs"]]
    assert [job["overrides"] for job in few.plan["jobs"]] == [job["overrides"] for job in more.plan["jobs"][:3]]
    assert len({tuple(words) for words in drawn}) == 5
    assert all(0.001 <= float(words[-1].partition("=")[2]) <= 1 for words in drawn)


def test_a_completed_run_from_elsewhere_is_reused(sweep):
    first = sweep("algorithm.x=0,0.5", "sweep.name=first")
    second = sweep("algorithm.x=0.5,1", "sweep.name=second", "sweep.reuse=true")
    assert second.job("x-0.5")["reused_from"].endswith(first.job("x-0.5")["name"])
    assert second.job("x-0.5")["score"] == first.job("x-0.5")["score"]
    assert {line.split()[0] for line in second.steps()} == {second.job("x-1")["name"]}
    assert set(second.states.values()) == {"completed"}


def test_an_edit_meanwhile_mixes_nothing(sweep, place, monkeypatch):
    import sys

    (place / "idea.py").write_text("from wild import Wild as Base\n\nclass Idea(Base):\n    pass\n")
    ran = sweep("algorithm=idea.Idea", "num_steps=3", "logger=[]", "sweep.compare=false", "seed=0,1", plain=True)
    sys.modules.pop("idea", None)
    assert ran.code == 0
    kept = list((ran.directory / "sources").rglob("idea.py"))
    assert [file.read_text() for file in kept] == [(place / "idea.py").read_text()]


def test_two_sweeps_of_the_same_second(sweep, monkeypatch):
    monkeypatch.setattr("rlx.sweep.directory.stamped_name", lambda token: f"2026-01-01_00-00-00_{token}")
    first, second = (sweep("seed=0,1", "sweep.new=true") for _ in range(2))
    assert first.directory != second.directory
    assert len(first.steps()) == len(second.steps()) == 6


def test_a_sweep_that_is_running_is_not_joined(sweep, place):
    import fcntl

    first = sweep("seed=0,1", "sweep.name=busy")
    with open(first.directory / ".lock", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkey = sweep("seed=0,1", "sweep.name=busy", "sweep.grace=0")
    assert monkey.code == 2
    assert "is running" in monkey.err


def test_a_single_run_takes_no_settings_of_a_sweep(place):
    code, message = main.invoke(["train", "algorithm=wild.Wild", "sweep.nonsense=1", "--cfg", "job"])
    assert code == 2
    assert "sweep.nonsense" in message
