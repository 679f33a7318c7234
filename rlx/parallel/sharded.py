"""Sharded models (FSDP2): each rank holds a part of every weight, gradient and moment.

A forward or backward pass of such a model gathers its weights block by block, so all ranks must make it at the same time. Ranks
have different rows and need different numbers of passes. Before each pass the ranks agree on one that some of them need; a rank
that does not need it makes a pass of a single token whose gradient is 0. Callers of a policy do not notice this.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._pytree import tree_map

from rlx.errors import ConfigError
from rlx.parallel.ranks import Ranks
from rlx.policy.forward import ANNOUNCE

_NOTHING, _BACKWARD, _FORWARD = 0, 1, 2  # what a rank wants to do next; the largest of several wishes is granted first
_TRIED = 1e-9  # largest difference between an optimiser's step on parts and its step on the whole


@dataclass(eq=False)
class Lockstep:
    """Makes the ranks run the passes of sharded models together. Each process's `Ranks` has one."""

    ranks: Ranks
    device: torch.device
    is_inside: bool = False  # a pass has begun and not ended; an error in it cannot be reported to the others
    _models: list[nn.Module] = field(default_factory=list)
    _outputs: list[Tensor] = field(default_factory=list)  # of the forward passes whose backward pass is still to come
    _is_granted: bool = False

    def add(self, model: nn.Module) -> None:
        """Make forward passes of a sharded model wait for the other ranks from now on."""
        number, trains = len(self._models), any(parameter.requires_grad for parameter in model.parameters())
        self._models.append(model)

        def announce() -> None:
            if not self._is_granted:
                self.agree_on(_FORWARD + 2 * number + (trains and torch.is_grad_enabled()))
                self._is_granted = True

        def begins(*_: Any) -> None:
            announce()
            self._is_granted, self.is_inside = False, True

        def ends(_: nn.Module, __: Any, output: Any) -> None:
            self.is_inside = False
            found = output if isinstance(output, Tensor) else output.logits
            if found.requires_grad:
                self._outputs.append(found)

        model.register_forward_pre_hook(begins, prepend=True)
        model.register_forward_hook(ends)
        setattr(model, ANNOUNCE, announce)

    def agree_on(self, wish: int) -> None:
        """Join the forward and backward passes that other ranks need until all ranks agree on `wish`."""
        while (granted := self.ranks.largest(wish)) != wish:
            if granted == _BACKWARD:
                self._backward([], [])
                continue
            number, has_grad = divmod(granted - _FORWARD, 2)
            model = self._models[number]
            self._is_granted = True
            with torch.set_grad_enabled(bool(has_grad)):
                if hasattr(model, "config"):
                    model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=self.device), use_cache=False)
                else:  # a value head: its input also has a gradient in a pass that is not paired with others
                    weight = next(model.parameters())
                    model(torch.zeros(1, weight.shape[1], dtype=weight.dtype, device=self.device, requires_grad=bool(has_grad)))

    def finish(self) -> None:
        """Join the passes of the other ranks until none of them needs one any more."""
        self.agree_on(_NOTHING)

    def backward(self, heads: Sequence[Tensor], seeds: Sequence[Tensor | None]) -> None:
        """Run the backward pass of `heads` into the `grad` of the parameters, summed over all ranks."""
        self.agree_on(_BACKWARD)
        self._backward(heads, seeds)

    def _backward(self, heads: Sequence[Tensor], seeds: Sequence[Tensor | None]) -> None:
        """Give every forward pass a gradient, possibly 0, so that the passes of all ranks gather and reduce in the same way."""
        outputs, self._outputs = self._outputs, []
        nothing = [torch.zeros((), dtype=output.dtype, device=output.device).expand_as(output) for output in outputs]
        self.is_inside = True
        torch.autograd.backward([*heads, *outputs], [*seeds, *nothing])
        self.is_inside = False

    def gradients(self, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """Take out the gradients that the backward passes of all ranks have added up."""
        found = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return found


def shard(models: Sequence[nn.Module], ranks: Ranks, *, device: torch.device) -> None:
    """Shard these models over the ranks (a transformers model block by block) and keep the ranks in step from now on.

    Gradients are added over ranks. A block is moved to `device` when it is split. A model may be given twice. Raises ConfigError
    for a model that does not name its blocks.
    """
    # nothing changes its values in place
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDPValueHead\) returned a view", UserWarning)
    mesh = DeviceMesh.from_group(ranks.group, device.type)
    ranks.lockstep = Lockstep(ranks, device)
    for model in dict.fromkeys(models):
        for module in (*_blocks(model), model):
            dtype = next(module.parameters()).dtype
            exact = torch.float32 if dtype in (torch.float16, torch.bfloat16) else None
            # also for the root, so that a model's parameters are always its parts
            split = fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=MixedPrecisionPolicy(reduce_dtype=exact))
            split.set_gradient_divide_factor(1.0)
            split.set_force_sum_reduction_for_comms(True)
            split.set_reduce_scatter_unused_params(True)  # experts that get no token of this rank
        ranks.lockstep.add(model)


def _blocks(model: Any) -> list[nn.Module]:
    """The blocks of a transformers model, which are gathered one at a time; empty for a value head."""
    if not hasattr(model, "config"):
        return []
    names = set(model._no_split_modules or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise ConfigError(
            f"parallel=sharded: {type(model).__name__} does not name its blocks (_no_split_modules); use parallel=replicated"
        )
    return found


def fit_for_parts(make: Any, ranks: Ranks) -> Any:
    """`make`, or `make` without its fused kernel: the first whose steps on parts of a weight equal its step on the full weight.

    All ranks call it at the same time. Raises ConfigError if neither passes.
    """
    wanted = _tried(make)
    mesh = DeviceMesh.from_group(ranks.group, "cpu")
    plain = functools.partial(make, fused=False)
    reason = ""
    for candidate in (make, plain) if getattr(make, "keywords", {}).get("fused") else (make,):
        try:
            found = _tried(candidate, lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None))
        except Exception as error:  # the class may raise anything
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            continue
        if all(float((a - b).abs().max()) <= _TRIED for a, b in zip(wanted, found, strict=True)):
            return candidate
        reason = "moves them differently from whole weights"
    name = getattr(make, "func", make).__name__
    raise ConfigError(
        f"parallel=sharded: optimizer {name} cannot update weights that are split over ranks ({reason}); use "
        "optimizer=adamw or optimizer=sgd, or parallel=replicated"
    )


def _tried(make: Any, placed: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> list[Tensor]:
    """Two small weights after two steps."""
    generator = torch.Generator().manual_seed(0)
    drawn = [[torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((7, 3), (5,))] for _ in range(3)]
    parameters = [nn.Parameter(placed(weight)) for weight in drawn[0]]
    optimizer = make(parameters)
    for gradients in drawn[1:]:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = placed(gradient)
        optimizer.step()
    return [full_tensor(parameter) for parameter in parameters]


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one. All ranks call it at the same time."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def gathered(state: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The same state with full tensors on the CPU, on rank 0; empty on the other ranks. All ranks call it."""
    known: dict[int, Tensor] = {}  # tied weights stay one tensor

    def tensor_of(value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) not in known:
            found = full_tensor(value)
            known[id(value)] = found.cpu() if ranks.is_first else torch.empty(0)
        return known[id(value)] if isinstance(value, Tensor) else value

    with ranks.watched("the weights of all ranks"):
        found: dict[str, Any] = tree_map(tensor_of, state)
    return found if ranks.is_first else {}


def local_part(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has, sharded like `like`."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
