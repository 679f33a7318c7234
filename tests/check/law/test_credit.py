"""What a reward at a token does to the advantages of others, without a critic."""

from dataclasses import replace

import pytest
import torch

import rlx
from rlx.check.finding import NOT_APPLICABLE, PASSED
from rlx.check.law.credit import of_rewards
from rlx.loss import token_advantage
from rlx.loss.advantage.token import discounted_returns, whitened
from tests.check.checking import failed, subject
from tests.check.faulty import ActorCritic
from tests.check.oversights import RewardsSoFar


@token_advantage
def summed_forward(token_rewards, completion_mask):
    return torch.where(completion_mask, token_rewards.cumsum(dim=-1), 0.0)


@token_advantage
def discounted_from_the_start(token_rewards, completion_mask):
    returns = discounted_returns(token_rewards, completion_mask, gamma=1.0)
    return whitened(returns * 0.9 ** torch.arange(returns.shape[-1]), completion_mask, epsilon=1e-8)


@token_advantage
def of_the_whole_completion(token_rewards, completion_mask):
    return torch.where(completion_mask, token_rewards.sum(dim=-1, keepdim=True), 0.0)


@token_advantage
def at_the_token_alone(token_rewards, completion_mask):
    return torch.where(completion_mask, token_rewards, 0.0)


@token_advantage
def whitened_over_padding(token_rewards, completion_mask):
    returns = discounted_returns(token_rewards, completion_mask, gamma=1.0)
    return torch.where(completion_mask, (returns - returns.mean()) / (returns.std() + 1e-6), 0.0)


def with_advantage(advantage):
    return replace(rlx.load("algorithm", "custom_grpo"), advantage=advantage)


def test_credit_that_goes_the_wrong_way_is_named():
    found = of_rewards(subject(with_advantage(discounted_from_the_start())))
    assert "the more the longer before it the token stands" in found.wrong
    for advantage, said in (
        (summed_forward(), ", and of none that led to it"),
        (discounted_from_the_start(), "the more the longer before it the token stands"),
    ):
        finding = failed(with_advantage(advantage), "credit")["credit"]
        assert said in finding.wrong
        assert "test_credit.py:" in finding.where


@pytest.mark.parametrize(
    "advantage",
    [
        of_the_whole_completion(),
        at_the_token_alone(),
        rlx.load("algorithm", "reinforce_plus_plus", **{"advantage.gamma": 0.9}).advantage,
    ],
)
def test_credit_of_the_whole_completion_and_discounted_credit_are_sound(advantage):
    assert of_rewards(subject(with_advantage(advantage))).status == PASSED


def test_advantages_of_completions_have_no_tokens():
    assert of_rewards(subject(rlx.load("algorithm", "custom_grpo"))).status == NOT_APPLICABLE


def test_three_rewards_are_enough_to_see_that_padding_is_whitened():
    found = failed(with_advantage(whitened_over_padding()), "padding")
    assert "change the level or the scale of the advantages" in found["padding"].wrong


class OneStep(ActorCritic):
    """The error of one step of the critic (λ = 0): what it expects next is all that tells a token of the reward."""

    trace: float = 0.0


class OfTheWhole(ActorCritic):
    """Every token gets the reward less what the critic expected of it."""

    def advantages(self, rewards, values, mask):
        return (rewards.sum(dim=-1, keepdim=True) - values) * mask


def test_a_reward_that_no_earlier_token_learns_of_is_named():
    assert "they are credited with nothing" in failed(RewardsSoFar(), "credit")["credit"].wrong
    for sound in (ActorCritic, OneStep, OfTheWhole):
        assert failed(sound(), "credit") == {}
