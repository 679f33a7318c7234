"""Preference learning from the policy's own completions: the best of a group against its worst."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from rlx.algorithm.base import Algorithm, AlgorithmType, Lab, LossOutput, Need, Term
from rlx.algorithm.pair_metrics import pair_metrics
from rlx.data.preferences import PairBatch
from rlx.errors import ConfigError
from rlx.loss.base import PreferenceLoss
from rlx.rollout.draw import roll_out
from rlx.rollout.ranking import best_against_worst

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.policy.reference import Reference


@dataclass(frozen=True, kw_only=True)
class OnlineDpo(Algorithm[PairBatch]):
    """Any preference loss on pairs of sampled completions (Guo et al. 2024, arXiv:2402.04792, a reward in place of the judge).

    A group whose rewards are all equal gives no pair. The loss is the mean over the pairs there are.

    loss: any preference loss. prompts_per_step, group_size: prompts of a draw, and completions sampled of each.
    resample_attempts: how often groups without signal are given up for other prompts.
    """

    kind: ClassVar[AlgorithmType] = AlgorithmType.PREFERENCE_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    loss: PreferenceLoss
    prompts_per_step: int
    group_size: int
    resample_attempts: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise ConfigError(
                f"algorithm.group_size is {self.group_size}; a pair is made of at least two completions of a prompt"
            )
        if self.prompts_per_step < 1:
            raise ConfigError(f"algorithm.prompts_per_step is {self.prompts_per_step}; a step needs at least one prompt")

    @property
    def couples_rows(self) -> bool:
        return self.loss.couples_rows

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

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: PairBatch) -> LossOutput:
        ours = policy.pair_logprobs(batch, self.loss.requires, reference=reference)
        theirs = reference.pair_logprobs(batch, self.loss.requires)
        term = Term(self.loss(ours, theirs), batch.weights["preference"])
        return LossOutput({"preference": term}, pair_metrics(self.loss, ours, theirs))
