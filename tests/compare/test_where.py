import pytest

from rlx.compare.scores import collect
from rlx.compare.where import keep
from rlx.errors import ConfigError
from tests.compare.records import write_run


@pytest.fixture
def runs(tmp_path):
    for seed in range(4):
        write_run(tmp_path / f"a{seed}", seed=seed, score=0.1 * seed, optimizer__lr=0.1 if seed < 2 else 0.001)
    return collect(tmp_path, metric="eval/score", score="last").runs


@pytest.mark.parametrize(
    ("where", "seeds"),
    [
        (None, [0, 1, 2, 3]),
        ("seed<2", [0, 1]),
        ("lr=1e-3", [2, 3]),
        ("optimizer.lr!=0.1 and seed>2", [3]),
        ("score>=0.2, algorithm=custom_dpo", [2, 3]),
        ("task=other", []),
        ("stop_at_score=null", [0, 1, 2, 3]),
    ],
)
def test_conditions(runs, where, seeds):
    assert [run.seed for run in keep(runs, where)] == seeds


@pytest.mark.parametrize(
    ("where", "message"), [("nonsense", "is no condition"), ("optimizer.lrr=1", "did you mean optimizer.lr")]
)
def test_what_is_no_condition_is_said(runs, where, message):
    with pytest.raises(ConfigError, match=message):
        keep(runs, where)
