"""A preference loss, the likelihood of the chosen completions, and a regulariser, each with a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from rlx.algorithm.base import MOST_ROWS, Algorithm, AlgorithmType, Lab, LossOutput, Need, Term
from rlx.algorithm.dpo import pair_metrics
from rlx.algorithm.regularizer import Regularizer
from rlx.data.preferences import PairBatch
from rlx.errors import ConfigError
from rlx.fields import count, within
from rlx.loss.preference.base import PreferenceLoss
from rlx.loss.weight import sequence_mean
from rlx.optimizer.step import Clipping

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.policy.reference import Reference

_NO_NEGATIVE = "a negative weight would maximise its term; use 0 to leave it out"


@dataclass(frozen=True, kw_only=True)
class CustomDpo(Algorithm[PairBatch]):
    """w_p · preference loss + w_s · mean negative log-likelihood of chosen + w_r · regulariser.

    The likelihood term is that of Pang et al. 2024 (arXiv:2404.19733, eq. 1): the mean over a completion's tokens, then over
    pairs. A term of weight 0 is not computed.

    loss: any preference loss; its beta is loss.beta. pairs_per_step: pairs per update.
    preference_loss_weight, sft_loss_weight, regularization_weight: w_p, w_s, w_r.
    regularizer: the penalty on the policy (algorithm/regularizer=squared_log_ratio, entropy, length).
    adaptive_gradient_clipping: largest ratio of a unit's gradient norm to its weight norm (Brock et al. 2021, arXiv:2102.06171),
    or null.
    """

    kind: ClassVar[AlgorithmType] = AlgorithmType.PREFERENCE_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS, Need.REFERENCE})

    loss: PreferenceLoss
    regularizer: Regularizer
    pairs_per_step: int = count(at_most=MOST_ROWS)
    preference_loss_weight: float = within(at_least=0, advice=_NO_NEGATIVE)
    sft_loss_weight: float = within(at_least=0, advice=_NO_NEGATIVE)
    regularization_weight: float = within(at_least=0, advice=_NO_NEGATIVE)
    adaptive_gradient_clipping: float | None = within(above=0, optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.preference_loss_weight or self.sft_loss_weight or self.regularization_weight):
            raise ConfigError(
                "all weights of custom_dpo are 0, so there is nothing to learn; raise algorithm.preference_loss_weight"
            )

    @property
    def couples_rows(self) -> bool:
        return self.loss.couples_rows and self.preference_loss_weight > 0

    @property
    def clipping(self) -> Clipping:
        return Clipping(max_grad_norm=self.max_grad_norm, adaptive=self.adaptive_gradient_clipping)

    def draw(self, lab: Lab) -> PairBatch:
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(
            preference=self.loss.weights(batch.chosen_mask),
            sft=sequence_mean.formula(batch.chosen_mask, count_empty=True),
            regularization=torch.full((len(batch),), 1 / len(batch)),
        )

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: PairBatch) -> LossOutput:
        requires = self.loss.requires | (self.regularizer.requires if self.regularization_weight > 0 else frozenset())
        ours = policy.pair_logprobs(batch, requires, reference=reference)
        theirs = reference.pair_logprobs(batch, self.loss.requires)
        terms = {}
        if self.preference_loss_weight > 0:
            terms["preference"] = Term(self.loss(ours, theirs), batch.weights["preference"], self.preference_loss_weight)
        if self.sft_loss_weight > 0:
            terms["sft"] = Term(-ours.chosen, batch.weights["sft"], self.sft_loss_weight)
        if self.regularization_weight > 0:
            terms["regularization"] = Term(
                self.regularizer(ours, theirs), batch.weights["regularization"], self.regularization_weight
            )
        return LossOutput(terms, pair_metrics(self.loss, ours, theirs))
