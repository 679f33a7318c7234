"""What a preference loss reads: token log-probabilities of pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rlx.errors import ShapeError


@dataclass(frozen=True, eq=False)
class PairLogprobs:
    """Token log-probabilities of B pairs under one policy, prompt excluded, end-of-sequence token included.

    chosen: [B, T] and rejected: [B, T'], 0 outside of their masks; chosen_mask, rejected_mask: bool of the same shapes.
    The other fields are there only where a loss names them in `requires`:
    scores: [B, 2] of chosen and rejected; label: bool [B, 2], is this completion desirable; has_label: bool [B, 2], is it there at all;
    *_sum_p_squared: [B, T] and [B, T'], sum over the vocabulary of p squared; *_vocabulary_kl: KL(reference || policy), per token;
    *_entropy: entropy over the vocabulary in nats, per token.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_mask: Tensor
    rejected_mask: Tensor
    scores: Tensor | None = None
    label: Tensor | None = None
    has_label: Tensor | None = None
    chosen_sum_p_squared: Tensor | None = None
    rejected_sum_p_squared: Tensor | None = None
    chosen_vocabulary_kl: Tensor | None = None
    rejected_vocabulary_kl: Tensor | None = None
    chosen_entropy: Tensor | None = None
    rejected_entropy: Tensor | None = None

    def __post_init__(self) -> None:
        for side in ("chosen", "rejected"):
            values, mask = getattr(self, side), getattr(self, f"{side}_mask")
            if values.shape != mask.shape or values.ndim != 2:
                raise ShapeError(f"{side} {tuple(values.shape)} and {side}_mask {tuple(mask.shape)} must both be [B, T]")
        if len(self.chosen) != len(self.rejected):
            raise ShapeError(f"{len(self.chosen)} chosen and {len(self.rejected)} rejected completions are no pairs")

    @property
    def chosen_sum(self) -> Tensor:
        """[B] sequence log-probability of the chosen completions."""
        return self.chosen.sum(dim=1)

    @property
    def rejected_sum(self) -> Tensor:
        """[B] sequence log-probability of the rejected completions."""
        return self.rejected.sum(dim=1)

    @property
    def chosen_length(self) -> Tensor:
        """[B] tokens of the chosen completions, in the dtype of the log-probabilities."""
        return self.chosen_mask.sum(dim=1).to(self.chosen.dtype)

    @property
    def rejected_length(self) -> Tensor:
        """[B] tokens of the rejected completions, in the dtype of the log-probabilities."""
        return self.rejected_mask.sum(dim=1).to(self.rejected.dtype)
