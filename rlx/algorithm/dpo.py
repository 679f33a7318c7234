"""Direct preference optimisation with any preference loss, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlx.algorithm.base import Algorithm, AlgorithmType, Lab, LossOutput, Need, Term
from rlx.algorithm.pair_metrics import pair_metrics
from rlx.data.preferences import PairBatch
from rlx.errors import ConfigError
from rlx.loss.base import PreferenceLoss

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.policy.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Dpo(Algorithm[PairBatch]):
    """Learns from preference pairs alone: Rafailov et al. 2023 (arXiv:2305.18290) with loss=dpo.

    loss: any preference loss. pairs_per_step: pairs of one update.
    """

    kind: ClassVar[AlgorithmType] = AlgorithmType.PREFERENCE_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS, Need.REFERENCE})

    loss: PreferenceLoss
    pairs_per_step: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs_per_step < 1:
            raise ConfigError(f"algorithm.pairs_per_step is {self.pairs_per_step}; a step learns from at least one pair")

    @property
    def couples_rows(self) -> bool:
        return self.loss.couples_rows

    def draw(self, lab: Lab) -> PairBatch:
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(preference=self.loss.weights(batch.chosen_mask))

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: PairBatch) -> LossOutput:
        ours = policy.pair_logprobs(batch, self.loss.requires, reference=reference)
        theirs = reference.pair_logprobs(batch, self.loss.requires)
        term = Term(self.loss(ours, theirs), batch.weights["preference"])
        return LossOutput({"preference": term}, pair_metrics(self.loss, ours, theirs))
