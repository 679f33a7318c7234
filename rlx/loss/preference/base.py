"""What every loss of pairs is: a formula, the modifiers around it, and the weights of its values.

Dimensions: B pairs, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError, ShapeError
from rlx.fields import check_hyperparameters
from rlx.loss.ratio import stop_gradient

# What a preference loss reads: token log-probabilities of pairs, and the scores made of them.

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


# What every loss of pairs is: a formula, the modifiers around it, and the weights of its values.


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """A loss is `(weights * values).sum()`: values from the formula, weights from masks and lengths alone.

    requires: names of the optional inputs that it reads; nobody computes them unless they are named.
    needs_reference: does it read the reference's log-probabilities?
    couples_rows: does the value of one row depend on other rows (sorting, a batch-wide baseline)? If so it must be
        called once on all rows of an update, whatever the micro-batch.
    Class variables hold what the formula needs; an instance holds the same names with its modifiers taken in.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    needs_reference: ClassVar[bool] = True
    couples_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    @abstractmethod
    def weights(self, completion_mask: Tensor) -> Tensor:
        """Weights of the values, computed once over the rows that one optimiser update sees."""


@dataclass(frozen=True, kw_only=True)
class PreferenceModifier:
    """Changes what a preference loss reads or returns, at one of three places; each is the identity unless overridden.

    moves_reference: does it change no formula, but the weights of the reference during training?
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    removes_reference: ClassVar[bool] = False
    changes_scores: ClassVar[bool] = False
    weighs_rows: ClassVar[bool] = False
    moves_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def logprobs(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[PairLogprobs, PairLogprobs | None]:
        """Before the formula: other token log-probabilities."""
        return policy, reference

    def score(self, log_ratio: Tensor) -> Tensor:
        """Within a formula of scores: a function of the log-ratio in its place. [B] -> [B]."""
        return log_ratio

    def row_weight(self, policy: PairLogprobs) -> Tensor:
        """After the formula: a constant that multiplies each pair's value. [B]."""
        return torch.ones_like(policy.chosen_sum)


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss(Loss):
    """A loss of pairs: `loss(policy, reference) -> [B]`; write `values` in a subclass.

    modifiers: name -> modifier, applied in their order around the formula (see rlx.loss.preference.modifier).
    per_token (class variable): are the rewards it implies means over tokens rather than sums?
    reads_rejected (class variable): does the formula read both completions, as a preference does? A likelihood of the chosen
        one alone does not, and says so here; an instance holds the same name with its parts taken in.
    """

    per_token: ClassVar[bool] = False
    reads_rejected: ClassVar[bool] = True

    modifiers: Mapping[str, PreferenceModifier] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        modifiers = dict(self.modifiers)
        object.__setattr__(self, "modifiers", modifiers)
        for name, modifier in modifiers.items():
            self._check_modifier(name, modifier)
        object.__setattr__(self, "requires", self.requires.union(*(modifier.requires for modifier in modifiers.values())))
        removed = any(modifier.removes_reference for modifier in modifiers.values())
        object.__setattr__(self, "needs_reference", self.needs_reference and not removed)
        moving = [f"modifiers.{name}" for name, modifier in modifiers.items() if modifier.moves_reference]
        if len(moving) > 1:
            raise ConfigError(f"{' and '.join(moving)} of {type(self).__name__} both move the reference; keep one of them")
        if moving and not self.needs_reference:
            raise ConfigError(f"{type(self).__name__} reads no reference, so {moving[0]} would change nothing; drop it")

    def _check_modifier(self, name: str, modifier: object) -> None:
        own = type(self).__name__
        if not isinstance(modifier, PreferenceModifier):
            raise ConfigError(
                f"modifiers.{name} of {own} is {modifier!r}, not a modifier; "
                "give it a _target_ from rlx.loss.preference.modifier or rlx.loss.preference.modifier"
            )
        if modifier.changes_scores:
            raise ConfigError(
                f"{own} has no log-ratio that {type(modifier).__name__} could replace; take modifiers.{name} away, or "
                "choose a loss of the margin of log-ratios: dpo, dpo_conservative, dpo_robust, dpo_normalized, ipo, hinge, exo"
            )
        if modifier.weighs_rows and self.couples_rows:
            raise ConfigError(
                f"{own} mixes the pairs of a batch, so {type(modifier).__name__} cannot weigh each; drop modifiers.{name}"
            )
        if modifier.removes_reference and not type(self).needs_reference:
            raise ConfigError(f"{own} reads no reference, so modifiers.{name} would change nothing; drop it")

    @property
    def moving_reference(self) -> PreferenceModifier | None:
        """How the reference follows the policy in training; None where it stays as it was."""
        return next((modifier for modifier in self.modifiers.values() if modifier.moves_reference), None)

    def __call__(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B] one value a pair."""
        self._check_inputs(policy, reference)
        given = policy
        for modifier in self.modifiers.values():
            policy, reference = modifier.logprobs(policy, reference)
        values = self.values(policy, reference if type(self).needs_reference else None)
        for modifier in self.modifiers.values():
            if modifier.weighs_rows:
                weight = stop_gradient(modifier.row_weight(given))
                values = values * (weight if values.ndim == 1 else weight[:, None])
        return values

    def _check_inputs(self, policy: PairLogprobs, reference: PairLogprobs | None) -> None:
        own = type(self).__name__
        if self.needs_reference and reference is None:
            raise ShapeError(f"{own} needs the reference's log-probabilities, but got None; pass reference.pair_logprobs(batch)")
        if reference is not None and reference.chosen.shape[0] != policy.chosen.shape[0]:
            raise ShapeError(f"{own} got {len(policy.chosen)} pairs of the policy and {len(reference.chosen)} of the reference")
        policy.require(self.requires, by=own)

    @abstractmethod
    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B] the formula."""

    def weights(self, completion_mask: Tensor) -> Tensor:
        """[B] the mean over pairs. completion_mask: bool [B, T] or [B, 2, T]."""
        rows = completion_mask.shape[0]
        return completion_mask.new_full((rows,), 1.0 / max(rows, 1), dtype=torch.float64)

    def implicit_rewards(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[Tensor, Tensor]:
        """([B], [B]) for metrics: beta times the scores of chosen and rejected; they carry no gradient."""
        scores = Scores.of(policy, reference if self.needs_reference else None)
        scores = scores.mean_of_tokens() if self.per_token else scores
        beta = getattr(self, "beta", 1.0)
        return (beta * scores.chosen).detach(), (beta * scores.rejected).detach()

    def reward_rounding(self, policy: PairLogprobs) -> Tensor:
        """[B] implicit rewards nearer to each other than this are equal but for rounding: ROUNDING nats in their unit.

        0 without a reference: there a reward is one log-probability, not what is left of two that are almost the same.
        """
        nats = ROUNDING * abs(getattr(self, "beta", 1.0)) if self.needs_reference else 0.0
        lengths = torch.minimum(policy.chosen_length, policy.rejected_length).clamp(min=1)
        return nats / lengths if self.per_token else torch.full_like(lengths, nats)


@dataclass(frozen=True, kw_only=True)
class ScoreLoss(PreferenceLoss):
    """A preference loss that reads nothing but the scores of the pair; write `of_scores` in a subclass.

    takes_divergence: may another f-divergence replace the log-ratios? It may where the formula reads them as a margin.
    """

    takes_divergence: ClassVar[bool] = False

    def _check_modifier(self, name: str, modifier: object) -> None:
        if self.takes_divergence and isinstance(modifier, PreferenceModifier) and modifier.changes_scores:
            return
        super()._check_modifier(name, modifier)

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B] the formula of the scores, after the modifiers of scores."""
        scores = Scores.of(policy, reference)
        for modifier in self.modifiers.values():
            if modifier.changes_scores:
                scores = replace(scores, chosen=modifier.score(scores.chosen), rejected=modifier.score(scores.rejected))
        return self.of_scores(scores.mean_of_tokens() if self.per_token else scores)

    @abstractmethod
    def of_scores(self, scores: Scores) -> Tensor:
        """[B] the formula."""
