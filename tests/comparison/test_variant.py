import numpy as np
import pytest

from rlx.comparison.choices import Choices
from rlx.comparison.grouping import group
from rlx.comparison.refusal import collect
from rlx.comparison.scores import count_failures
from rlx.comparison.variant import arm_of, summarise
from tests.comparison.records import write_run


def rows(path, tasks=("arithmetic",)):
    runs = group(collect(path, metric="eval/score", score="last").runs, by=("algorithm",)).runs
    counted = count_failures(runs, failed="worst")
    arm = arm_of("custom_dpo", counted, tasks)
    return arm, summarise(arm, runs, counted, tasks, Choices.declared(num_resamples=200), np.random.default_rng(0))


def test_a_seeds_runs_of_several_settings_are_one_number(tmp_path):
    for seed in (0, 1):
        for lr in (0.1, 0.2):
            write_run(tmp_path / f"{seed}{lr}", seed=seed, optimizer__lr=lr, score=0.5 + seed / 10 + lr / 2)
    arm, row = rows(tmp_path)
    assert arm.scores[0] == pytest.approx([0.575, 0.675])
    assert (row.n, row.runs, row.seeds) == (2, 4, (0, 1))


def test_costs_are_means_over_completed_runs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, score=0.5 + seed / 10, tokens=1000 * (seed + 1), kl=0.1 * (seed + 1))
    write_run(tmp_path / "x", seed=2, status="failed", score=None, tokens=10**9)
    _, row = rows(tmp_path)
    assert (row.tokens, row.kl, row.steps, row.failed, row.imputed) == (1500, pytest.approx(0.15), 100, 1, 1)
    assert row.area_under_curve == pytest.approx(np.mean([0.4, 0.45]))
    assert row.evaluation_error == pytest.approx(np.mean(np.sqrt([0.25 / 511, 0.24 / 511])))


def test_one_seed_has_a_mean_and_no_interval(tmp_path):
    write_run(tmp_path / "a", score=0.5)
    _, row = rows(tmp_path)
    assert (row.mean, row.interval, row.iqm_interval) == (0.5, None, None)
    assert np.isnan(row.std)


def test_the_spread_over_tasks_is_within_tasks(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"e{seed}", seed=seed, task="easy", score=0.9 + seed / 100)
        write_run(tmp_path / f"h{seed}", seed=seed, task="hard", score=0.1 + seed / 100)
    _, row = rows(tmp_path, tasks=("easy", "hard"))
    assert row.std == pytest.approx(np.std([0, 0.01], ddof=1))
    assert row.scores_by_task == {"easy": (0.9, 0.91), "hard": (0.1, 0.11)}
    assert row.optimality_gap == pytest.approx(1 - row.mean)


def test_runs_that_agree_in_every_metric_are_the_same_run(tmp_path):
    for seed in range(3):
        write_run(tmp_path / str(seed), seed=seed, score=0.5, noise=0.0)
    assert rows(tmp_path)[0].same_run
    write_run(tmp_path / "other", seed=3, score=0.5, noise=1.0)
    assert not rows(tmp_path)[0].same_run
