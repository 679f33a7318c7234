"""The base of policy-gradient losses (a surrogate, modifiers, a KL to the reference, token weights), and the decorator that
makes a loss from a function.

Dimensions: B sequences (leading dimensions [P, G] work too), T tokens.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError, ShapeError
from rlx.fields import Ranged, class_of, evaluated, one_of, reads_of, with_options, within
from rlx.loss.base import LIMIT, Loss, RunningMean, by_sequence, clamped_exp, masked, require_shape, stop_gradient
from rlx.loss.policy_gradient.kl import ESTIMATES, GRADIENTS, OF_K2, k3, token_kl
from rlx.loss.state import check_state, with_state
from rlx.loss.weight import Weighting, token_mean
from rlx.seeding import Stream

# The inputs of a policy-gradient loss: token log-probabilities and advantages of sampled completions.

OPTIONAL = ("entropy", "vocabulary_kl", "proximal_logprobs", "rng")


@dataclass(frozen=True, eq=False)
class RolloutLogprobs:
    """Sampled completions under the policy being trained; every tensor is 0 outside of the mask.

    token_logprobs: [B, T] under the policy. sampling_logprobs: [B, T] under the policy that sampled. advantages: [B, T].
    completion_mask: bool [B, T]. reference_logprobs: [B, T] or None.
    The other fields are set only if a loss names them in `requires`:
    entropy: [B, T] of the policy, in nats, with its gradient; vocabulary_kl: [B, T] KL(policy || reference) over the vocabulary;
    proximal_logprobs: [B, T] under the policy as it was when the batch was drawn, computed by the trainer's code, if the
        sampler's code differs; rng: a Stream, which gives the same numbers at every call, or a torch.Generator.
    """

    token_logprobs: Tensor
    sampling_logprobs: Tensor
    advantages: Tensor
    completion_mask: Tensor
    reference_logprobs: Tensor | None = None
    entropy: Tensor | None = None
    vocabulary_kl: Tensor | None = None
    proximal_logprobs: Tensor | None = None
    rng: torch.Generator | None = None

    @staticmethod
    def of(
        token_logprobs: Tensor,
        sampling_logprobs: Tensor,
        advantages: Tensor,
        completion_mask: Tensor,
        reference_logprobs: Tensor | None,
        **required: Any,
    ) -> RolloutLogprobs:
        """Check the tensors, set them to 0 outside of the mask, and repeat a sequence's advantage at each of its tokens.

        Given as [P, G, T] they become [B, T], B = P·G.
        """
        shape = completion_mask.shape
        unknown = sorted(set(required) - set(OPTIONAL))
        if unknown:
            raise ShapeError(f"a policy-gradient loss cannot read {', '.join(unknown)}; it may read {', '.join(OPTIONAL)}")
        if completion_mask.dtype != torch.bool:
            raise ShapeError(f"completion_mask has dtype {completion_mask.dtype}; make it bool")
        if advantages.shape == shape[:-1]:
            advantages = advantages[..., None].expand(shape)
        rng = required.pop("rng", None)
        rng = rng.torch() if isinstance(rng, Stream) else rng
        tensors = {
            "token_logprobs": token_logprobs,
            "sampling_logprobs": sampling_logprobs,
            "advantages": advantages,
            "reference_logprobs": reference_logprobs,
            **required,
        }
        for name, tensor in tensors.items():
            if tensor is not None and tensor.shape != shape:
                raise ShapeError(f"{name} is {tuple(tensor.shape)}, but completion_mask {tuple(shape)}; they must agree")
        for name in ("sampling_logprobs", "advantages", "reference_logprobs", "proximal_logprobs"):
            given = tensors.get(name)
            tensors[name] = None if given is None else given.detach().to(token_logprobs.dtype)
        clean = {name: None if tensor is None else masked(tensor, completion_mask) for name, tensor in tensors.items()}
        made = {name: None if tensor is None else by_sequence(tensor) for name, tensor in clean.items()}
        return RolloutLogprobs(completion_mask=by_sequence(completion_mask), rng=rng, **made)  # type: ignore[arg-type]

    @cached_property
    def behaviour_logprobs(self) -> Tensor:
        """[B, T] the denominator of importance ratios: proximal_logprobs if given, else sampling_logprobs."""
        return self.sampling_logprobs if self.proximal_logprobs is None else self.proximal_logprobs

    @cached_property
    def log_ratio(self) -> Tensor:
        """[B, T] log ρ = log π - behaviour_logprobs."""
        return self.token_logprobs - self.behaviour_logprobs

    @cached_property
    def ratio(self) -> Tensor:
        """[B, T] ρ, the log-ratio clamped to ±20 before exp."""
        return clamped_exp(self.log_ratio)

    @cached_property
    def mean_log_ratio(self) -> Tensor:
        """[B, T] the mean of log ρ over the sequence, at each of its tokens."""
        return self.mean_over_tokens(self.log_ratio)

    @cached_property
    def summed_log_ratio(self) -> Tensor:
        """[B, T] the sum of log ρ over the sequence, each clamped to ±20, at each of its tokens."""
        clamped = masked(self.log_ratio.clamp(-LIMIT, LIMIT), self.completion_mask)
        return clamped.sum(dim=-1, keepdim=True).expand_as(clamped)

    def mean_over_tokens(self, values: Tensor) -> Tensor:
        """[B, T] the mean of `values` over each sequence, at each of its tokens; 0 for an empty one. values: [B, T]."""
        return mean_over_tokens(values, self.completion_mask)


# The inputs that a formula of sampled tokens may name.
ROLLOUT_INPUTS = (
    "ratio",
    "log_ratio",
    "mean_log_ratio",
    "summed_log_ratio",
    "advantages",
    "token_logprobs",
    "behaviour_logprobs",
    "sampling_logprobs",
    "reference_logprobs",
    "completion_mask",
    *OPTIONAL,
)


def mean_over_tokens(values: Tensor, completion_mask: Tensor) -> Tensor:
    """[B, T] the mean of `values` over each sequence, at each of its tokens; 0 for an empty one. Both [B, T]."""
    lengths = completion_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return (masked(values, completion_mask).sum(dim=-1, keepdim=True) / lengths).expand_as(values)


# Every policy-gradient loss: a surrogate, the modifiers around it, a KL to the reference, and token weights.


@dataclass(frozen=True, kw_only=True)
class PolicyGradientModifier(Ranged):
    """Scales the surrogate of a token, or adds to it. Modifiers commute: scales are multiplied, then additions are summed.

    The weights depend on the mask alone: a token scaled to 0 still counts in the mean.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    couples_rows: ClassVar[bool] = False

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] factor of the surrogate, treated as a constant."""
        return torch.ones_like(rollouts.token_logprobs)

    def addition(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] summand of the surrogate, with its gradient."""
        return torch.zeros_like(rollouts.token_logprobs)


@dataclass(frozen=True, kw_only=True)
class PolicyGradientLoss(Loss):
    """A loss of sampled tokens: `loss(token_logprobs, sampling_logprobs, advantages, completion_mask, ...) -> [B, T]`.

    A subclass implements `surrogate`. The value of a token is scale · surrogate + additions + beta · KL.
    weighting: the weights of the tokens (see rlx.loss.weight).
    beta: coefficient of the KL to the reference in the loss; with 0 there is no KL and no reference is needed.
    kl_estimator: the estimator of that KL (rlx/loss/policy_gradient/kl.py): k2 is biased, k1 and k3 are not, exact sums over the
        vocabulary. Each is the KL at the visited states: as a loss term it omits the effect of a token on later states.
    kl_gradient: plain is the gradient of another quantity for k1 and k3; importance_weighted is correct off policy too,
        score_function and straight_through on policy only; exact and k2 take plain.
    modifiers: name -> modifier (see rlx.loss.policy_gradient.modifier).
    """

    reads_reference: ClassVar[bool] = False  # whether the formula itself does, whatever beta is

    weighting: Weighting = field(default_factory=token_mean)
    beta: float = within(
        at_least=0, default=0.0, advice="a negative one would reward drift from the reference; 0 leaves the KL out"
    )
    kl_estimator: str = one_of((*ESTIMATES, "exact"), default="k3")
    kl_gradient: str = one_of(tuple(GRADIENTS), default="importance_weighted")
    modifiers: Mapping[str, PolicyGradientModifier] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        own, modifiers = type(self).__name__, dict(self.modifiers)
        if not isinstance(self.weighting, Weighting):
            raise ConfigError(f"weighting of {own} is {self.weighting!r}; give it a _target_ from rlx.loss.weight")
        for name, modifier in modifiers.items():
            if not isinstance(modifier, PolicyGradientModifier):
                raise ConfigError(
                    f"modifiers.{name} of {own} is {modifier!r}, not a policy-gradient modifier; "
                    "give it a _target_ from rlx.loss.policy_gradient.modifier"
                )
        exact = self.kl_estimator == "exact"
        if exact and self.kl_gradient != "plain":
            raise ConfigError(f"kl_estimator exact of {own} has the right gradient by itself; set kl_gradient=plain")
        if self.kl_estimator == "k2" and self.kl_gradient not in OF_K2:
            raise ConfigError(
                f"kl_estimator k2 of {own} with kl_gradient={self.kl_gradient} has the gradient of the square, not of the KL; "
                "its own gradient is right on policy: set kl_gradient=plain"
            )
        names = self.requires.union(*(modifier.requires for modifier in modifiers.values()))
        object.__setattr__(self, "modifiers", modifiers)
        object.__setattr__(self, "requires", names | {"vocabulary_kl"} if exact and self.beta > 0 else names)
        object.__setattr__(self, "needs_reference", (self.beta > 0 and not exact) or self.reads_reference)
        coupled = self.couples_rows or any(modifier.couples_rows for modifier in modifiers.values())
        object.__setattr__(self, "couples_rows", coupled)

    def __call__(
        self,
        token_logprobs: Tensor,
        sampling_logprobs: Tensor,
        advantages: Tensor,
        completion_mask: Tensor,
        reference_logprobs: Tensor | None = None,
        **required: Any,
    ) -> Tensor:
        """One value per token [B, T], 0 outside of the mask; advantages are [B] or [B, T], the others [B, T]."""
        given = (token_logprobs, sampling_logprobs, advantages, completion_mask, reference_logprobs)
        rollouts = self._rollouts(*given, required)
        values = self.surrogate(rollouts)
        for modifier in self.modifiers.values():
            values = values * stop_gradient(modifier.scale(rollouts))
        for modifier in self.modifiers.values():
            values = values + modifier.addition(rollouts)
        if self.beta > 0:
            values = values + self.beta * self.kl(rollouts)
        return masked(values.reshape(completion_mask.shape), completion_mask)

    def _rollouts(
        self,
        token_logprobs: Tensor,
        sampling_logprobs: Tensor,
        advantages: Tensor,
        completion_mask: Tensor,
        reference_logprobs: Tensor | None,
        required: Mapping[str, Any],
    ) -> RolloutLogprobs:
        own = type(self).__name__
        if self.needs_reference and reference_logprobs is None:
            mend = "" if self.reads_reference else ", or set beta to 0"
            raise ShapeError(f"{own} with beta = {self.beta} needs reference_logprobs; pass the reference's{mend}")
        missing = sorted(name for name in self.requires if required.get(name) is None)
        if missing:
            raise ShapeError(f"{own} needs {', '.join(missing)}; pass it by that name, or drop the option that reads it")
        needed = {name: value for name, value in required.items() if name in self.requires}
        return RolloutLogprobs.of(token_logprobs, sampling_logprobs, advantages, completion_mask, reference_logprobs, **needed)

    @abstractmethod
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] the formula."""

    def log_ratio(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] the log of the importance ratio that the formula reads, of tokens or of whole sequences."""
        return rollouts.log_ratio

    def clip_ends(self) -> tuple[float, float] | None:
        """The ratios at which a token stops learning, 1 - clip_low and 1 + clip_high if the loss has them; for metrics."""
        if hasattr(self, "clip_low") and hasattr(self, "clip_high"):
            return 1 - self.clip_low, 1 + self.clip_high
        return None

    def kl(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] the estimated KL to the reference, as the loss uses it."""
        if self.kl_estimator == "exact":
            assert rollouts.vocabulary_kl is not None
            return rollouts.vocabulary_kl
        assert rollouts.reference_logprobs is not None
        names = {"estimator": self.kl_estimator, "gradient": self.kl_gradient}
        return token_kl(rollouts.token_logprobs, rollouts.reference_logprobs, rollouts.behaviour_logprobs, **names)

    def weights(self, completion_mask: Tensor) -> Tensor:
        """[B, T] weights from `weighting`, over all rows of an update."""
        return self.weighting(completion_mask)

    def figures(
        self,
        token_logprobs: Tensor,
        sampling_logprobs: Tensor,
        advantages: Tensor,
        completion_mask: Tensor,
        reference_logprobs: Tensor | None = None,
        **required: Any,
    ) -> dict[str, Tensor]:
        """Metric name -> [B, T], detached, to be averaged over tokens: ratio_mean, clip_fraction_low and _high, kl.

        kl is exact if the loss reads the KL over the vocabulary, else k3.
        """
        with torch.no_grad():
            given = (token_logprobs, sampling_logprobs, advantages, completion_mask, reference_logprobs)
            rollouts = self._rollouts(*given, required)
            ratio = clamped_exp(self.log_ratio(rollouts))
            figures = {"ratio_mean": ratio}
            ends = self.clip_ends()
            if ends is not None:
                figures["clip_fraction_low"] = ((ratio < ends[0]) & (rollouts.advantages < 0)).to(ratio.dtype)
                figures["clip_fraction_high"] = ((ratio > ends[1]) & (rollouts.advantages > 0)).to(ratio.dtype)
            if rollouts.vocabulary_kl is not None:
                figures["kl"] = rollouts.vocabulary_kl
            elif rollouts.reference_logprobs is not None:
                figures["kl"] = k3(rollouts.token_logprobs, rollouts.reference_logprobs)
            return {name: masked(values.reshape(completion_mask.shape), completion_mask) for name, values in figures.items()}


@dataclass(frozen=True, kw_only=True)
class PolicyGradientFormula(PolicyGradientLoss):
    """A policy-gradient loss defined by one function, whose parameter names say which inputs it reads; `policy_gradient_loss`
    creates its subclasses.

    clips_log_ratio: are clip_low and clip_high distances of the log-ratio from 0 rather than of the ratio from 1?
    """

    clips_log_ratio: ClassVar[bool] = False

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """Call the formula with the inputs that it reads: [B, T]."""
        mask = rollouts.completion_mask
        rows = torch.ones(mask.shape[:-1], dtype=torch.bool)
        given = with_state(self, lambda name: getattr(rollouts, name), like=rollouts.token_logprobs, masks=[mask, rows])
        found, shape = evaluated(self, given), mask.shape
        return require_shape(found, shape, by=type(self).__name__, of="a value for each token (not reduced)")

    def log_ratio(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] the log-ratio of the sequence if the formula reads it, else of the token."""
        of_sequence = [name for name in ("mean_log_ratio", "summed_log_ratio") if name in self.reads]
        found: Tensor = getattr(rollouts, of_sequence[0] if of_sequence else "log_ratio")
        return found

    def clip_ends(self) -> tuple[float, float] | None:
        """1 - clip_low and 1 + clip_high, or e^-clip_low and e^clip_high, if the loss has them."""
        if self.clips_log_ratio and hasattr(self, "clip_low") and hasattr(self, "clip_high"):
            return math.exp(-self.clip_low), math.exp(self.clip_high)
        return super().clip_ends()


@with_options
def policy_gradient_loss(
    function: Callable[..., Tensor],
    *,
    couples_rows: bool = False,
    clips_log_ratio: bool = False,
    state: Mapping[str, RunningMean] | None = None,
    weighting: Weighting | None = None,
    check: Callable[..., None] | None = None,
) -> type[PolicyGradientLoss]:
    """Make a class of policy-gradient losses from its surrogate; an instance is called like any `PolicyGradientLoss`.

    Example: @policy_gradient_loss
             def my_loss(ratio, advantages, *, clip=0.2):
                 return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)

    The positional parameters name the inputs that it reads, out of `ROLLOUT_INPUTS` (see rlx.loss). The keyword arguments are the
    hyperparameters, with their defaults and ranges; beta, kl_estimator, kl_gradient, weighting and modifiers are added
    automatically. The function returns one value per token, [B, T]; values outside of the completion mask are ignored.
    couples_rows: does the value of one sequence depend on others? clips_log_ratio: are clip_low and clip_high distances of the
    log-ratio from 0? state: name -> `rlx.loss.running_mean(...)`, which a parameter of that name reads: a number [] kept over
    updates (see rlx.loss.state). weighting: the default token weights, token_mean if not given. check: called with the
    hyperparameters on construction; raises ConfigError if they do not fit together.
    Raises ConfigError if a parameter's name is not the name of an input.
    """
    state = dict(state or {})
    names = {*reads_of(function, ROLLOUT_INPUTS), *check_state(function, state, ROLLOUT_INPUTS)}
    variables: dict[str, Any] = {
        "couples_rows": couples_rows,
        "clips_log_ratio": clips_log_ratio,
        "check": None if check is None else staticmethod(check),
        "state": state,
        "requires": frozenset(OPTIONAL).intersection(names),
        "reads_reference": "reference_logprobs" in names,
    }
    if weighting is not None:
        variables["weighting"] = weighting
    return class_of(function, PolicyGradientFormula, (*ROLLOUT_INPUTS, *state), **variables)
