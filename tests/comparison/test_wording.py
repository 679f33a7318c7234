from dataclasses import dataclass, replace

import pytest

from rlx.comparison.comparison import judge
from rlx.comparison.statistics.crossed import Components, Halving
from rlx.comparison.wording import VERDICTS, conclusion, halving_sentence, join_names, probability, score_text
from tests.comparison.test_comparison import BASE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.12345, "0.123"), (0.0012345, "0.0012"), (0.00012, "0.000120"), (0.0, "0.000"), (None, "-"), (float("nan"), "-")],
        *[(1234.5, "1234"), (150.26, "150.3")],
    ],
)
def test_numbers_keep_what_can_be_seen(value, text):
    assert score_text(value) == text


def test_signs_and_probabilities():
    assert score_text(0.5, signed=True) == "+0.500"
    assert (probability(0.0), probability(0.04999), probability(None)) == ("<0.001", "0.050", "none")


def test_names_in_a_row():
    assert join_names(["a"]) == "a"
    assert join_names(["a", "b", "c"]) == "a, b and c"
    assert join_names(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"


def test_nothing_is_ever_called_not_significant():
    for changes in ({}, {"p": 0.9}, {"p": None}, {"n_a": 3}, {"p_equivalent": 0.0, "margin": 1.0}):
        words = judge([replace(BASE, **changes)])[0].words
        assert "significant" not in words
        assert words.endswith(".")


@pytest.mark.parametrize(
    ("halving", "text"),
    [
        (Halving(902, None, 2.8), "902 seeds each instead of 8 or 2.8 times both would halve the interval. More prompts"),
        (Halving(902, 9000, 2.8), "902 seeds each instead of 8, 9000 prompts instead of 64 or 2.8 times both would halve"),
        (Halving(40, None, 2.8), "40 seeds each instead of 8 would halve the interval. More prompts alone do not."),
        (Halving(902, None, None), "902 seeds each instead of 8 would halve the interval. More prompts alone do not."),
        (Halving(None, None, 2.8), "prompts alone halve the interval; 2.8 times the seeds and the prompts do."),
    ],
)  # fmt: skip
def test_more_of_both_is_named_where_more_of_one_would_cost_more(halving, text):
    part = Components((0.01, 0.01), (1.0, 1.0), 0.0, 0.1, (8, 8), 64)
    assert text in halving_sentence(replace(BASE, n_a=8, n_b=8, num_prompts=64, components=(part,), halving=halving))


@dataclass
class Row:
    label: str
    mean: float = 0.0


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        (["better", "better"], "x is the best: it is better than all others."),
        (["better", "inconclusive"], "x has the highest mean; it is better than y, and there is no verdict against z."),
        (
            ["equivalent", "inconclusive"],
            "x has the highest mean; as good as y within the margin, and there is no verdict against z.",
        ),
        (
            ["inconclusive", "inconclusive"],
            "No winner yet: x has the highest mean, but these runs do not show that it is better than y and z.",
        ),
        (
            ["worse", "inconclusive"],
            "x has the highest mean, but is worse than y, whose runs beat its runs more often than not.",
        ),
        (
            ["exploratory", "exploratory"],
            "x has the highest mean, but there are too few seeds for a verdict: everything here is exploratory.",
        ),
    ],
)
def test_the_conclusion_says_no_more_than_the_verdicts(verdicts, text):
    pairs = [replace(BASE, a="x", b=other, verdict=verdict) for other, verdict in zip("yz", verdicts, strict=True)]
    assert conclusion([Row("x", 1.0), Row("y"), Row("z")], pairs) == text


def test_who_beats_all_others_is_the_best_whatever_the_means():
    pairs = [replace(BASE, a="x", b="y", verdict="worse"), replace(BASE, a="y", b="z", verdict="better")]
    text = conclusion([Row("x", 1.0), Row("y"), Row("z")], pairs)
    assert (
        text == "y is the best: a run of it beats a run of any other more often than not. Nevertheless, x has the highest mean."
    )


def test_where_less_is_better_a_verdict_says_so_beside_its_interval():
    sides = {"difference": -0.2, "low": -0.3, "high": -0.1, "p": 0.001}
    assert ", less is better, " in judge([replace(BASE, lower_is_better=True, **sides)])[0].words
    assert "less is better" not in judge([replace(BASE, **sides)])[0].words


def test_those_who_share_the_lead_are_both_named():
    pairs = [replace(BASE, a="x", b="y", verdict="inconclusive")]
    assert conclusion([Row("x"), Row("y")], pairs) == "No winner yet: x and y share the highest mean."


def test_one_variant_has_no_opponent():
    assert "nothing to compare it with" in conclusion([Row("x")], [])
    assert set(VERDICTS) == {"better", "worse", "equivalent", "inconclusive", "exploratory"}
