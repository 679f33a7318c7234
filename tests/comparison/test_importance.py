import numpy as np
import pytest

from rlx.comparison.descriptive import importances
from rlx.comparison.refusal import collect
from tests.comparison.records import write_run


def scored(root):
    return collect(root, metric="eval/score", score="last").runs


def write_grid(root, score, *, lrs=(0.1, 0.2, 0.3), betas=(1.0, 2.0), seeds=4, **options):
    rng = np.random.default_rng(0)
    for lr in lrs:
        for beta in betas:
            for seed in range(seeds):
                changes = {"optimizer__lr": lr, "algorithm__weight": beta}
                overrides = [f"optimizer.lr={lr}", f"algorithm.weight={beta}", f"seed={seed}"]
                value = score(lr, beta) + 0.01 * rng.normal()
                write_run(root / f"{lr}_{beta}_{seed}", seed=seed, score=value, overrides=overrides, **changes, **options)
    return root


def test_the_key_that_moves_the_score_explains_it(tmp_path):
    found = importances(scored(write_grid(tmp_path, lambda lr, beta: 0.5 + lr + 0 * beta)))
    assert [item.name for item in found] == ["lr", "weight"]
    assert found[0].share > 0.95
    assert found[0].sensitivity == pytest.approx(0.2, abs=0.02)
    assert found[1].share < 0.1
    assert (found[0].levels, found[0].runs) == (3, 24)


def test_an_interaction_is_owed_to_neither_key(tmp_path):
    found = importances(
        scored(write_grid(tmp_path, lambda lr, beta: 0.5 + (0.1 if (lr > 0.15) == (beta > 1.5) else 0.0), lrs=(0.1, 0.2)))
    )
    assert max(item.share for item in found) < 0.1


def test_a_sampled_number_is_cut_into_quarters(tmp_path):
    rng = np.random.default_rng(1)
    for place in range(40):
        lr, beta = float(rng.uniform()), float(rng.uniform())
        overrides = [f"optimizer.lr={lr}", f"algorithm.weight={beta}"]
        changes = {"optimizer__lr": lr, "algorithm__weight": beta}
        write_run(tmp_path / str(place), score=0.2 + lr / 2, overrides=overrides, **changes)
    found = importances(scored(tmp_path))
    assert (found[0].name, found[0].levels) == ("lr", 4)
    assert found[0].share > 0.8


def test_a_key_that_nobody_swept_is_no_key(tmp_path):
    for place in range(6):
        overrides = [f"optimizer.lr={place}", f"algorithm.weight={place % 2}"]
        changes = {"optimizer__lr": place, "algorithm__weight": place % 2, "policy__path": f"p{place}"}
        write_run(tmp_path / str(place), score=0.1 * place, overrides=overrides, **changes)
    assert {item.name for item in importances(scored(tmp_path))} == {"lr", "weight"}
    one = tmp_path / "one"
    for place in range(4):
        write_run(one / str(place), score=0.1 * place, overrides=[f"optimizer.lr={place}"], optimizer__lr=place)
    assert importances(scored(one)) == []
