"""One optimiser step, the same for every algorithm: scale, clip, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from rlx.errors import ConfigError, NonFiniteError
from rlx.optimizer.schedule import Schedule

Gradients = list[Tensor | None]  # one per trainable parameter, in the order of Optimizer.parameters


class NonFiniteGradientError(NonFiniteError):
    """A gradient that is NaN or infinite, or whose norm is."""


# State of torch's optimisers that has the shape of its parameter.
_MOMENTS = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum"})


@dataclass(frozen=True)
class Clipping:
    """How a gradient is scaled and clipped before a step, in this order.

    scale: factor of the gradient. adaptive: largest ratio of a unit's gradient norm to its weight norm, or None (see
    `clip_adaptively`). max_grad_norm: largest Euclidean norm of all gradients together, or None.
    """

    max_grad_norm: float | None = None
    adaptive: float | None = None
    scale: float = 1.0

    def times(self, weight: float) -> Clipping:
        """The same clipping for a gradient already multiplied by `weight`: the limits are multiplied too."""
        norm, adaptive = (None if limit is None else limit * weight for limit in (self.max_grad_norm, self.adaptive))
        return Clipping(max_grad_norm=norm, adaptive=adaptive, scale=self.scale)


@dataclass(frozen=True)
class ClippedGradients:
    """Gradients after clipping, and their norm before and after clipping."""

    gradients: Gradients
    norm: float
    norm_after: float


class GradientSource(Protocol):
    """The argument of `update_policy`: a call accumulates the gradients of one update over its micro-batches."""

    @property
    def batch(self) -> Any:
        """The rows of this update."""
        ...

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        """{"loss": gradients} of the whole loss, or grouped: `by` names the group of each term of the loss (str: its own)."""
        ...


class Optimizer:
    """A torch optimiser with its schedule. `step` takes gradients as an argument, so that an algorithm may combine them first.

    make: creates the torch optimiser from parameters or groups of them; raises ConfigError if torch refuses its values.
    parts: the part that each parameter belongs to, for `groups`; all are matrices by default.
    """

    def __init__(
        self,
        make: Callable[..., torch.optim.Optimizer],
        parameters: Sequence[torch.nn.Parameter],
        *,
        schedule: Schedule,
        num_steps: int,
        parts: Sequence[Part] | None = None,
        groups: ParameterGroups | None = None,
    ) -> None:
        self.parameters = list(parameters)
        known: Sequence[Part] = parts if parts is not None else ["matrix"] * len(self.parameters)
        self.torch_optimizer = made_with_groups(
            make, (groups or ParameterGroups()).of(self.parameters, known, by_part=reads_parts(make))
        )
        _require_plain_step(make, type(self.torch_optimizer).__name__)
        self._schedule = schedule
        self._num_steps = num_steps
        self._base_rates = [group["lr"] for group in self.torch_optimizer.param_groups]
        self.learning_rate = 0.0
        self.start_step(0)

    def start_step(self, step: int) -> None:
        """Set the learning rate for this step of the run."""
        factor = self._schedule(step, self._num_steps)
        for group, rate in zip(self.torch_optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        self.learning_rate = float(self.torch_optimizer.param_groups[0]["lr"])

    def clipped(self, gradients: Gradients, clipping: Clipping) -> ClippedGradients:
        """The gradients scaled, clipped adaptively, then clipped by their norm; the given tensors are not changed.

        Raises NonFiniteGradientError if a gradient is not finite.
        """
        scaled = gradients if clipping.scale == 1.0 else [None if g is None else g * clipping.scale for g in gradients]
        norm = total_norm(scaled)
        if not torch.isfinite(norm):
            raise NonFiniteGradientError(
                f"the gradient's norm is {norm.item()}; lower optimizer.lr or set algorithm.max_grad_norm"
            )
        after = norm
        if clipping.adaptive is not None:
            scaled = clip_adaptively(self.parameters, scaled, clipping.adaptive)
            after = total_norm(scaled)
        if clipping.max_grad_norm is not None:
            factor = (clipping.max_grad_norm / (after + 1e-6)).clamp(max=1.0)
            scaled = [None if g is None else g * factor.to(g) for g in scaled]
            after = after * factor
        return ClippedGradients(scaled, norm.item(), after.item())

    def step(self, gradients: Gradients, clipping: Clipping) -> dict[str, float]:
        """Clip the gradients and update the parameters.

        Returns grad_norm (before clipping), grad_norm_clipped and learning_rate.
        Raises NonFiniteGradientError if a gradient is not finite; the parameters are then unchanged.
        """
        clipped = self.clipped(gradients, clipping)
        for parameter, gradient in zip(self.parameters, clipped.gradients, strict=True):
            parameter.grad = gradient
        self.torch_optimizer.step()
        self.torch_optimizer.zero_grad(set_to_none=True)
        return {"grad_norm": clipped.norm, "grad_norm_clipped": clipped.norm_after, "learning_rate": self.learning_rate}

    def state_dict(self) -> dict[str, Any]:
        """The torch optimiser's state as tensors and plain values only."""
        return self.torch_optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError if a moment's shape differs from its parameter's."""
        in_groups = [parameter for group in self.torch_optimizer.param_groups for parameter in group["params"]]
        for place, moments in state["state"].items():
            parameter = in_groups[place]
            for name, value in moments.items():
                # torch does not compare shapes, and its fused kernels would read out of bounds
                if name in _MOMENTS and value.shape != parameter.shape:
                    raise ValueError(
                        f"{name} of parameter {place} is {tuple(value.shape)}, and the parameter {tuple(parameter.shape)}"
                    )
        self.torch_optimizer.load_state_dict(state)


def _require_plain_step(make: Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer], name: str) -> None:
    """Raise ConfigError for an optimiser that cannot step on dense gradients alone, such as LBFGS or SparseAdam, by trying it."""
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    try:
        optimizer = make([weight])
        optimizer.param_groups[0]["lr"] = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
    except Exception as error:  # any exception type that the class raises
        raise ConfigError(
            f"optimizer={name} cannot take a step with these gradients ({type(error).__name__}: {error}); "
            "choose another, such as optimizer=adamw"
        ) from error


def total_norm(gradients: Gradients) -> Tensor:
    """[] Euclidean norm of all gradients together; 0 if there are none."""
    present = [gradient for gradient in gradients if gradient is not None]
    norm = torch.nn.utils.get_total_norm(present, foreach=True) if present else torch.zeros(())
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # for gradients sharded over ranks


def clip_adaptively(parameters: Sequence[Tensor], gradients: Gradients, ratio: float, *, epsilon: float = 1e-3) -> Gradients:
    """Adaptive gradient clipping: limit each unit's gradient norm to `ratio` times its weight norm.

    A unit is a row of a matrix (all but the first dimension), or a whole vector: Brock et al. 2021, arXiv:2102.06171, eq. 3.
    epsilon: lower bound of the weight norm, so that units that start at zero can change.
    """
    clipped: Gradients = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            clipped.append(None)
            continue
        dims = tuple(range(1, parameter.ndim)) or None
        weight_norm = torch.linalg.vector_norm(parameter.detach(), dim=dims, keepdim=True).clamp(min=epsilon)
        grad_norm = torch.linalg.vector_norm(gradient, dim=dims, keepdim=True)
        clipped.append(gradient * (ratio * weight_norm / grad_norm.clamp(min=1e-12)).clamp(max=1.0))
    return clipped


# Parameter groups: parts of the weights with a separate learning rate or weight decay.


# The parts: a layer's weight matrix; a norm, bias or other vector; the embeddings or the LM head; the critic.
Part = Literal["matrix", "vector", "embedding", "value_head"]


@dataclass(frozen=True, kw_only=True)
class ParameterGroups:
    """Separate settings for parts of the weights.

    decay_norms_and_biases: False exempts vectors from the optimiser's weight decay. embedding_rate, value_head_rate: factors on
    the learning rate of the embeddings (and the LM head), and of the value head.
    """

    decay_norms_and_biases: bool = True
    embedding_rate: float = 1.0
    value_head_rate: float = 1.0

    def of(self, parameters: Sequence[torch.nn.Parameter], parts: Sequence[Part], *, by_part: bool) -> list[dict[str, Any]]:
        """Torch parameter groups, those with the full learning rate first.

        A group has params, rate (a factor on the learning rate), part, and weight_decay if it is exempt from it. by_part: put
        parameters of different parts into different groups even if the settings are equal.
        """
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        rates = {"embedding": self.embedding_rate, "value_head": self.value_head_rate}
        for parameter, part in zip(parameters, parts, strict=True):
            rate = rates.get(part, 1.0)
            spared = not self.decay_norms_and_biases and parameter.ndim < 2
            key = (rate, spared, part if by_part else None)
            group = found.setdefault(key, {"params": [], "rate": rate, "part": part})
            group["params"].append(parameter)
            if spared:
                group["weight_decay"] = 0.0
        return sorted(found.values(), key=lambda group: group["rate"] != 1.0)


def made_with_groups(make: Any, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """The torch optimiser for these groups; a single group without separate settings is passed as a list of parameters.

    make: the optimiser's class with its values. An optimiser with `reads_parts` is told the part of each group.
    Raises ConfigError if weight decay should be exempted but the optimiser has none, or if torch refuses the values.
    """
    tells_parts = reads_parts(make)
    rates = [group["rate"] for group in groups]
    kept = [{key: value for key, value in group.items() if key != "rate" and (key != "part" or tells_parts)} for group in groups]
    try:
        if len(kept) == 1 and kept[0].keys() == {"params"}:
            made: torch.optim.Optimizer = make(kept[0]["params"])
        else:
            made = make(kept)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer: torch refuses these values: {error}") from error
    if any("weight_decay" in group for group in kept) and "weight_decay" not in made.defaults:
        raise ConfigError(
            f"parameter_groups.decay_norms_and_biases=false: {type(made).__name__} has no weight decay; leave the key out"
        )
    for group, rate in zip(made.param_groups, rates, strict=True):
        if rate != 1.0:
            group["lr"] = group["lr"] * rate
    return made


def reads_parts(make: Any) -> bool:
    """Whether an optimiser's class, or a partial of it, is told the part of each group."""
    return bool(getattr(getattr(make, "func", make), "reads_parts", False))
