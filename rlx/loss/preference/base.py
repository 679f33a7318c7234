"""The base of preference losses (a formula, modifiers, weights), and the decorator that makes a loss from a function.

Dimensions: B pairs, T tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError, ShapeError
from rlx.fields import Ranged, class_of, evaluated, reads_of, with_options
from rlx.loss.base import Loss, RunningMean, require_shape, stop_gradient
from rlx.loss.preference.pairs import PAIR_INPUTS, PairInputs, PairLogprobs
from rlx.loss.state import check_state, with_state

ROUNDING = 1e-3  # nats: two forward passes of one model over a long completion differ by less; smaller margins are ties


@dataclass(frozen=True, kw_only=True)
class PreferenceModifier(Ranged):
    """Changes the inputs or the values of a preference loss at one of three places; each is the identity unless overridden.

    moves_reference: true if it changes the weights of the reference during training and not the formula.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    removes_reference: ClassVar[bool] = False
    changes_scores: ClassVar[bool] = False
    weighs_rows: ClassVar[bool] = False
    moves_reference: ClassVar[bool] = False

    def logprobs(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[PairLogprobs, PairLogprobs | None]:
        """Before the formula: replace the token log-probabilities."""
        return policy, reference

    def score(self, log_ratio: Tensor) -> Tensor:
        """Within the formula: replace the log-ratio by a function of it. [B] -> [B]."""
        return log_ratio

    def row_weight(self, policy: PairLogprobs) -> Tensor:
        """After the formula: a constant factor of each pair's value. [B]."""
        return torch.ones_like(policy.chosen_sum)


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss(Loss):
    """A loss of pairs: `loss(policy, reference) -> [B]`; a subclass implements `values`.

    modifiers: name -> modifier, applied in this order around the formula (see rlx.loss.preference.modifier).
    per_token (class variable): are the implicit rewards means over tokens rather than sums?
    reads_rejected (class variable): does the formula read both completions? False for a likelihood of the chosen completion
        alone. The attribute of that name on an instance takes its parts into account.
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
                f"modifiers.{name} of {own} is {modifier!r}, not a modifier; give it a _target_ from rlx.loss.preference.modifier"
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
        """How the reference follows the policy during training; None if it stays fixed."""
        return next((modifier for modifier in self.modifiers.values() if modifier.moves_reference), None)

    def names_of(self, required: str) -> str:
        """The formula's own names of an optional input: odpo reads scores as score_gap."""
        return (
            ", ".join(name for name in self.reads if name in PAIR_INPUTS and PAIR_INPUTS[name].requires == required) or required
        )

    def __call__(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """One value per pair [B]."""
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
        """The formula: values [B]."""

    def weights(self, completion_mask: Tensor) -> Tensor:
        """[B] weights of the mean over pairs. completion_mask: bool [B, T] or [B, 2, T]."""
        rows = completion_mask.shape[0]
        return completion_mask.new_full((rows,), 1.0 / max(rows, 1), dtype=torch.float64)

    def implicit_rewards(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[Tensor, Tensor]:
        """([B], [B]) for metrics, detached: beta times the scores of chosen and rejected."""
        inputs = PairInputs(policy, reference if self.needs_reference else None)
        chosen, rejected = (inputs.mean_chosen, inputs.mean_rejected) if self.per_token else (inputs.chosen, inputs.rejected)
        beta = getattr(self, "beta", 1.0)
        return (beta * chosen).detach(), (beta * rejected).detach()

    def reward_rounding(self, policy: PairLogprobs) -> Tensor:
        """[B] implicit rewards that differ by less than this are equal up to rounding: ROUNDING nats in their unit.

        0 without a reference: a reward is then one log-probability, not the difference of two almost equal ones.
        """
        nats = ROUNDING * abs(getattr(self, "beta", 1.0)) if self.needs_reference else 0.0
        lengths = torch.minimum(policy.chosen_length, policy.rejected_length).clamp(min=1)
        return nats / lengths if self.per_token else torch.full_like(lengths, nats)


@dataclass(frozen=True, kw_only=True)
class PreferenceFormula(PreferenceLoss):
    """A preference loss defined by one function, whose parameter names say which inputs it reads; `preference_loss` creates its
    subclasses.

    takes_divergence: may another f-divergence replace the log-ratio? True if the formula reads only a margin.
    """

    takes_divergence: ClassVar[bool] = False

    def _check_modifier(self, name: str, modifier: object) -> None:
        if self.takes_divergence and isinstance(modifier, PreferenceModifier) and modifier.changes_scores:
            return
        super()._check_modifier(name, modifier)

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """Call the formula with the inputs that it reads, log-ratios after their modifiers: values [B]."""
        divergences = [modifier.score for modifier in self.modifiers.values() if modifier.changes_scores]
        rows = torch.ones(len(policy), dtype=torch.bool)
        given = with_state(self, PairInputs(policy, reference, divergences).__getitem__, like=policy.chosen, masks=[rows])
        return require_shape(
            evaluated(self, given), (len(policy),), by=type(self).__name__, of="a value for each pair (not reduced)"
        )


@with_options
def preference_loss(
    function: Callable[..., Tensor],
    *,
    couples_rows: bool = False,
    per_token: bool | None = None,
    requires: Iterable[str] = (),
    state: Mapping[str, RunningMean] | None = None,
    weights: Callable[[Tensor], Tensor] | None = None,
    check: Callable[..., None] | None = None,
) -> type[PreferenceLoss]:
    """Make a class of preference losses from its formula; an instance is called like any `PreferenceLoss`.

    Example: @preference_loss
             def my_loss(margin, *, beta=0.1):
                 return -torch.nn.functional.logsigmoid(beta * margin)

    The positional parameters name the inputs that it reads, out of `PAIR_INPUTS` (see rlx.loss). The keyword arguments are the
    hyperparameters, with their defaults and ranges. The function returns one value per pair, [B]. The input names decide
    whether a reference is needed, which optional inputs are computed, and whether rejected completions are read.
    couples_rows: does the value of one pair depend on others? per_token: are the implicit rewards means over tokens?
    requires: optional fields of `policy` that it reads, if it reads `policy` as a whole. state: name ->
    `rlx.loss.running_mean(...)`, which a parameter of that name reads: a number [] kept over updates (see rlx.loss.state).
    weights: completion_mask -> [B]; the mean over pairs if not given. check: called with the hyperparameters on construction;
    raises ConfigError if they do not fit together.
    Raises ConfigError if a parameter's name is not the name of an input.
    """
    state = dict(state or {})
    names = [*reads_of(function, PAIR_INPUTS), *check_state(function, state, PAIR_INPUTS)]
    read = [PAIR_INPUTS[name] for name in names if name in PAIR_INPUTS]
    variables: dict[str, Any] = {
        "couples_rows": couples_rows,
        "check": None if check is None else staticmethod(check),
        "state": state,
        "per_token": any(item.per_token for item in read) if per_token is None else per_token,
        "requires": frozenset(requires).union(item.requires for item in read if item.requires is not None),
        "needs_reference": any(item.reference for item in read),
        "reads_rejected": any(item.rejected for item in read),
        "takes_divergence": reads_of(function, PAIR_INPUTS) in (("margin",), ("mean_margin",)),
    }
    if weights is not None:
        variables["weights"] = staticmethod(weights)
    return class_of(function, PreferenceFormula, (*PAIR_INPUTS, *state), **variables)
