"""Sound algorithms that look like a mistake, written before the laws were tuned on them: no law may accuse one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from rlx.algorithm import AlgorithmType, LossOutput, Need, Term, mean_of
from rlx.loss import stop_gradient
from rlx.loss.weight import token_mean
from rlx.optimizer.step import Clipping
from rlx.rollout.draw import greedy_rewards, roll_out
from rlx.rollout.rollouts import best_against_worst
from tests.check.faulty import ActorCritic, Demonstrations, Preferences, Rewards
from tests.check.mistakes import WithReference, sequence_weights


class GreedyBaseline(Rewards):
    """The baseline is the reward of the greedy completion (ReMax, arXiv:2310.10505)."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=batch.rewards - greedy_rewards(lab, batch.prompts)[:, None])


class SquaredPenalty(WithReference):
    """k2 in the loss, whose plain gradient is right."""

    def penalty(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        return (ours - theirs) ** 2 / 2


class KlInTheReward(WithReference):
    """k1 in the reward of a completion, and a leave-one-out baseline."""

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        drift = ((batch.sampling_logprobs - theirs) * batch.completion_mask).sum(dim=-1)
        rewards = batch.rewards - self.beta * drift
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (self.group_size - 1)
        weights = batch.loss_mask.double() / batch.rewards.numel()
        return batch.with_values(advantages=rewards - others, weights=weights)

    def compute_loss(self, policy, reference, batch):
        return Rewards.compute_loss(self, policy, reference, batch)


class KlInTheRewardsOfTokens(KlInTheReward):
    """Each token is credited with the KL from there on, and with the reward less the group's mean."""

    def draw(self, lab):
        batch = Rewards.draw(self, lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        drift = (batch.sampling_logprobs - theirs) * batch.completion_mask
        ahead = drift.flip(-1).cumsum(-1).flip(-1)
        advantages = (batch.advantages[..., None] - self.beta * ahead) * batch.completion_mask
        return batch.with_values(advantages=advantages, weights=batch.loss_mask.double() / batch.rewards.numel())

    def compute_loss(self, policy, reference, batch):
        ratio = self.log_ratio(policy, batch).exp()
        return LossOutput({"policy": Term(-ratio * batch.advantages, batch.weights)})


class ClippedCritic(ActorCritic):
    """PPO whose value may not move far from the one when the batch was drawn, in two shuffled halves."""

    def error(self, found, batch):
        before = batch.returns - batch.advantages
        held = torch.maximum(torch.minimum(found.values, before + 0.2), before - 0.2)
        return torch.maximum((found.values - batch.returns) ** 2, (held - batch.returns) ** 2)

    def updates(self, batch, rng):
        order = rng.child("halves").numpy().permutation(len(batch)).tolist()
        for rows in (order[: len(order) // 2], order[len(order) // 2 :]):
            part = batch.take(rows)
            yield part.with_values(weights=token_mean.formula(part.loss_mask))


@dataclass(frozen=True, kw_only=True)
class BestAgainstWorst(Preferences):
    """DPO on the best and the worst completion of each group."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    group_size: int = 4

    def draw(self, lab):
        sizes = {"prompts_per_step": self.pairs_per_step, "group_size": self.group_size}
        batch = self.pairs(roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False))
        return batch.with_weights(preference=torch.full((len(batch),), 1 / max(1, len(batch))))

    def pairs(self, batch):
        return best_against_worst(batch)


@dataclass(frozen=True, kw_only=True)
class HingeWithLikelihood(Preferences):
    """A hinge on the difference of likelihoods, and the likelihood of the chosen one (SLiC, arXiv:2305.10425)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    likelihood: float = 0.1

    def compute_loss(self, policy, reference, batch):
        ours = policy.pair_logprobs(batch)
        hinge = torch.relu(1 - self.beta * (ours.chosen_sum - ours.rejected_sum))
        return LossOutput.of(hinge - self.likelihood * ours.chosen_sum, batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class TruncatedWeights(Rewards):
    """REINFORCE with a truncated importance weight that is a constant (CISPO, arXiv:2506.13585)."""

    largest: float = 1.5

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        weight = stop_gradient((ours - batch.sampling_logprobs).clamp(-20, 20).exp().clamp(max=self.largest))
        return LossOutput({"policy": Term(-weight * ours * batch.advantages[..., None], batch.weights)})


@dataclass(frozen=True, kw_only=True)
class AdaptiveKl(WithReference):
    """The coefficient of the penalty follows the KL that was measured (arXiv:1909.08593), kept in the run's state."""

    target: float = 0.2

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        drift = float(((batch.sampling_logprobs - theirs) * batch.completion_mask).sum(dim=-1).mean())
        before = lab.state.get("coefficient", torch.ones(()))
        lab.state["coefficient"] = before * (1 + 0.1 * max(-0.2, min(0.2, drift / self.target - 1)))
        return batch.with_values(values=torch.ones_like(batch.rewards) * before)

    def compute_loss(self, policy, reference, batch):
        output = Rewards.compute_loss(self, policy, reference, batch)
        values = self.penalty(policy, reference, batch) * batch.values[..., None]
        return LossOutput({**output.terms, "kl": Term(values, batch.weights, self.beta)}, output.metrics)


@dataclass(frozen=True, kw_only=True)
class ShorterIsBetter(Rewards):
    """A reward that falls with the length, compared within the group."""

    cost: float = 0.02

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=self.advantages(batch.rewards - self.cost * batch.sequences.completion_lengths))


class SelfImitation(Rewards):
    """Learns completions that were better than their group by heart, each as much as it was better (arXiv:1806.05635)."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return LossOutput.of(-ours * batch.advantages.clamp(min=0)[..., None], batch.weights)


class AgainstTheBatch(Preferences):
    """A chosen completion against the rejected ones of all pairs (a softmax over the batch)."""

    @property
    def couples_rows(self):
        return True

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        chosen = self.beta * (ours.chosen_sum - theirs.chosen_sum)
        rejected = self.beta * (ours.rejected_sum - theirs.rejected_sum)
        values = torch.logsumexp(torch.cat([chosen[:, None], rejected.expand(len(batch), -1)], dim=1), dim=1) - chosen
        return LossOutput.of(values, batch.weights["preference"])


class OnPolicyDistillation(WithReference):
    """The exact KL to the reference on sampled completions, whose rewards are not looked at."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.REINFORCEMENT_LEARNING

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(
            batch.sequences,
            temperature=batch.temperature,
            requires=frozenset({"kl_to_reference"}),
            reference=reference,
        )
        return LossOutput({"kl": Term(found.kl_to_reference, batch.weights, self.beta)})


class UnsureTokensCount(Rewards):
    """A token's advantage grows with the policy's entropy there, as a constant."""

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"entropy"}))
        ratio = (found.token_logprobs - batch.sampling_logprobs).clamp(-20, 20).exp()
        advantages = batch.advantages[..., None] * (1 + stop_gradient(found.entropy))
        return LossOutput({"policy": Term(-ratio * advantages, batch.weights)})


class UnitSteps(Preferences):
    """Every step has the same length."""

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        norm = torch.sqrt(sum((part**2).sum() for part in found if part is not None)) + 1e-12
        return optimizer.step([None if part is None else part / norm for part in found], Clipping(max_grad_norm=None))


class WithoutConflict(Preferences):
    """Preference and likelihood; what of one gradient goes against the other is taken out (arXiv:2001.06782)."""

    def compute_loss(self, policy, reference, batch):
        output, ours = super().compute_loss(policy, reference, batch), policy.pair_logprobs(batch)
        likelihood = Term(-ours.chosen_mean, batch.weights["preference"], 0.2)
        return LossOutput({**output.terms, "likelihood": likelihood}, output.metrics)

    def update_policy(self, gradients, optimizer):
        parts = gradients(by=str)
        flat = [
            torch.cat(
                [
                    torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1)
                    for g, p in zip(part, optimizer.parameters, strict=True)
                ]
            )
            for part in parts.values()
        ]
        along = min(0.0, float(flat[0] @ flat[1]))
        total = sum(mine - along / (other @ other).clamp(min=1e-12) * other for mine, other in (flat, flat[::-1]))
        sizes = [parameter.numel() for parameter in optimizer.parameters]
        pieces = zip(total.split(sizes), optimizer.parameters, strict=True)
        return optimizer.step([piece.reshape(parameter.shape) for piece, parameter in pieces], self.clipping)


class Ranked(Rewards):
    """Plackett-Luce over the completions of a group, in the order of their rewards (arXiv:2304.05302)."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.REINFORCEMENT_LEARNING

    def compute_loss(self, policy, reference, batch):
        scores = policy.token_logprobs(batch.sequences, temperature=batch.temperature).sum(dim=-1)
        order = batch.rewards.argsort(dim=1, descending=True, stable=True)
        sorted_scores, rewards = scores.gather(1, order), batch.rewards.gather(1, order)
        better = (rewards[:, :, None] > rewards[:, None, :]).to(scores)
        gaps = sorted_scores[:, :, None] - sorted_scores[:, None, :]
        values = -(F.logsigmoid(0.1 * gaps) * better).sum(dim=(1, 2)) / better.sum(dim=(1, 2)).clamp(min=1)
        return LossOutput.of(values, torch.full((len(batch),), 1 / self.prompts_per_step))


@dataclass(frozen=True, kw_only=True)
class SomeTokens(Demonstrations):
    """Each step learns from a random share of the tokens, which the run's stream decides."""

    share: float = 0.7

    def draw(self, lab):
        batch = super().draw(lab)
        drawn = torch.rand(batch.chosen_mask.shape, generator=lab.rng.child("tokens", lab.step).torch()) < self.share
        return batch.with_weights(nll=token_mean.formula(batch.chosen_mask & drawn))


@dataclass(frozen=True, kw_only=True)
class AdvantageWeighted(Rewards):
    """Regression weighed by the exponential of the advantage (arXiv:1910.00177)."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.REINFORCEMENT_LEARNING

    softness: float = 0.5

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=sequence_weights(batch))

    def compute_loss(self, policy, reference, batch):
        likelihood = policy.token_logprobs(batch.sequences, temperature=batch.temperature).sum(dim=-1)
        weight = (batch.advantages / self.softness).exp().clamp(max=20)
        return LossOutput({"policy": Term(-weight * likelihood, batch.weights)}, {"advantage_weight": mean_of(weight)})


class UncertainShare(Rewards):
    """The share of a draw's tokens with the highest entropy learns; where no token is drawn, it has no quantile."""

    def draw(self, lab):
        batch = super().draw(lab)
        names = frozenset({"entropy"})
        with torch.no_grad():
            entropy = lab.policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=names).entropy
        mask = batch.loss_mask
        kept = (mask & (entropy >= entropy[mask].quantile(0.5))).double()
        return batch.with_values(weights=kept / kept.sum().clamp(min=1))


class RootsOfLengths(Rewards):
    """A completion counts with the root of its length, in a sum of such roots."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.loss_mask.double()
        weights = mask / mask.sum(-1, keepdim=True).clamp(min=1).sqrt()
        return batch.with_values(weights=weights / weights.sum().clamp(min=1))


class RatioOfAllTokens(Rewards):
    """A ratio of whole completions, at each of their tokens."""

    def log_ratio(self, policy, batch):
        each = super().log_ratio(policy, batch)
        return each.sum(dim=-1, keepdim=True).clamp(-20, 20).expand_as(each)


class TokensOutOfAHat(Rewards):
    """About half of the tokens learn, by a random number for each place of the padded batch."""

    def draw(self, lab):
        batch = super().draw(lab)
        generator = torch.Generator().manual_seed(lab.step)
        kept = batch.loss_mask & (torch.rand(batch.loss_mask.shape, generator=generator) < 0.5)
        return batch.with_values(weights=kept.double() / kept.sum().clamp(min=1))


class WeighedByTheReference(Preferences):
    """Pairs that the reference tells apart count more; a random third of the places counts less."""

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.pair_logprobs(batch)
        weights = torch.sigmoid((theirs.chosen_sum - theirs.rejected_sum) / 4)
        places = torch.rand(len(batch), generator=torch.Generator().manual_seed(lab.step)) < 0.3
        weights = torch.where(places, 0.5 * weights, weights)
        return batch.with_weights(preference=weights / weights.sum())


class LessWhereItDrifts(WithReference):
    """What advantages teach weighs less at tokens that are far from the reference; nothing else draws the policy back."""

    def compute_loss(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        trust = 1 / (1 + self.beta * (theirs - ours).detach() ** 2)
        ratio = self.log_ratio(policy, batch).exp()
        return LossOutput({"policy": Term(-ratio * trust * batch.advantages[..., None], batch.weights)})


UNUSUAL = [
    GreedyBaseline,
    SquaredPenalty,
    KlInTheReward,
    KlInTheRewardsOfTokens,
    ClippedCritic,
    BestAgainstWorst,
    HingeWithLikelihood,
    TruncatedWeights,
    AdaptiveKl,
    ShorterIsBetter,
    SelfImitation,
    AgainstTheBatch,
    OnPolicyDistillation,
    UnsureTokensCount,
    UnitSteps,
    WithoutConflict,
    Ranked,
    SomeTokens,
    AdvantageWeighted,
    UncertainShare,
    RootsOfLengths,
    RatioOfAllTokens,
    TokensOutOfAHat,
    WeighedByTheReference,
    LessWhereItDrifts,
]
