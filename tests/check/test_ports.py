"""Mistakes made when the formula of a paper becomes code: each is named by its law; the formula as it is meant is not."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

import rlx
from rlx.algorithm import LossOutput, Need, Term
from rlx.loss import completion_advantage, policy_gradient_loss, preference_loss, running_mean, stop_gradient, token_advantage
from rlx.loss.advantage.token import discounted_returns
from rlx.loss.base import clamped_exp
from rlx.loss.weight import token_mean
from rlx.rollout.draw import roll_out
from rlx.rollout.rollouts import best_against_worst
from tests.check.checking import failed, with_loss
from tests.check.faulty import Rewards
from tests.check.unusual import BestAgainstWorst

pytestmark = pytest.mark.whole


@preference_loss(state={"mean": running_mean("margin")})
def beta_is_live(margin, mean, *, beta=0.1, alpha=0.6):
    return -F.logsigmoid((beta * (1 + alpha * (margin - mean))).clamp(min=1e-3) * margin)


@preference_loss(state={"mean": running_mean("margin")})
def beta_is_constant(margin, mean, *, beta=0.1, alpha=0.6):
    return -F.logsigmoid(stop_gradient((beta * (1 + alpha * (margin - mean))).clamp(min=1e-3)) * margin)


@preference_loss
def target_follows_the_reference(mean_policy_margin, policy_margin, reference_margin, *, beta=2.5, alpha=0.05):
    return -F.logsigmoid(beta * mean_policy_margin - 0.3 - alpha * stop_gradient(policy_margin - reference_margin))


def clipped(ratio, advantages):
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


@policy_gradient_loss
def the_good_are_stale(ratio, mean_log_ratio, advantages, *, delta=0.1):
    return torch.where((advantages > 0) & (mean_log_ratio < -delta), 0.0, clipped(ratio, advantages))


@policy_gradient_loss
def the_bad_are_stale(ratio, mean_log_ratio, advantages, *, delta=0.1):
    return torch.where((advantages < 0) & (mean_log_ratio < -delta), 0.0, clipped(ratio, advantages))


@policy_gradient_loss
def token_ratio_counts(log_ratio, mean_log_ratio, advantages):
    return clipped(clamped_exp(stop_gradient(mean_log_ratio) + log_ratio), advantages)


@policy_gradient_loss
def sequence_ratio_counts(log_ratio, mean_log_ratio, advantages):
    return clipped(clamped_exp(stop_gradient(mean_log_ratio) + log_ratio - stop_gradient(log_ratio)), advantages)


@policy_gradient_loss
def distance_is_rewarded(log_ratio, advantages, *, tau=0.5):
    return -log_ratio * advantages - tau / 2 * log_ratio**2


@policy_gradient_loss
def distance_costs(log_ratio, advantages, *, tau=0.5):
    return -log_ratio * advantages + tau / 2 * log_ratio**2


@completion_advantage
def of_equals(rewards):
    bad = (rewards <= 0.5).to(rewards).mean(dim=1, keepdim=True)
    return (rewards - 1.2 * (1 - bad) - 0.1) / ((bad * (1 - bad)).sqrt() + 1e-6)


def n_step(token_rewards, completion_mask, values, shift):
    """Three rewards and the value of the token `3 - shift` places on, less the value."""
    padded = F.pad(values * completion_mask, (0, 3))
    width = values.shape[-1]
    rewards = F.pad(token_rewards * completion_mask, (0, 3))
    found = sum(rewards[..., place : place + width] for place in range(3)) + padded[..., 3 - shift :][..., :width]
    return (found - values) * completion_mask


@token_advantage
def bootstraps_early(token_rewards, completion_mask, values):
    return n_step(token_rewards, completion_mask, values, 1)


@token_advantage
def bootstraps_in_time(token_rewards, completion_mask, values):
    return n_step(token_rewards, completion_mask, values, 0)


@token_advantage
def baseline_twice(token_rewards, completion_mask, values):
    return (discounted_returns(token_rewards, completion_mask, gamma=1.0) - 2 * values) * completion_mask


@token_advantage
def baseline_once(token_rewards, completion_mask, values):
    return (discounted_returns(token_rewards, completion_mask, gamma=1.0) - values) * completion_mask


@completion_advantage
def mean_divided_again(rewards, lengths):
    lengths = lengths.to(rewards) + 1
    return rewards - (rewards * lengths).mean(dim=1, keepdim=True) / lengths.sum(dim=1, keepdim=True)


@completion_advantage
def mean_by_length(rewards, lengths):
    lengths = lengths.to(rewards) + 1
    return rewards - (rewards * lengths).sum(dim=1, keepdim=True) / lengths.sum(dim=1, keepdim=True)


@completion_advantage
def by_the_variance(rewards):
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.var(dim=1, keepdim=True) + 1e-4)


@policy_gradient_loss
def the_praised_are_weighed(ratio, advantages, *, negative_weight=0.5):
    return -torch.where(advantages > 0, negative_weight, 1.0) * ratio * advantages


@policy_gradient_loss
def the_blamed_are_weighed(ratio, advantages, *, negative_weight=0.5):
    return -torch.where(advantages < 0, negative_weight, 1.0) * ratio * advantages


@policy_gradient_loss
def weighted_likelihood(token_logprobs, advantages, *, temperature=1.0):
    """Advantage-weighted regression (Peng et al. 2019): no completion is made less likely."""
    return -torch.exp(advantages / temperature).clamp(max=20) * token_logprobs


def one_step(token_rewards, completion_mask, values, discount):
    ahead = F.pad(values * completion_mask, (0, 1))[..., 1:]
    return (token_rewards + discount * ahead - values) * completion_mask


@token_advantage
def trace_for_discount(token_rewards, completion_mask, values, *, gamma=1.0, lam=0.9):
    return gamma * one_step(token_rewards, completion_mask, values, lam)


@token_advantage
def discount_for_discount(token_rewards, completion_mask, values, *, gamma=0.9):
    return one_step(token_rewards, completion_mask, values, gamma)


@dataclass(frozen=True, kw_only=True)
class CostsOfThePast(Rewards):
    """A KL to the reference that is charged to the tokens after it."""

    needs: ClassVar = frozenset({Need.REWARDS, Need.REFERENCE})
    kl_coef: float = 0.2

    def draw(self, lab):
        batch = super().draw(lab)
        reference = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        cost = self.kl_coef * (batch.sampling_logprobs - reference.cpu()) * batch.loss_mask
        return batch.with_values(advantages=(batch.advantages[..., None] - self.charged(cost)) * batch.loss_mask)

    def charged(self, cost):
        return cost.cumsum(dim=-1)

    def compute_loss(self, policy, reference, batch):
        return LossOutput({"policy": Term(-self.log_ratio(policy, batch).exp() * batch.advantages, batch.weights)})


class CostsToCome(CostsOfThePast):
    def charged(self, cost):
        return cost.flip(-1).cumsum(dim=-1).flip(-1)


class MeansOfAll(Rewards):
    """Draws too many groups, leaves out those of equal rewards, and keeps the means of all."""

    def draw(self, lab):
        sizes = {"prompts_per_step": 3 * self.prompts_per_step, "group_size": self.group_size}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        means = batch.rewards.mean(dim=1, keepdim=True)
        rows = torch.nonzero(~batch.without_signal).flatten().tolist() or [0]
        batch = batch.take(rows)
        advantages = batch.rewards - self.kept(means, rows)
        return batch.with_values(advantages=advantages, weights=token_mean.formula(batch.loss_mask))

    def kept(self, means, rows):
        return means[: len(rows)]


class MeansOfTheKept(MeansOfAll):
    def kept(self, means, rows):
        return means[rows]


class Halves(CostsToCome):
    """Two updates of a draw, the first on no row if the draw has one prompt."""

    def updates(self, batch, rng):
        for rows in (range(len(batch) // 2), range(len(batch) // 2, len(batch))):
            part = batch.take(rows)
            yield part.with_values(weights=token_mean.formula(part.loss_mask))


@dataclass(frozen=True, kw_only=True)
class BestOfAColumn(BestAgainstWorst):
    """Takes the best and the worst over the prompts of a draw."""

    pairs_per_step: int = 4

    def pairs(self, batch):
        return best_against_worst(replace(batch, rewards=batch.rewards.T.contiguous()))


@dataclass(frozen=True, kw_only=True)
class CostsInTheRewards(CostsToCome):
    """A critic that learns returns with the costs of a KL in them, which is all that the KL's weight does."""

    needs: ClassVar = frozenset({Need.REWARDS, Need.REFERENCE, Need.VALUES})

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(returns=batch.advantages)

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"values"}))
        error = Term((found.values - batch.returns) ** 2, batch.weights)
        return LossOutput({**super().compute_loss(policy, reference, batch).terms, "critic": error})


@dataclass(frozen=True, kw_only=True)
class OneSize(Rewards):
    """Brings the gradients of its terms to one size, weights and all."""

    needs: ClassVar = frozenset({Need.REWARDS, Need.REFERENCE})
    kl_coef: float = 0.1

    def compute_loss(self, policy, reference, batch):
        theirs = reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        kl = Term((ours - theirs) ** 2 / 2, batch.weights, self.kl_coef)
        return LossOutput({**super().compute_loss(policy, reference, batch).terms, "kl": kl})

    def update_policy(self, gradients, optimizer):
        total = [torch.zeros_like(parameter) for parameter in optimizer.parameters]
        for name, found in gradients(by=str).items():
            norm = sum((part**2).sum() for part in found if part is not None).sqrt() + 1e-12
            total = [a if b is None else a + self.weight(name) * b / norm for a, b in zip(total, found, strict=True)]
        return optimizer.step(total, self.clipping)

    def weight(self, name):
        return 1.0


class OneSizeEachWeighed(OneSize):
    def weight(self, name):
        return self.kl_coef if name == "kl" else 1.0


def actor_critic(advantage):
    return replace(rlx.load("algorithm", "ppo"), advantage=advantage)


FAULTY = [
    (with_loss(beta_is_live()), "direction", "preferring it more lowers the loss of"),
    (with_loss(the_good_are_stale()), "clip", "tokens that went 0.15 nats the wrong way are given up"),
    (with_loss(token_ratio_counts()), "clip", "goes with the square of its ratio"),
    (with_loss(distance_is_rewarded()), "clip", "some of them against their advantage: distance is rewarded"),
    (replace(rlx.load("algorithm", "custom_grpo"), advantage=of_equals()), "alike", "equal rewards of a group give an advantage"),
    (actor_critic(bootstraps_early()), "credit", "tokens before the last get advantages of up to 0.5"),
    (actor_critic(baseline_twice()), "credit", "lowers it by 2: its value is subtracted more than once"),
    (CostsOfThePast(), "credit", "a KL to the reference moves the advantages of later ones"),
    (MeansOfAll(), "credit", "rewarded by 1 more lower the advantages of another prompt by 1"),
    (replace(rlx.load("algorithm", "custom_grpo"), advantage=mean_divided_again()), "baseline", "is divided by 8 once more"),
    (actor_critic(trace_for_discount()), "credit", "the discount is 1, but tokens before the last get advantages of down to"),
    (replace(rlx.load("algorithm", "custom_grpo"), advantage=by_the_variance()), "baseline", "have advantages of 1/10"),
    (with_loss(the_praised_are_weighed()), "direction", "negative_weight changes nothing about what completions of the side"),
    (BestOfAColumn(), "direction", "other prompts are made of other completions"),
    (OneSize(), "update", "makes the same update: normalising the gradient of kl removes its weight"),
]
SOUND = [
    (with_loss(beta_is_constant()), ["direction"]),
    (with_loss(target_follows_the_reference()), ["reference", "direction"]),
    (with_loss(the_bad_are_stale()), ["clip"]),
    (with_loss(sequence_ratio_counts()), ["clip"]),
    (with_loss(distance_costs()), ["clip"]),
    (actor_critic(bootstraps_in_time()), ["credit"]),
    (actor_critic(baseline_once()), ["credit"]),
    (CostsToCome(), ["credit", "objective"]),
    (MeansOfTheKept(), ["credit"]),
    (OneSizeEachWeighed(), ["update"]),
    (CostsInTheRewards(), ["anchor"]),
    (Halves(), ["objective", "draws"]),
    (with_loss(the_blamed_are_weighed()), ["direction"]),
    (with_loss(weighted_likelihood()), ["losses", "direction"]),
    (BestAgainstWorst(), ["direction"]),
    (replace(rlx.load("algorithm", "custom_grpo"), advantage=mean_by_length()), ["baseline"]),
    (actor_critic(discount_for_discount()), ["credit"]),
]


@pytest.mark.parametrize(("algorithm", "law", "said"), FAULTY, ids=[said for *_, said in FAULTY])
def test_a_slip_is_named(algorithm, law, said):
    assert said in failed(algorithm, law)[law].wrong


@pytest.mark.parametrize(("algorithm", "laws"), SOUND, ids=[f"{number}" for number in range(len(SOUND))])
def test_the_formula_as_it_is_meant_is_not_accused(algorithm, laws):
    assert failed(algorithm, *laws) == {}
