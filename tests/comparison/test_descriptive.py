import numpy as np
import pytest

from rlx.comparison.comparison import compare
from tests.comparison.records import write_run


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    root = tmp_path_factory.mktemp("searched")
    for lr in (0.1, 0.2, 0.4):
        for seed in range(5):
            score = 0.5 + lr / 2 + seed / 100
            write_run(root / f"{lr}{seed}", seed=seed, optimizer__lr=lr, score=score, tokens=100, kl=lr)
    write_run(root / "broken", seed=5, optimizer__lr=0.1, status="failed", score=None, curve=[0.3, 0.1, 0.05])
    return compare(root)


def test_curves_hold_every_run_and_average_the_completed_ones(searched):
    curve = next(c for c in searched.curves if c.variant.endswith("0.1"))
    assert curve.steps.tolist() == [0, 25, 50, 75, 100]
    assert curve.mean[-1] == pytest.approx(0.57)
    assert len(curve.runs) == 6
    assert np.isfinite(curve.low).all()


def test_the_effect_of_a_swept_key_is_over_seeds(searched):
    points = [(s.value, s.n, round(s.mean, 3)) for s in searched.settings]
    assert points[1:] == [(0.2, 5, 0.62), (0.4, 5, 0.72)]
    assert searched.settings[0].name == "lr"


def test_a_search_is_told_by_its_trials_and_its_cost(searched):
    search = searched.searches[0]
    assert (search.algorithm, search.trials) == ("custom_dpo", 3)
    assert search.expected[-1] == pytest.approx(0.72)
    assert search.tokens == 500


def test_profiles_share_their_thresholds(searched):
    assert len(searched.profiles) == 3
    assert all(
        profile.thresholds is not None and profile.share[0] == 1 and profile.share[-1] == 0 for profile in searched.profiles
    )


def test_differences_of_configs_are_by_key_and_variant(searched):
    assert searched.config_differences["optimizer.lr"]["custom_dpo lr=0.1"] == [0.1]
    assert set(searched.config_differences) == {"optimizer.lr"}
