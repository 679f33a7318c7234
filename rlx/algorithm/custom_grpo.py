"""Policy gradients from groups of sampled completions, with any advantage, loss and KL penalty, and an optional critic.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from rlx.algorithm.base import MOST_ROWS, Algorithm, AlgorithmType, Lab, LossOutput, Need, Term, mean_of
from rlx.errors import ConfigError
from rlx.fields import count, one_of, within
from rlx.loss.advantage.completion import Advantage
from rlx.loss.advantage.token import Gae, TokenAdvantage, discounted_returns
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.loss.policy_gradient.kl import ESTIMATES, rewards_with_kl, token_rewards_with_kl
from rlx.loss.value import ValueLoss
from rlx.optimizer.step import Clipping
from rlx.rollout.draw import greedy_rewards, parts_and_weights, roll_out
from rlx.rollout.rollouts import RolloutBatch, present
from rlx.seeding import Stream

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.policy.reference import Reference


@dataclass(frozen=True, kw_only=True)
class CustomGrpo(Algorithm[RolloutBatch]):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) with exchangeable parts.

    loss: any policy-gradient loss; its clip and its KL are loss.clip_low, loss.beta, ...
    advantage: per completion (group_standardized, group_centered, leave_one_out, ...) or per token (gae, reinforce_plus_plus).
    value_loss, value_loss_weight: loss of the critic and its weight; the policy has a value head if the weight is above 0 or the
    advantage reads values.
    prompts_per_step, group_size: prompts per draw, and completions sampled per prompt.
    minibatches: number of parts that the draw is split into; each of the updates_per_batch passes makes one update per part.
    resample_attempts: how often to replace groups whose rewards are all equal by groups of other prompts (dynamic sampling,
    DAPO, arXiv:2503.14476).
    filter_truncated: leave completions that were cut off at max_new_tokens out of the loss (overlong filtering).
    kl_in_reward: β of the KL to the reference that is subtracted from the reward; 0 leaves it out.
    kl_in_reward_estimator: k1, whose policy gradient is that of the KL, or k2 or k3, which have less variance but the policy
    gradient of another quantity (see `rewards_with_kl`). The exact KL does not depend on the sampled token and is not a choice.
    gradient_scale: factor of the gradient before clipping.
    adaptive_gradient_clipping: largest ratio of a unit's gradient norm to its weight norm (arXiv:2102.06171), or null.
    reward_threshold: eval/accuracy_at_threshold is the share of held-out greedy completions with a reward above it; null: not
    measured.
    """

    kind: ClassVar[AlgorithmType] = AlgorithmType.POLICY_GRADIENT
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS})

    loss: PolicyGradientLoss
    advantage: Advantage | TokenAdvantage
    value_loss: ValueLoss
    value_loss_weight: float = within(at_least=0, advice="a negative one would make the critic worse")
    prompts_per_step: int = count(at_most=MOST_ROWS)
    group_size: int = count(at_most=MOST_ROWS)
    minibatches: int = count()
    resample_attempts: int = count(at_least=0)
    filter_truncated: bool
    kl_in_reward: float = within(at_least=0, advice="a negative one would reward distance from the reference")
    kl_in_reward_estimator: str = one_of(tuple(ESTIMATES))
    gradient_scale: float = within(above=0)
    adaptive_gradient_clipping: float | None = within(above=0, optional=True)
    reward_threshold: float | None = within(optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        smallest = self.advantage.smallest_group if isinstance(self.advantage, Advantage) else 1
        name = type(self.advantage).__name__
        if self.group_size < smallest:
            raise ConfigError(
                f"algorithm.group_size is {self.group_size}; advantage {name} needs at least {smallest} completions of a prompt"
            )
        if self.minibatches > self.prompts_per_step:
            raise ConfigError(
                f"algorithm.minibatches is {self.minibatches}; a minibatch holds at least one prompt, and a draw has "
                f"prompts_per_step={self.prompts_per_step}"
            )

    @property
    def active_needs(self) -> frozenset[Need]:
        values = {Need.VALUES} if self.reads_values else set()
        drift = self.loss.needs_reference or self.kl_in_reward > 0 or "vocabulary_kl" in self.loss.requires
        return self.needs | values | ({Need.REFERENCE} if drift else set())

    @property
    def reads_values(self) -> bool:
        """Whether there is a critic."""
        return self.value_loss_weight > 0 or "values" in self.advantage.requires

    @property
    def couples_rows(self) -> bool:
        return self.loss.couples_rows

    @property
    def clipping(self) -> Clipping:
        return Clipping(self.max_grad_norm, self.adaptive_gradient_clipping, self.gradient_scale)

    def draw(self, lab: Lab) -> RolloutBatch:
        batch = roll_out(
            lab,
            prompts_per_step=self.prompts_per_step,
            group_size=self.group_size,
            resample_attempts=self.resample_attempts,
            filter_truncated=self.filter_truncated,
        )
        if self.loss.needs_reference or self.kl_in_reward > 0:
            batch = batch.with_values(
                reference_logprobs=lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
            )
        statistics = self._statistics(lab, batch)
        batch = batch.with_values(rng=lab.rng.child("loss", lab.step), **statistics)
        rewards = self._rewards(batch)
        batch = self._weighed(batch.with_values(**self._advantages(lab, batch, rewards)))
        assert batch.advantages is not None
        figures = {"advantage_std": float(batch.advantages.double().std(correction=0))}
        if self.reads_values:
            figures["value_explained_variance"] = explained_variance(batch)
        return replace(batch, metrics={**batch.metrics, **figures})

    def renewed(self, lab: Lab, batch: RolloutBatch) -> RolloutBatch:
        """The batch with proximal log-probabilities of the policy before its updates, whichever weights made the draw."""
        if "proximal_logprobs" not in self.loss.requires:
            return batch
        found = lab.policy.token_statistics(batch.sequences, temperature=batch.temperature)
        return batch.with_values(proximal_logprobs=found.token_logprobs)

    def _weighed(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with the weights of each term, computed over the rows of one update."""
        return batch.with_values(
            weights=self.loss.weights(batch.loss_mask), value_weights=self.value_loss.weights(batch.loss_mask)
        )

    def _statistics(self, lab: Lab, batch: RolloutBatch) -> dict[str, Tensor]:
        """Values and proximal log-probabilities, by a forward pass of the policy before its updates."""
        requires = frozenset({"values"}) if self.reads_values else frozenset()
        proximal = "proximal_logprobs" in self.loss.requires
        if not requires and not proximal:
            return {}
        with torch.no_grad():
            found = lab.policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=requires)
        values = None if found.values is None else found.values.to(batch.rewards.dtype)
        kept = {"values": values, "proximal_logprobs": found.token_logprobs if proximal else None}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}

    def _rewards(self, batch: RolloutBatch) -> Tensor:
        """[P, G] the rewards, minus the KL if kl_in_reward is above 0."""
        if self.kl_in_reward == 0:
            return batch.rewards
        assert batch.reference_logprobs is not None
        tensors = (batch.rewards, batch.sampling_logprobs, batch.reference_logprobs.cpu(), batch.loss_mask)
        return rewards_with_kl(*tensors, beta=self.kl_in_reward, estimator=self.kl_in_reward_estimator)

    def _advantages(self, lab: Lab, batch: RolloutBatch, rewards: Tensor) -> dict[str, Tensor]:
        """Advantages [P, G] or [P, G, T], and returns [P, G, T] if there is a critic."""
        if isinstance(self.advantage, TokenAdvantage) or self.reads_values:
            at_tokens = token_rewards(batch, kl_in_reward=self.kl_in_reward, estimator=self.kl_in_reward_estimator)
        found: dict[str, Tensor] = {}
        if self.reads_values:
            assert batch.values is not None
            found["returns"] = returns_of(self.advantage, at_tokens, batch.values.cpu(), batch.loss_mask)
        if isinstance(self.advantage, TokenAdvantage):
            found["advantages"] = self.advantage(
                at_tokens, batch.loss_mask, values=None if batch.values is None else batch.values.cpu()
            )
            return found
        if batch.token_rewards is not None:
            return {**found, "advantages": self._turn_advantages(batch)}
        inputs: dict[str, Any] = {}
        if "lengths" in self.advantage.requires:
            inputs["lengths"] = batch.sequences.learned_lengths
        if "greedy_rewards" in self.advantage.requires:
            inputs["greedy_rewards"] = greedy_rewards(lab, batch.prompts)
        if "reward_parts" in self.advantage.requires:
            parts, weights = parts_and_weights(lab, batch, by=type(self.advantage).__name__)
            if self.kl_in_reward > 0:  # the KL is one more reward, with kl_in_reward as its weight
                drift = (rewards - batch.rewards) / self.kl_in_reward
                parts, weights = (
                    torch.cat([parts, drift[..., None]], dim=-1),
                    torch.cat([weights, weights.new_tensor([self.kl_in_reward])]),
                )
            inputs["reward_parts"], inputs["reward_weights"] = parts, weights
        return {**found, "advantages": self.advantage(rewards, **inputs)}

    def _turn_advantages(self, batch: RolloutBatch) -> Tensor:
        """[P, G, T] the advantage of each turn, from the rewards of this and later turns, relative to the same turn in its group.

        A conversation that ended before a turn has no later rewards. At the first turn it is the advantage of the total reward.
        """
        if self.advantage.requires:
            raise ConfigError(
                f"advantage {type(self.advantage).__name__} reads {', '.join(sorted(self.advantage.requires))} of whole "
                "conversations, so it has no turns; set task.credit=episode, or take another advantage"
            )
        assert batch.turns is not None
        assert isinstance(self.advantage, Advantage)
        at_tokens = token_rewards(batch, kl_in_reward=self.kl_in_reward, estimator=self.kl_in_reward_estimator)
        found = torch.zeros_like(at_tokens)
        for turn in range(int(batch.turns.max()) + 1):
            to_come = torch.where(batch.turns >= turn, at_tokens, 0.0).sum(dim=-1)
            found = torch.where(batch.turns == turn, self.advantage(to_come)[..., None].to(found.dtype), found)
        return found

    def updates(self, batch: RolloutBatch, rng: Stream) -> Iterator[RolloutBatch]:
        """In each pass the whole draw, or its minibatches in random order; weights are computed per minibatch."""
        for number in range(self.updates_per_batch):
            if self.minibatches == 1:
                yield batch
                continue
            order = rng.child("minibatches", number).numpy().permutation(len(batch))
            for rows in torch.from_numpy(order).tensor_split(self.minibatches):
                yield self._weighed(batch.take(rows.tolist()))

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: RolloutBatch) -> LossOutput:
        exact = "vocabulary_kl" in self.loss.requires
        requires = {"entropy"} | ({"kl_to_reference"} if exact else set()) | ({"values"} if self.reads_values else set())
        ours = policy.token_statistics(
            batch.sequences,
            temperature=batch.temperature,
            requires=frozenset(requires),
            reference=reference if exact else None,
        )
        batch = batch.to(ours.token_logprobs.device)
        assert batch.advantages is not None
        optional: dict[str, Any] = {
            "entropy": ours.entropy,
            "vocabulary_kl": ours.kl_to_reference,
            "proximal_logprobs": batch.proximal_logprobs,
            "rng": None if batch.rng is None else batch.rng.torch(),
        }
        required = {name: optional[name] for name in self.loss.requires}
        mask = batch.loss_mask
        inputs = (ours.token_logprobs, batch.sampling_logprobs, batch.advantages, mask, batch.reference_logprobs)
        figures = self.loss.figures(*inputs, **required)
        terms = {"policy": Term(self.loss(*inputs, **required), present(batch.weights))}
        if ours.entropy is not None:
            figures["entropy"] = ours.entropy
        if self.value_loss_weight > 0:
            values = self.value_loss(present(ours.values), present(batch.returns), mask, present(batch.values))
            terms["value"] = Term(values, present(batch.value_weights), self.value_loss_weight)
        return LossOutput(terms, {name: mean_of(values, mask) for name, values in figures.items()})

    def validate(self, lab: Lab) -> dict[str, float]:
        return {} if self.reward_threshold is None else {"accuracy_at_threshold": threshold_accuracy(lab, self.reward_threshold)}


def threshold_accuracy(lab: Lab, threshold: float, *, num_prompts: int = 512) -> float:
    """Share of held-out prompts whose greedy completion has a reward above the threshold."""
    prompts = lab.task.held_out_prompts()[:num_prompts]
    return float((greedy_rewards(lab, prompts) > threshold).double().mean())


# The targets of a critic: token rewards and returns.


def token_rewards(batch: RolloutBatch, *, kl_in_reward: float, estimator: str) -> Tensor:
    """[P, G, T] the reward at a completion's last token, minus kl_in_reward times the KL estimate at every token.

    If the batch says at which tokens its rewards were earned, they are placed there.
    """
    reference = batch.sampling_logprobs if batch.reference_logprobs is None else batch.reference_logprobs.cpu()
    at_end = batch.rewards if batch.token_rewards is None else torch.zeros_like(batch.rewards)
    tensors = (at_end, batch.sampling_logprobs, reference, batch.loss_mask)
    found = token_rewards_with_kl(*tensors, beta=kl_in_reward, estimator=estimator)
    return found if batch.token_rewards is None else found + batch.token_rewards


def returns_of(advantage: Advantage | TokenAdvantage, rewards: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """[P, G, T] regression targets of the values: GAE's returns, or without GAE the sum of future rewards."""
    if isinstance(advantage, Gae):
        return advantage.returns(rewards, mask, values)
    return discounted_returns(rewards, mask, gamma=1.0)


def explained_variance(batch: RolloutBatch) -> float:
    """1 - variance of (return - value) / variance of the returns, over tokens: 1 is a perfect critic, 0 a constant one."""
    assert batch.returns is not None
    assert batch.values is not None
    mask = batch.loss_mask
    returns, values = batch.returns[mask].double(), batch.values.cpu()[mask].double()
    spread = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / spread) if spread > 0 else 0.0
