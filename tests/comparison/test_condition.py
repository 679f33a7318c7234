import pytest

from rlx.cli.verb.compare import failing_verdict
from rlx.comparison.comparison import compare
from rlx.errors import ConfigError, EvidenceError
from tests.comparison.records import normal_scores, write_sweep

SCORES = {"custom_dpo": normal_scores(0.5, 0.02, 6, seed=1), "hybrid": normal_scores(0.6, 0.02, 6, seed=2)}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("hybrid < custom_dpo", False), ("custom_dpo<hybrid", True), ("hybrid > custom_dpo", True), ("custom_dpo > hybrid", False)],
)
def test_a_verdict_holds_or_not(tmp_path, condition, expected):
    write_sweep(tmp_path, SCORES)
    assert (failing_verdict(condition, compare(tmp_path)) is not None) is expected


def test_equivalence_is_a_condition_with_a_margin(tmp_path):
    write_sweep(tmp_path, SCORES)
    assert failing_verdict("hybrid == custom_dpo", compare(tmp_path, margin=0.5))
    with pytest.raises(ConfigError, match="needs a margin"):
        failing_verdict("hybrid == custom_dpo", compare(tmp_path))


def test_a_verdict_from_few_seeds_is_refused(tmp_path):
    write_sweep(tmp_path, {name: scores[:4] for name, scores in SCORES.items()})
    with pytest.raises(EvidenceError, match="4 seeds carry no verdict"):
        failing_verdict("hybrid < custom_dpo", compare(tmp_path))


@pytest.mark.parametrize(
    "condition",
    [
        "hybrid",
        "hybrid < ",
        "hybrid <= custom_dpo",
        "hybrid=>custom_dpo",
        "hybrid != custom_dpo",
        "hybrid < hybrid",
        "hybrd < custom_dpo",
    ],
)
def test_what_is_no_condition_is_said(tmp_path, condition):
    write_sweep(tmp_path, SCORES)
    with pytest.raises(ConfigError) as refused:
        failing_verdict(condition, compare(tmp_path))
    if "=" in condition:
        assert "write 'a < b'" in str(refused.value)


def test_one_seed_is_said_in_the_singular(tmp_path):
    write_sweep(tmp_path, {name: scores[:1] for name, scores in SCORES.items()})
    with pytest.raises(EvidenceError, match="1 seed carries no verdict"):
        failing_verdict("hybrid < custom_dpo", compare(tmp_path, allow="single"))
