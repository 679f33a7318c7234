"""Direct preference optimisation with any preference loss, on the task's pairs (Dpo) or on sampled ones (OnlineDpo)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from rlx.algorithm.base import MOST_ROWS, Algorithm, AlgorithmType, Lab, LossOutput, Need, Term, mean_of
from rlx.data.preferences import PairBatch
from rlx.fields import count
from rlx.loss.preference.base import PreferenceLoss
from rlx.loss.preference.pairs import PairLogprobs
from rlx.rollout.draw import roll_out
from rlx.rollout.rollouts import best_against_worst

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.policy.reference import Reference


def pair_metrics(loss: PreferenceLoss, policy: PairLogprobs, reference: PairLogprobs | None) -> dict[str, tuple[Tensor, Tensor]]:
    """The metrics that every preference algorithm logs: name -> (sum, count) over pairs.

    rewards_chosen, rewards_rejected (the loss's implicit rewards: beta times the log-ratio), margin (their difference), accuracy
    (share of margins above 0; a margin within rounding error is a tie and counts half), and logprobs_chosen,
    logprobs_rejected: sums over the completion in nats.
    """
    chosen, rejected = loss.implicit_rewards(policy, reference)
    margin = chosen - rejected
    accuracy = (margin > 0).to(margin.dtype).masked_fill(margin.abs() <= loss.reward_rounding(policy), 0.5)
    figures = {
        "rewards_chosen": chosen,
        "rewards_rejected": rejected,
        "margin": margin,
        "accuracy": accuracy,
        "logprobs_chosen": policy.chosen_sum,
        "logprobs_rejected": policy.rejected_sum,
    }
    return {name: mean_of(values) for name, values in figures.items()}


@dataclass(frozen=True, kw_only=True)
class _PairLoss(Algorithm[PairBatch]):
    """A preference loss on the pairs of a draw, wherever they come from."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.PREFERENCE_LEARNING

    loss: PreferenceLoss

    @property
    def couples_rows(self) -> bool:
        return self.loss.couples_rows

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: PairBatch) -> LossOutput:
        ours = policy.pair_logprobs(batch, self.loss.requires, reference=reference)
        theirs = reference.pair_logprobs(batch, self.loss.requires)
        term = Term(self.loss(ours, theirs), batch.weights["preference"])
        return LossOutput({"preference": term}, pair_metrics(self.loss, ours, theirs))


@dataclass(frozen=True, kw_only=True)
class Dpo(_PairLoss):
    """Learns from preference pairs only: Rafailov et al. 2023 (arXiv:2305.18290) with loss=dpo.

    loss: any preference loss. pairs_per_step: pairs per update.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS, Need.REFERENCE})

    pairs_per_step: int = count(at_most=MOST_ROWS)

    def draw(self, lab: Lab) -> PairBatch:
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(preference=self.loss.weights(batch.chosen_mask))


@dataclass(frozen=True, kw_only=True)
class OnlineDpo(_PairLoss):
    """Any preference loss on pairs of sampled completions: the best of a group is chosen, the worst rejected.

    Guo et al. 2024 (arXiv:2402.04792), with a reward instead of a judge. A group whose rewards are all equal gives no pair;
    the loss is the mean over the other groups.

    loss: any preference loss. prompts_per_step, group_size: prompts per draw, and completions sampled per prompt.
    resample_attempts: how often to replace groups whose rewards are all equal by groups of other prompts.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    prompts_per_step: int = count(at_most=MOST_ROWS)
    group_size: int = count(at_least=2, advice="a pair is made of two completions of a prompt", at_most=MOST_ROWS)
    resample_attempts: int = count(at_least=0)

    def draw(self, lab: Lab) -> PairBatch:
        rollouts = roll_out(
            lab,
            prompts_per_step=self.prompts_per_step,
            group_size=self.group_size,
            resample_attempts=self.resample_attempts,
            filter_truncated=False,
        )
        pairs = best_against_worst(rollouts)
        weighed = pairs.with_weights(preference=self.loss.weights(pairs.chosen_mask))
        return replace(weighed, tokens_sampled=rollouts.tokens_sampled, metrics={**pairs.metrics, "pairs": float(len(pairs))})
