"""Hyperparameters are matched, and results measured against each other."""

import pytest
import torch

import rlx
from rlx.check.same_as.comparison import common_factor, ends_of_clip, matched, relative_gap, side_of_clip


def test_hyperparameters_are_matched_by_their_dotted_names_and_by_the_last_part_where_it_is_unique():
    mine = rlx.load("algorithm", "hybrid")
    assert matched(mine, rlx.load("algorithm", "hybrid"))[1] == {}
    other, changed = matched(rlx.load("loss", "grpo", clip_low=0.3), rlx.load("algorithm", "grpo"))
    assert changed == {"loss.clip_low": (0.3, 0.2)}
    assert other.loss.clip_low == 0.3


def test_a_gap_is_relative_and_infinite_where_one_side_alone_is_not_finite():
    one = torch.tensor([1.0, 2.0])
    assert relative_gap(one, one * 1.5) == pytest.approx(1 / 3)
    assert relative_gap(one, torch.tensor([1.0, float("nan")])) == float("inf")
    assert relative_gap(one, one[:1]) == float("inf")


def test_a_factor_holds_everywhere_or_is_none():
    one = torch.tensor([0.0, 1.0, -2.0])
    assert common_factor((3 * one, one), 1e-9) == pytest.approx(3)
    assert common_factor((one + 1, one), 1e-9) is None
    assert common_factor((one**2, one), 1e-9) is None


def test_a_region_is_a_sign_and_a_side():
    ends = ends_of_clip(rlx.load("loss", "grpo", clip_high=0.5))
    assert ends == (0.8, 1.5)
    assert side_of_clip(-1, 1.4, ends) == "negative advantage, ratio within the clip"
    assert side_of_clip(2, 1.6, ends) == "positive advantage, ratio above the clip's 1.5"
