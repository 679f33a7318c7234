"""Supervised fine-tuning on demonstrations, or on the chosen completions of pairs: the baseline of preference learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlx.algorithm.base import MOST_ROWS, Algorithm, AlgorithmType, Lab, LossOutput, Need
from rlx.data.preferences import PairBatch
from rlx.fields import count
from rlx.loss.weight import token_mean

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.policy.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Sft(Algorithm[PairBatch]):
    """Mean negative log-likelihood over all learned tokens of the batch's demonstrations: the chosen completions of pairs.

    pairs_per_step: demonstrations per step.
    """

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DEMONSTRATIONS})

    pairs_per_step: int = count(at_most=MOST_ROWS)

    def draw(self, lab: Lab) -> PairBatch:
        batch = lab.pairs(self.pairs_per_step).chosen_only()
        return batch.with_weights(sft=token_mean.formula(batch.chosen_mask))

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: PairBatch) -> LossOutput:
        logprobs = policy.token_logprobs(batch.sequences)[:, 0]
        return LossOutput.of(-logprobs, batch.weights["sft"], logprobs_chosen=logprobs.sum(dim=1))
