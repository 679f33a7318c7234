import pytest

from rlx.comparison.comparison import compare
from tests.comparison.records import normal_scores, write_run, write_sweep


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    """Three algorithms of 8 seeds and one failed run."""
    root = tmp_path_factory.mktemp("sweep")
    scores = {"custom_dpo": (0.5, 0.02), "hybrid": (0.6, 0.03), "grpo": (0.51, 0.02)}
    write_sweep(root, {name: normal_scores(*size, 8, seed=place) for place, (name, size) in enumerate(scores.items())})
    write_run(root / "broken", algorithm="grpo", seed=9, status="failed", score=None, curve=[0.3, 0.2])
    return root


@pytest.fixture(scope="session")
def comparison(sweep):
    return compare(sweep)
