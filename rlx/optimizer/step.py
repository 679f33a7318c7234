"""One optimiser step, the same for every algorithm: scale, clip, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rlx.errors import ConfigError, TrainingError
from rlx.optimizer.schedule import Schedule

Gradients = list[Tensor | None]  # one a trainable parameter, in the order of Optimizer.parameters


class GradientSource(Protocol):
    """What `update_policy` gets: a call accumulates over the micro-batches of one update."""

    def __call__(self, by: str | None = None) -> Mapping[str, Gradients]:
        """{"loss": gradients} of the whole loss, or with by="term" the gradients of each term."""
        ...


class Optimizer:
    """A torch optimiser with its schedule. `step` takes gradients, so an algorithm may combine them as it likes first."""

    def __init__(
        self,
        make: Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer],
        parameters: Sequence[torch.nn.Parameter],
        *,
        schedule: Schedule,
        num_steps: int,
    ) -> None:
        try:
            self.torch_optimizer = make(parameters)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"optimizer: torch refuses these values: {error}") from error
        self.parameters = list(parameters)
        self._schedule = schedule
        self._num_steps = num_steps
        self._base_rates = [group["lr"] for group in self.torch_optimizer.param_groups]
        self.learning_rate = 0.0
        self.start_step(0)

    def start_step(self, step: int) -> None:
        """Set the learning rate of this step of the run."""
        factor = self._schedule(step, self._num_steps)
        for group, rate in zip(self.torch_optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        self.learning_rate = float(self.torch_optimizer.param_groups[0]["lr"])

    def step(
        self,
        gradients: Gradients,
        *,
        max_grad_norm: float | None,
        adaptive_clipping: float | None = None,
        gradient_scale: float = 1.0,
    ) -> dict[str, float]:
        """Scale the gradients, clip them adaptively, clip their norm, and move the parameters.

        max_grad_norm: largest Euclidean norm of all gradients together, or None.
        adaptive_clipping: largest ratio of a unit's gradient norm to its weight norm, or None (see `clip_adaptively`).
        Returns grad_norm (before clipping), grad_norm_clipped and learning_rate.
        Raises TrainingError when a gradient is not finite: the parameters are left as they were.
        """
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient if gradient_scale == 1.0 or gradient is None else gradient * gradient_scale
        present = [parameter for parameter in self.parameters if parameter.grad is not None]
        norm = total_norm(present)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient's norm is {norm.item()}; lower optimizer.lr or set algorithm.max_grad_norm")
        clipped = norm
        if adaptive_clipping is not None:
            clip_adaptively(present, adaptive_clipping)
            clipped = total_norm(present)
        if max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(present, max_grad_norm, clipped, foreach=True)
            clipped = clipped.clamp(max=max_grad_norm)
        self.torch_optimizer.step()
        self.torch_optimizer.zero_grad(set_to_none=True)
        return {"grad_norm": norm.item(), "grad_norm_clipped": clipped.item(), "learning_rate": self.learning_rate}

    def state_dict(self) -> dict[str, Any]:
        """The torch optimiser's state, tensors and plain values only."""
        return self.torch_optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.torch_optimizer.load_state_dict(state)


def total_norm(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """[] Euclidean norm of all gradients together; 0 where there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients, foreach=True) if gradients else torch.zeros(())


def clip_adaptively(parameters: Sequence[torch.nn.Parameter], clipping: float, *, epsilon: float = 1e-3) -> None:
    """Adaptive gradient clipping: each unit's gradient norm is at most `clipping` times its weight norm.

    A unit is a row of a matrix (all but the first dimension), or a whole vector: Brock et al. 2021, arXiv:2102.06171, eq. 3.
    epsilon: weight norms below it count as it, so that units that start at zero can move.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        dims = tuple(range(1, parameter.ndim)) or None
        weight_norm = torch.linalg.vector_norm(parameter.detach(), dim=dims, keepdim=True).clamp(min=epsilon)
        grad_norm = torch.linalg.vector_norm(parameter.grad, dim=dims, keepdim=True)
        parameter.grad = parameter.grad * (clipping * weight_norm / grad_norm.clamp(min=1e-12)).clamp(max=1.0)
