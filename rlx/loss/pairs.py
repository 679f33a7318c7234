"""What a preference loss reads: token log-probabilities of pairs, and the scores made of them.

Dimensions: B pairs, T tokens of a chosen and T' of a rejected completion.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rlx.errors import ShapeError

ROUNDING = 1e-3  # nats: two forwards of one model over a long completion differ by less; nearer margins are ties


@dataclass(frozen=True, eq=False)
class PairLogprobs:
    """Token log-probabilities of B pairs under one policy, prompt excluded, end-of-sequence token included.

    chosen: [B, T] and rejected: [B, T'], 0 outside of their masks; chosen_mask, rejected_mask: bool of the same shapes.
    The other fields are there only where a loss names them in `requires`:
    scores: [B, 2] of chosen and rejected;
    label: bool [B, 2], is this completion desirable; has_label: bool [B, 2], is it there at all;
    *_sum_p_squared: [B, T] and [B, T'], sum over the vocabulary of p squared; *_entropy: entropy in nats, per token;
    *_vocabulary_kl: KL(reference || policy) over the vocabulary, per token;
    mismatched: [B, M], without a gradient, sequence log-probabilities of completions of other rows after this row's prompt.
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
    mismatched: Tensor | None = None

    def __post_init__(self) -> None:
        for side in ("chosen", "rejected"):
            values, mask = getattr(self, side), getattr(self, f"{side}_mask")
            if values.shape != mask.shape or values.ndim != 2:
                raise ShapeError(f"{side} {tuple(values.shape)} and {side}_mask {tuple(mask.shape)} must both be [B, T]")
        if len(self.chosen) != len(self.rejected):
            raise ShapeError(f"{len(self.chosen)} chosen and {len(self.rejected)} rejected completions are no pairs")

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: slice | Tensor) -> PairLogprobs:
        """The pairs at `rows`: a slice or an index tensor."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: value[rows] for name, value in given.items() if value is not None})

    def require(self, names: Iterable[str], *, by: str) -> None:
        """Refuse pairs that lack an optional field which the loss `by` reads."""
        for name in sorted(names):
            sides = [name] if hasattr(self, name) else [f"chosen_{name}", f"rejected_{name}"]
            missing = [side for side in sides if getattr(self, side, None) is None]
            if missing and name not in ("label", "has_label"):
                raise ShapeError(
                    f"{by} needs {' and '.join(missing)}, which these pairs lack; "
                    f"give PairLogprobs the field, or take a task and an algorithm that offer {name!r}"
                )

    @property
    def chosen_sum(self) -> Tensor:
        """[B] sequence log-probability of the chosen completions."""
        return masked(self.chosen, self.chosen_mask).sum(dim=1)

    @property
    def rejected_sum(self) -> Tensor:
        """[B] sequence log-probability of the rejected completions."""
        return masked(self.rejected, self.rejected_mask).sum(dim=1)

    @property
    def chosen_length(self) -> Tensor:
        """[B] tokens of the chosen completions, in the dtype of the log-probabilities."""
        return self.chosen_mask.sum(dim=1).to(self.chosen.dtype)

    @property
    def rejected_length(self) -> Tensor:
        """[B] tokens of the rejected completions, in the dtype of the log-probabilities."""
        return self.rejected_mask.sum(dim=1).to(self.rejected.dtype)

    @property
    def chosen_mean(self) -> Tensor:
        """[B] mean token log-probability of the chosen completions; 0 for an empty one."""
        return self.chosen_sum / self.chosen_length.clamp(min=1)

    @property
    def rejected_mean(self) -> Tensor:
        """[B] mean token log-probability of the rejected completions; 0 for an empty one."""
        return self.rejected_sum / self.rejected_length.clamp(min=1)


@dataclass(frozen=True, eq=False)
class Scores:
    """One number for each completion of a pair: its log-ratio to the reference, or its log-probability where there is none.

    chosen, rejected: [B]; chosen_length, rejected_length: [B] tokens, in the same dtype.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    @staticmethod
    def of(policy: PairLogprobs, reference: PairLogprobs | None) -> Scores:
        """Sequence log-ratios a = c - c0 and b = r - r0; c and r themselves without a reference."""
        chosen, rejected = policy.chosen_sum, policy.rejected_sum
        if reference is not None:
            chosen, rejected = chosen - reference.chosen_sum.detach(), rejected - reference.rejected_sum.detach()
        return Scores(chosen, rejected, policy.chosen_length, policy.rejected_length)

    @property
    def margin(self) -> Tensor:
        """[B] by how much the chosen completion's score is larger."""
        return self.chosen - self.rejected

    def mean_of_tokens(self) -> Scores:
        """The scores divided by the lengths of their completions; an empty one counts as one token."""
        return Scores(
            self.chosen / self.chosen_length.clamp(min=1),
            self.rejected / self.rejected_length.clamp(min=1),
            self.chosen_length,
            self.rejected_length,
        )


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` with 0 outside of the mask, whatever stood there; the same shape."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
