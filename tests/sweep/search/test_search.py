"""A search from the command line: trials with their seeds, pruned, resumed, confirmed, limited."""

import math
import re

import pytest

pytestmark = pytest.mark.whole

pytest.importorskip("optuna")
SPACE = ("sweep=optuna", "algorithm.x=interval(0,1)", "algorithm.y=interval(-3,1)", "sweep.plots=false", "num_steps=2")


def differs(ran):
    return [[word for word in job["overrides"] if word.startswith("algorithm.")] for job in ran.plan["jobs"]]


def test_the_best_is_run_again_on_fresh_seeds(sweep):
    ran = sweep(*SPACE, "sweep.trials=6", "sweep.startup_trials=4", "sweep.confirm=2")
    assert ran.code == 0
    best, jobs = ran.plan["best"], ran.plan["jobs"]
    assert len(jobs) == 6 + 2
    assert best["score"] == max(job["score"] for job in jobs[:6])
    assert best["confirmed_seeds"] == [1, 2]
    assert best["confirmed_score"] == pytest.approx(sum(job["score"] for job in jobs[6:]) / 2)
    assert "6 trials: 6 complete" in ran.out
    assert "on fresh seeds 1,2" in ran.out
    assert "importance: algorithm." in ran.out


def test_a_variant_is_scored_over_its_seeds(sweep):
    ran = sweep(*SPACE, "sweep.trials=3", "sweep.seeds=2", "sweep.startup_trials=3")
    scores = {}
    for job in ran.plan["jobs"]:
        scores.setdefault(job["trial"], []).append(job["score"])
    assert [len(of_seeds) for of_seeds in scores.values()] == [2, 2, 2]
    assert ran.plan["best"]["score"] == pytest.approx(max(sum(of_seeds) / 2 for of_seeds in scores.values()))
    assert ran.plan["best"]["seeds"] == [0, 1]


def test_the_same_command_goes_on_to_n_trials_and_not_n_more(sweep):
    first = sweep(*SPACE, "sweep.trials=3")
    drawn = differs(first)
    again = sweep(*SPACE, "sweep.trials=3")
    assert (again.directory, len(again.steps())) == (first.directory, 6)
    journal = first.directory / "search.log"
    kept = journal.read_text()
    journal.write_text(kept.replace('"values":[', '"values":[1', 1))
    changed = sweep(*SPACE, "sweep.trials=3")
    assert changed.code == 2
    assert re.search(r"of trial \d, and the records of its runs", changed.err), changed.err  # of that which ended first
    journal.write_text(kept)
    more = sweep(*SPACE, "sweep.trials=5")
    assert more.directory == first.directory
    assert differs(more)[:3] == drawn
    assert len(more.plan["jobs"]) == 5
    assert len(more.steps()) == 10


def test_a_failure_or_a_nan_ends_a_trial_and_not_the_search(sweep):
    does = ("algorithm.does=well,kill,not_a_number", "sweep.sampler=grid", "sweep.seeds=2", "sweep.workers=1")
    ran = sweep("sweep=optuna", "sweep.plots=false", *does)
    assert ran.code == 3
    assert "3 trials: 1 complete, 2 fail" in ran.out
    assert ran.plan["best"]["overrides"][-1] == "algorithm.does=well"
    assert math.isfinite(ran.plan["best"]["score"])
    assert ran.states["does-kill_seed-1"] == "pruned"


def test_median_pruner_ends_bad_trials_at_an_evaluation(sweep):
    ran = sweep(
        "sweep=optuna",
        "algorithm.x=0.3,0.31,5,6",
        "sweep.plots=false",
        "sweep.sampler=grid",
        "sweep.workers=1",
        "sweep.pruner=median",
        "sweep.startup_trials=2",
    )
    assert ran.code == 0
    assert list(ran.states.values()) == ["completed", "completed", "pruned", "pruned"]
    assert len(ran.steps("x-5")) < 3
    assert "2 complete, 2 pruned" in ran.out


def test_wilcoxon_spares_bad_variants_their_seeds(sweep):
    ran = sweep(
        "sweep=optuna",
        "algorithm.x=0.3,3,4",
        "sweep.plots=false",
        "sweep.sampler=grid",
        "sweep.workers=1",
        "sweep.seed_pruner=wilcoxon",
        "sweep.seeds=6",
        "num_steps=1",
    )
    assert all(state == "completed" for name, state in ran.states.items() if name.startswith("x-0.3"))
    for x in ("3", "4"):
        states = [state for name, state in ran.states.items() if name.startswith(f"x-{x}_")]
        assert states.count("pruned") >= 1
        assert states[0] == "completed"
    assert ran.plan["best"]["overrides"][-1] == "algorithm.x=0.3"


def test_a_budget_of_tokens_begins_no_further_trial(sweep):
    ran = sweep(*SPACE, "sweep.trials=20", "sweep.max_tokens=250", "sweep.workers=1")
    assert len(ran.plan["jobs"]) == 3  # of 100 tokens each
    assert ran.code == 0


def test_a_budget_of_time_begins_no_further_trial(sweep):
    ran = sweep(*SPACE, "sweep.trials=1000", "sweep.max_seconds=2", "sweep.workers=1", "algorithm.slow=0.2")
    assert 1 <= len(ran.plan["jobs"]) < 20
    assert set(ran.states.values()) == {"completed"}


def test_two_objectives_give_a_front(sweep):
    ran = sweep(
        "sweep=optuna",
        "algorithm.x=range(0.0,0.65,0.1)",
        "sweep.sampler=grid",
        "sweep.objectives=[eval/score,-eval/kl]",
        "num_steps=1",
    )
    assert ran.code == 0
    on_front = [one["differs"][0] for one in ran.plan["best"]["front"]]
    assert sorted(on_front) == [f"algorithm.x={x}" for x in ("0.0", "0.1", "0.2", "0.3")]  # beyond 0.3 both get worse
    assert (ran.directory / "figures" / "pareto_front.png").stat().st_size > 1000


def test_a_search_without_an_interval_or_values_is_refused(sweep):
    assert sweep("sweep=optuna").code == 2
    ran = sweep("sweep=optuna", "algorithm.x=interval(1,0)")
    assert (ran.code, "smaller than the second" in ran.err) == (2, True)
    ran = sweep("sweep=optuna", "algorithm.xx=interval(0,1)")
    assert (ran.code, "did you mean algorithm.x" in ran.err) == (2, True)


def test_whole_numbers_are_drawn_where_the_key_wants_them(sweep):
    ran = sweep("sweep=optuna", "algorithm.n=interval(1,8)")
    assert (ran.code, "'algorithm.n=int(interval(1,8))'" in ran.err) == (2, True)
    ran = sweep("sweep=random", "algorithm.n=int(interval(1,8))", "sweep.trials=20", "sweep.dry_run=true")
    assert ran.code == 0
    drawn = {word.partition("=")[2] for line in ran.out.splitlines() for word in line.split() if word.startswith("algorithm.n=")}
    assert len(drawn) > 3
    assert drawn <= set("12345678")
