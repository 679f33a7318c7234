"""Bugs of public trainers, written as algorithms: each is named by its law; what is like it, and sound, is not."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput, Need, Term
from rlx.loss import completion_advantage, policy_gradient_loss, preference_loss, stop_gradient, token_advantage
from rlx.loss.advantage.token import discounted_returns
from rlx.optimizer.step import Clipping
from tests.check.checking import failed, shipped, with_loss
from tests.check.faulty import Preferences, Rewards

pytestmark = pytest.mark.whole


@preference_loss
def likelihood_is_averaged_twice(margin, mean_chosen_logprob, chosen_length, *, beta=0.1):
    return -F.logsigmoid(beta * margin) - mean_chosen_logprob / chosen_length.clamp(min=1)


@preference_loss
def likelihood_is_averaged_once(margin, mean_chosen_logprob, *, beta=0.1):
    return -F.logsigmoid(beta * margin) - mean_chosen_logprob


@preference_loss
def both_by_the_rejected_length(margin, rejected_length, *, beta=2.0):
    return -F.logsigmoid(beta * margin / rejected_length.clamp(min=1))


@preference_loss
def flipped_labels_are_subtracted(margin, *, beta=0.1, label_smoothing=0.1):
    return -(1 - label_smoothing) * F.logsigmoid(beta * margin) + label_smoothing * F.logsigmoid(-beta * margin)


@preference_loss
def flipped_labels_are_divided_out(margin, *, beta=0.1, label_smoothing=0.1):
    return flipped_labels_are_subtracted.formula(margin, beta=beta, label_smoothing=label_smoothing) / (1 - 2 * label_smoothing)


@policy_gradient_loss
def k3_of_the_other_ratio(ratio, advantages, token_logprobs, reference_logprobs, *, kl_coef=0.05):
    log_ratio = (token_logprobs - reference_logprobs).clamp(-20, 20)
    return -ratio * advantages + kl_coef * (log_ratio.exp() - log_ratio - 1)


@policy_gradient_loss
def k3_by_its_weight(ratio, advantages, token_logprobs, reference_logprobs, *, kl_coef=0.05):
    log_ratio = (reference_logprobs - token_logprobs).clamp(-20, 20)
    return -ratio * advantages + kl_coef * (log_ratio.exp() - log_ratio - 1)


@policy_gradient_loss
def weight_is_live(token_logprobs, ratio, advantages, *, cap=2.0):
    return -ratio.clamp(max=cap) * advantages * token_logprobs


@policy_gradient_loss
def ends_of_the_log_ratio(log_ratio, advantages, completion_mask, *, clip_low=0.4, clip_high=0.3):
    held = torch.where(advantages > 0, log_ratio.clamp(max=clip_high), log_ratio.clamp(min=-clip_low))
    mean = (held * completion_mask).sum(dim=-1, keepdim=True) / completion_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return -mean.clamp(-20, 20).exp() * advantages


@policy_gradient_loss
def weight_is_constant(token_logprobs, ratio, advantages, *, cap=2.0):
    return -stop_gradient(ratio.clamp(max=cap)) * advantages * token_logprobs


def of_the_others(rewards):
    """(mean, standard deviation) of the other rewards of the group."""
    others = rewards.shape[1] - 1
    mean = (rewards.sum(dim=1, keepdim=True) - rewards) / others
    return mean, ((rewards.square().sum(dim=1, keepdim=True) - rewards.square()) / others - mean**2).clamp(min=0).sqrt()


@completion_advantage
def over_almost_nothing(rewards, *, epsilon=1e-6):
    mean, deviation = of_the_others(rewards)
    return (rewards - mean) / (deviation + epsilon)


@completion_advantage
def over_a_floor(rewards, *, floor=0.1):
    mean, deviation = of_the_others(rewards)
    return (rewards - mean) / deviation.clamp(min=floor)


@token_advantage
def less_the_mean_at_its_place(token_rewards, completion_mask, *, gamma=0.98):
    """Of one completion, sampled again and again, some tokens are above the mean of their place and others below."""
    returns = discounted_returns(token_rewards, completion_mask, gamma=gamma)
    mean = returns.sum(dim=0) / completion_mask.sum(dim=0).clamp(min=1)
    return (returns - mean) * completion_mask


@dataclass(frozen=True, kw_only=True)
class TheFinishedPay(Rewards):
    """A penalty of completions without an end, taken from those that ended."""

    missing_end_penalty: float = 1.0

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=self.advantages(batch.rewards - self.missing_end_penalty * self.pays(batch)))

    def pays(self, batch):
        return batch.finished.float()


@dataclass(frozen=True, kw_only=True)
class CutOffsArePaid(Rewards):
    """The same by another word."""

    cutoff_cost: float = 1.0

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=self.advantages(batch.rewards - self.cutoff_cost * batch.finished.float()))


class TheUnfinishedPay(TheFinishedPay):
    def pays(self, batch):
        return (~batch.finished).float()


@dataclass(frozen=True, kw_only=True)
class PaddingHasAKl(Rewards):
    """Sampling log-probabilities are 1 at padding, and count in the KL of the reward."""

    needs: ClassVar = frozenset({Need.REWARDS, Need.REFERENCE})
    beta: float = 0.05

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature).cpu()
        kl = self.summed(batch.sampling_logprobs - theirs, batch.loss_mask)
        return batch.with_values(advantages=self.advantages(batch.rewards - self.beta * kl))

    def summed(self, drift, mask):
        return torch.where(mask, drift, 1.0).sum(dim=-1)


class TokensHaveAKl(PaddingHasAKl):
    def summed(self, drift, mask):
        return (drift * mask).sum(dim=-1)


class HeatedTwice(Rewards):
    """The temperature is divided by twice, in a loss without a ratio."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature**2)
        return LossOutput({"policy": Term(-ours * batch.advantages[..., None], batch.weights)})


class SummedForward(Rewards):
    """Rewards at last tokens, summed from the first token on."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.loss_mask
        last = (mask.sum(dim=-1, keepdim=True) - 1).clamp(min=0)
        at_tokens = torch.zeros(mask.shape).scatter(-1, last, batch.advantages[..., None].float())
        return batch.with_values(advantages=self.summed(at_tokens) * mask)

    def summed(self, rewards):
        return rewards.cumsum(dim=-1)

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return LossOutput({"policy": Term(-ours * batch.advantages, batch.weights)})


class SummedFromTheEnd(SummedForward):
    def summed(self, rewards):
        return rewards.flip(-1).cumsum(dim=-1).flip(-1)


@dataclass(frozen=True, kw_only=True)
class RewardsAmongValues(Rewards):
    """A sound actor-critic that scatters its rewards, float32, into what is of the type of its values."""

    needs: ClassVar = frozenset({Need.REWARDS, Need.VALUES})
    gamma: float = 0.95

    def draw(self, lab):
        batch = super().draw(lab)
        mask, asked = batch.loss_mask, frozenset({"values"})
        found = lab.policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=asked)
        values = found.values.cpu()
        last = (mask.sum(dim=-1, keepdim=True) - 1).clamp(min=0)
        rewards = torch.zeros_like(values).scatter(-1, last, batch.rewards[..., None])
        returns, running = torch.zeros_like(values), torch.zeros_like(values[..., 0])
        for step in reversed(range(values.shape[-1])):
            running = rewards[..., step] + self.gamma * running
            returns[..., step] = running
        return batch.with_values(advantages=(returns - values) * mask, returns=returns * mask, value_weights=batch.weights)

    def compute_loss(self, policy, reference, batch):
        asked = frozenset({"values"})
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=asked)
        return LossOutput(
            {
                "policy": Term(-batch.advantages * found.token_logprobs, batch.weights),
                "value": Term((found.values - batch.returns).square() / 2, batch.value_weights),
            }
        )


def with_advantage(advantage):
    return replace(shipped("custom_grpo"), advantage=advantage)


@preference_loss
def both_sums_by_the_chosen_length(chosen_logprob, rejected_logprob, chosen_length, *, beta=2.0, gamma=0.5):
    return -F.logsigmoid(beta * (chosen_logprob - rejected_logprob) / chosen_length.clamp(min=1) - gamma)


@preference_loss
def both_sums_by_their_own(mean_policy_margin, *, beta=2.0, gamma=0.5):
    return -F.logsigmoid(beta * mean_policy_margin - gamma)


@preference_loss
def held_below(margin, *, beta=1.0, target=-3.0, above=0.2):
    """The margin that is asked for, beyond which it is held back, is on the wrong side of 0."""
    return F.softplus(target - beta * margin) + above * F.softplus(beta * margin - target)


@preference_loss
def likelihood_is_added(policy_margin, mean_chosen_logprob, *, beta=0.1, weight=0.05):
    return -F.logsigmoid(beta * policy_margin) + weight * mean_chosen_logprob


@preference_loss
def likelihood_is_subtracted(policy_margin, mean_chosen_logprob, *, beta=0.1, weight=0.05):
    return likelihood_is_added.formula(policy_margin, mean_chosen_logprob, beta=beta, weight=-weight)


@preference_loss
def beta_on_the_policy(policy_margin, reference_margin, *, beta=0.1):
    return -F.logsigmoid(beta * policy_margin - reference_margin)


@preference_loss
def beta_on_both(policy_margin, reference_margin, *, beta=0.1):
    return -F.logsigmoid(beta * (policy_margin - reference_margin))


@policy_gradient_loss
def entropy_is_added(ratio, advantages, entropy, *, entropy_coef=0.01):
    return -ratio * advantages + entropy_coef * entropy


@policy_gradient_loss
def entropy_is_subtracted(ratio, advantages, entropy, *, entropy_coef=0.01):
    return -ratio * advantages - entropy_coef * entropy


@policy_gradient_loss
def mean_over_padding(log_ratio, advantages, *, clip=0.2):
    ratio = log_ratio.mean(dim=1, keepdim=True).clamp(-20, 20).exp().expand_as(log_ratio)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


@policy_gradient_loss
def mismatch_from_below(token_logprobs, sampling_logprobs, proximal_logprobs, advantages, *, cap=2.0):
    mismatch = (proximal_logprobs - sampling_logprobs).clamp(-20, 20).exp().clamp(min=cap)
    return -mismatch * (token_logprobs - proximal_logprobs).clamp(-20, 20).exp() * advantages


@policy_gradient_loss
def mismatch_from_above(token_logprobs, sampling_logprobs, proximal_logprobs, advantages, *, cap=2.0):
    mismatch = (proximal_logprobs - sampling_logprobs).clamp(-20, 20).exp().clamp(max=cap)
    return -mismatch * (token_logprobs - proximal_logprobs).clamp(-20, 20).exp() * advantages


@policy_gradient_loss
def pulled_by_a_formula_of_its_own(token_logprobs, behaviour_logprobs, advantages, reference_logprobs, *, pull=0.1):
    """The KL that the reward takes is standardised rounding where all agree."""
    gap, drift = (reference_logprobs - token_logprobs).clamp(-20, 20), (token_logprobs - behaviour_logprobs).clamp(-5, 5)
    weight = stop_gradient(drift).exp()
    return -weight * advantages * token_logprobs + pull * weight * (gap.exp() - gap - 1)


@dataclass(frozen=True, kw_only=True)
class ClippedAtOne(Preferences):
    norm: float = 0.5

    def update_policy(self, gradients, optimizer):
        return optimizer.step(gradients()["loss"], self.at())

    def at(self):
        return Clipping(max_grad_norm=1.0)


class ClippedAtItsOwn(ClippedAtOne):
    def at(self):
        return Clipping(max_grad_norm=2 * self.norm)


class LosesTheMiddle(Preferences):
    def updates(self, batch, rng):
        half = len(batch) // 2
        for part in (batch[:half], batch[half + self.lost() :]):
            yield part.with_weights(preference=torch.full((len(part),), 1 / len(part)))

    def lost(self):
        return 1


class LosesNothing(LosesTheMiddle):
    def lost(self):
        return 0


FAULTY = [
    (with_loss(both_sums_by_the_chosen_length()), "closed_forms", "both sides are divided by the length of the chosen one"),
    (with_loss(held_below(above=0.1)), "direction", "preferring the chosen completions more raises the loss"),
    (with_loss(likelihood_is_added()), "direction", "never says the rejected completion, chosen ones are made less likely"),
    (with_loss(beta_on_the_policy()), "reference", "count 10 times as much as the policy's: loss.beta = 0.1"),
    (with_loss(entropy_is_added()), "direction", "pushes the entropy down"),
    (with_loss(mean_over_padding()), "padding", "1 more columns of padding change the gradient"),
    (with_loss(mismatch_from_below()), "clip", "for ratios of proximal_logprobs to sampling_logprobs from 1/20 to 1"),
    (ClippedAtOne(), "update", "gradients are clipped at 1 whatever max_grad_norm is"),
    (LosesTheMiddle(), "draws", "1 of 8 rows of a draw reach none of its 2 updates"),
    (with_loss(likelihood_is_averaged_twice()), "closed_forms", "beside the margin is divided by their length twice"),
    (with_loss(both_by_the_rejected_length()), "closed_forms", "both sides are divided by the length of the rejected one"),
    (with_loss(flipped_labels_are_subtracted()), "closed_forms", "with label_smoothing = 0.1 the loss is 0.554518"),
    (with_loss(k3_of_the_other_ratio()), "closed_forms", "what loss.kl_coef weighs is 0.291 on average"),
    (with_loss(weight_is_live()), "direction", "a token teaches 1 + log p times what it should"),
    (with_advantage(over_almost_nothing()), "alike", "a reward of 1 among others of 0 gives an advantage of 1e+06"),
    (TheFinishedPay(), "direction", "raises the advantages of unfinished completions"),
    (CutOffsArePaid(), "direction", "raises the advantages of unfinished completions"),
    (PaddingHasAKl(), "anchor", "agree and all rewards are 0, another beta changes advantages"),
    (HeatedTwice(), "temperature", "sampled at temperature 1.25, but the policy is read at 1.5625"),
    (SummedForward(), "credit", "the advantage of the last of 6 tokens, and of none that led to it"),
]
SOUND = [
    (with_loss(both_sums_by_their_own()), ["closed_forms"]),
    (with_loss(held_below(target=3.0)), ["direction"]),
    (with_loss(likelihood_is_subtracted()), ["direction"]),
    (with_loss(beta_on_both()), ["reference"]),
    (with_loss(entropy_is_subtracted()), ["direction"]),
    (with_loss(mismatch_from_above()), ["clip"]),
    (with_loss(pulled_by_a_formula_of_its_own()), ["anchor"]),
    (ClippedAtItsOwn(), ["update", "hyperparameters"]),
    (LosesNothing(), ["draws"]),
    (with_loss(likelihood_is_averaged_once()), ["closed_forms"]),
    (with_loss(flipped_labels_are_divided_out()), ["closed_forms"]),
    (with_loss(k3_by_its_weight()), ["closed_forms"]),
    (with_loss(weight_is_constant()), ["direction"]),
    (with_loss(ends_of_the_log_ratio()), ["losses", "clip"]),
    (with_advantage(over_a_floor()), ["alike", "baseline"]),
    (with_advantage(less_the_mean_at_its_place()), ["alike"]),
    (TheUnfinishedPay(), ["direction"]),
    (TokensHaveAKl(), ["anchor", "objective"]),
    (SummedFromTheEnd(), ["credit", "length"]),
    (RewardsAmongValues(), ["repeats", "padding", "credit", "finite", "hyperparameters"]),
]


@pytest.mark.parametrize(("algorithm", "law", "said"), FAULTY, ids=[said for *_, said in FAULTY])
def test_a_bug_is_named(algorithm, law, said):
    assert said in failed(algorithm, law)[law].wrong


@pytest.mark.parametrize(("algorithm", "laws"), SOUND, ids=[f"{number}" for number in range(len(SOUND))])
def test_what_is_sound_and_like_it_is_not_accused(algorithm, laws):
    assert failed(algorithm, *laws) == {}
