"""Two losses: the same formula in other words, and the smallest batch that shows a difference."""

import pytest
import torch

import rlx
from rlx.check.same_as.formula import compare_losses
from rlx.errors import ConfigError
from rlx.loss import policy_gradient_loss, preference_loss


@preference_loss
def in_other_words(margin, *, beta=0.1):
    return torch.nn.functional.softplus(-beta * margin)


@preference_loss
def twice(margin, *, beta=0.1):
    return 2 * in_other_words.formula(margin, beta=beta)


@policy_gradient_loss
def larger_above(ratio, advantages, *, clip_low=0.2, clip_high=0.2):
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1.1 + clip_high) * advantages)


@policy_gradient_loss
def other_gradient(ratio, advantages, *, clip_low=0.2, clip_high=0.2):
    value = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    return value + 0.1 * (ratio - ratio.detach())


def test_the_same_formula_in_other_words_is_the_same():
    found = compare_losses(in_other_words(), rlx.load("loss", "dpo"), name="dpo")
    assert found.same
    assert found.off < 1e-14


def test_a_constant_factor_is_said():
    assert "2 times as much everywhere" in compare_losses(twice(), rlx.load("loss", "dpo"), name="dpo").first


def test_the_side_of_the_clip_and_the_sign_of_the_advantage_are_said_on_one_token():
    found = compare_losses(larger_above(), rlx.load("loss", "clipped"), name="clipped")
    assert not found.same
    assert found.where == "positive advantage, ratio above the clip's 1.2"
    assert found.example.startswith("token_logprobs [[-3.5]]")
    assert "negative advantage, ratio above the clip's 1.2" in found.equal


def test_a_gradient_that_differs_where_the_values_are_equal_is_a_difference():
    assert compare_losses(other_gradient(), rlx.load("loss", "clipped"), name="clipped").first.startswith("the gradient is")


def test_weights_that_differ_are_seen_on_two_rows():
    found = compare_losses(rlx.load("loss", "grpo"), rlx.load("loss", "dapo", clip_high=0.2), name="dapo")
    assert found.where == "2 rows"


def test_losses_of_two_kinds_are_refused():
    with pytest.raises(ConfigError, match="not both losses"):
        compare_losses(rlx.load("loss", "dpo"), rlx.load("loss", "grpo"), name="grpo")
