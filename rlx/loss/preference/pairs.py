"""The inputs of a preference loss: token log-probabilities of pairs, and the named quantities derived from them.

Dimensions: B pairs, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.loss.base import masked


@dataclass(frozen=True, eq=False)
class PairLogprobs:
    """Token log-probabilities of B pairs under one policy, prompt excluded, end-of-sequence token included.

    chosen: [B, T] and rejected: [B, T'], 0 outside of their masks; chosen_mask, rejected_mask: bool of the same shapes.
    The other fields are set only if a loss names them in `requires`:
    scores: [B, 2] of chosen and rejected;
    label: bool [B, 2], is this completion desirable; has_label: bool [B, 2], does it exist;
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
            raise ShapeError(f"{len(self.chosen)} chosen and {len(self.rejected)} rejected completions are not pairs")

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: slice | Tensor) -> PairLogprobs:
        """The pairs at `rows`: a slice or an index tensor."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: value[rows] for name, value in given.items() if value is not None})

    def require(self, names: Iterable[str], *, by: str) -> None:
        """Raise an error if the pairs lack an optional field that the loss `by` reads."""
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


class Input(cached_property[Tensor]):
    """A tensor that a formula of pairs may read by name, computed at the first read; the docstring gives its shape.

    reference: does it need the reference's log-probabilities? rejected: does it need those of rejected completions?
    per_token: is it a mean over tokens? requires: the optional field of PairLogprobs that it needs, if any.
    """

    def __init__(
        self,
        read: Callable[[Any], Tensor],
        *,
        reference: bool = False,
        rejected: bool = False,
        per_token: bool = False,
        requires: str | None = None,
    ) -> None:
        super().__init__(read)
        self.reference, self.rejected, self.per_token, self.requires = reference, rejected, per_token, requires


def made_of(**flags: Any) -> Callable[[Callable[[Any], Tensor]], Input]:
    """Mark a method of `PairInputs` as an input with these flags."""
    return lambda read: Input(read, **flags)


@dataclass(frozen=True, eq=False)
class PairInputs:
    """The inputs that a formula of pairs can read: `inputs[name]`.

    Notation: c and r are the summed log-probabilities of the chosen and the rejected completion under the policy, c0 and r0 under
    the reference, n_c and n_r their lengths in tokens. Without a reference, c0 = r0 = 0.

    policy, reference: PairLogprobs. divergences: functions that replace the log-ratio, [B] -> [B], applied one after the other.
    """

    policy: PairLogprobs
    reference: PairLogprobs | None
    divergences: Sequence[Callable[[Tensor], Tensor]] = ()

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    @made_of(reference=True)
    def chosen(self) -> Tensor:
        """[B] a = c - c0, the log-ratio of the chosen completion to the reference."""
        return self._score(self.policy.chosen_sum, None if self.reference is None else self.reference.chosen_sum)

    @made_of(reference=True, rejected=True)
    def rejected(self) -> Tensor:
        """[B] b = r - r0, the log-ratio of the rejected completion to the reference."""
        return self._score(self.policy.rejected_sum, None if self.reference is None else self.reference.rejected_sum)

    def _score(self, policy: Tensor, reference: Tensor | None) -> Tensor:
        score = policy if reference is None else policy - reference.detach()
        for divergence in self.divergences:
            score = divergence(score)
        return score

    @made_of(reference=True, rejected=True)
    def margin(self) -> Tensor:
        """[B] Δ = a - b."""
        return self.chosen - self.rejected

    @made_of(reference=True, per_token=True)
    def mean_chosen(self) -> Tensor:
        """[B] a / n_c; an empty completion counts as one token."""
        return self.chosen / self.chosen_length.clamp(min=1)

    @made_of(reference=True, rejected=True, per_token=True)
    def mean_rejected(self) -> Tensor:
        """[B] b / n_r."""
        return self.rejected / self.rejected_length.clamp(min=1)

    @made_of(reference=True, rejected=True, per_token=True)
    def mean_margin(self) -> Tensor:
        """[B] a / n_c - b / n_r."""
        return self.mean_chosen - self.mean_rejected

    @made_of()
    def chosen_logprob(self) -> Tensor:
        """[B] c, the log-probability of the chosen completion under the policy."""
        return self.policy.chosen_sum

    @made_of(rejected=True)
    def rejected_logprob(self) -> Tensor:
        """[B] r, the log-probability of the rejected completion under the policy."""
        return self.policy.rejected_sum

    @made_of(rejected=True)
    def policy_margin(self) -> Tensor:
        """[B] c - r."""
        return self.chosen_logprob - self.rejected_logprob

    @made_of(reference=True, rejected=True)
    def reference_margin(self) -> Tensor:
        """[B] c0 - r0, a constant."""
        assert self.reference is not None
        return (self.reference.chosen_sum - self.reference.rejected_sum).detach()

    @made_of(per_token=True)
    def mean_chosen_logprob(self) -> Tensor:
        """[B] c̄ = c / n_c; an empty completion counts as one token."""
        return self.policy.chosen_mean

    @made_of(rejected=True, per_token=True)
    def mean_rejected_logprob(self) -> Tensor:
        """[B] r̄ = r / n_r."""
        return self.policy.rejected_mean

    @made_of(rejected=True, per_token=True)
    def mean_policy_margin(self) -> Tensor:
        """[B] c̄ - r̄."""
        return self.mean_chosen_logprob - self.mean_rejected_logprob

    @made_of()
    def chosen_token_logprobs(self) -> Tensor:
        """[B, T] log-probability of each token of the chosen completion under the policy, 0 outside of its mask."""
        return masked(self.policy.chosen, self.policy.chosen_mask)

    @made_of()
    def chosen_length(self) -> Tensor:
        """[B] n_c, in the dtype of the log-probabilities."""
        return self.policy.chosen_length

    @made_of(rejected=True)
    def rejected_length(self) -> Tensor:
        """[B] n_r."""
        return self.policy.rejected_length

    @made_of(requires="scores")
    def scores(self) -> Tensor:
        """[B, 2] scores of the chosen and the rejected completion, if the data has them."""
        assert self.policy.scores is not None
        return self.policy.scores.to(self.policy.chosen.dtype)

    @made_of(requires="scores")
    def score_gap(self) -> Tensor:
        """[B] s_c - s_r, the difference of the scores."""
        assert self.policy.scores is not None
        return (self.policy.scores[:, 0] - self.policy.scores[:, 1]).to(self.policy.chosen.dtype)

    @made_of(requires="label")
    def label(self) -> Tensor:
        """bool [B, 2] is this completion desirable? In pairs without labels, the chosen one is and the rejected one is not."""
        if self.policy.label is not None:
            return self.policy.label
        return torch.tensor([True, False], device=self.policy.chosen.device).expand(len(self.policy), 2)

    @made_of(requires="label")
    def has_label(self) -> Tensor:
        """bool [B, 2] does the row have this completion? A pair has both."""
        return torch.ones_like(self.label) if self.policy.has_label is None else self.policy.has_label

    @made_of(reference=True, requires="mismatched")
    def mismatched(self) -> Tensor:
        """[B, M] log-ratios of completions of other rows after this row's prompt, a constant."""
        if self.policy.mismatched is None or self.reference is None or self.reference.mismatched is None:
            raise ShapeError(
                "the reference's log-probabilities of mismatched completions are needed too; see PairLogprobs.mismatched"
            )
        return self.policy.mismatched - self.reference.mismatched

    @made_of(requires="entropy")
    def chosen_entropy(self) -> Tensor:
        """[B, T] entropy of the policy at each token of the chosen completion, in nats, 0 outside of its mask."""
        return self._statistic("chosen", "entropy")

    @made_of(rejected=True, requires="entropy")
    def rejected_entropy(self) -> Tensor:
        """[B, T'] the same for the rejected completion."""
        return self._statistic("rejected", "entropy")

    @made_of(reference=True, requires="vocabulary_kl")
    def chosen_vocabulary_kl(self) -> Tensor:
        """[B, T] KL(reference || policy) over the vocabulary at each token of the chosen completion, 0 outside of its mask."""
        return self._statistic("chosen", "vocabulary_kl")

    @made_of(reference=True, rejected=True, requires="vocabulary_kl")
    def rejected_vocabulary_kl(self) -> Tensor:
        """[B, T'] the same for the rejected completion."""
        return self._statistic("rejected", "vocabulary_kl")

    def _statistic(self, side: str, name: str) -> Tensor:
        return masked(getattr(self.policy, f"{side}_{name}"), getattr(self.policy, f"{side}_mask"))


# The inputs that a formula of pairs may name: PairLogprobs as a whole, or quantities derived from them.
PAIR_INPUTS: dict[str, Input] = {
    "policy": Input(lambda inputs: inputs.policy, rejected=True),
    "reference": Input(lambda inputs: inputs.reference, reference=True),
    **{name: item for name, item in vars(PairInputs).items() if isinstance(item, Input)},
}
