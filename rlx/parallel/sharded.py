"""Models that are split over the ranks (FSDP2): each rank holds a part of every weight, gradient and moment.

A forward or backward pass of such a model gathers its weights block by block, so all ranks have to make it at the same time.
Ranks have different rows, so one makes more passes than another: before each pass the ranks agree on one that some of them need,
and a rank that does not need it makes one of a single token, whose gradient is 0. Whoever calls a policy sees nothing of it.
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

_NOTHING, _BACKWARD, _FORWARD = 0, 1, 2  # what a rank is about to do; of several wishes the largest is granted first
_TRIED = 1e-9  # largest difference of an optimiser's step on parts from its step on the whole


@dataclass(eq=False)
class Lockstep:
    """Lets the ranks make the passes of sharded models together. One of a process's `Ranks`."""

    ranks: Ranks
    device: torch.device
    is_inside: bool = False  # a pass has begun and not ended: an error in it cannot be told to the others
    _models: list[nn.Module] = field(default_factory=list)
    _outputs: list[Tensor] = field(default_factory=list)  # of the forward passes whose backward pass is to come
    _is_granted: bool = False

    def add(self, model: nn.Module) -> None:
        """From now on forward passes of a sharded model wait for the other ranks."""
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
                else:  # a value head: its input has a gradient in a pass that is not made beside others, too
                    weight = next(model.parameters())
                    model(torch.zeros(1, weight.shape[1], dtype=weight.dtype, device=self.device, requires_grad=bool(has_grad)))

    def finish(self) -> None:
        """Join the passes of the other ranks until none of them needs one any more."""
        self.agree_on(_NOTHING)

    def backward(self, heads: Sequence[Tensor], seeds: Sequence[Tensor | None]) -> None:
        """The backward pass of `heads`, into the `grad` of the parameters: the sum over all ranks."""
        self.agree_on(_BACKWARD)
        self._backward(heads, seeds)

    def _backward(self, heads: Sequence[Tensor], seeds: Sequence[Tensor | None]) -> None:
        """Every forward pass gets a gradient, if of 0, so that the passes of all ranks gather and reduce alike."""
        outputs, self._outputs = self._outputs, []
        nothing = [torch.zeros((), dtype=output.dtype, device=output.device).expand_as(output) for output in outputs]
        self.is_inside = True
        torch.autograd.backward([*heads, *outputs], [*seeds, *nothing])
        self.is_inside = False

    def gradients(self, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """What the backward passes of all ranks have added up, which is taken out."""
        found = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return found


def shard(models: Sequence[nn.Module], ranks: Ranks, *, device: torch.device) -> None:
    """Split these models over the ranks, a transformers model block by block, and keep the ranks in step from now on.

    Gradients of ranks add. A block is moved to `device` when it is split. A model may be named twice.
    Raises ConfigError for a model whose blocks are not known.
    """
    # nothing is done in place with its values
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDPValueHead\) returned a view", UserWarning)
    mesh = DeviceMesh.from_group(ranks.group, device.type)
    ranks.lockstep = Lockstep(ranks, device)
    for model in dict.fromkeys(models):
        for module in (*_blocks(model), model):
            dtype = next(module.parameters()).dtype
            exact = torch.float32 if dtype in (torch.float16, torch.bfloat16) else None
            # also of the root, so that the parameters of a model are its parts whenever they are looked at
            split = fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=MixedPrecisionPolicy(reduce_dtype=exact))
            split.set_gradient_divide_factor(1.0)
            split.set_force_sum_reduction_for_comms(True)
            split.set_reduce_scatter_unused_params(True)  # experts that one rank's tokens do not reach
        ranks.lockstep.add(model)


def _blocks(model: Any) -> list[nn.Module]:
    """The blocks of a transformers model, which are gathered one at a time; a value head has none."""
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

    Called by all ranks at the same time. Raises ConfigError if they are not.
    """
    wanted = _tried(make)
    mesh = DeviceMesh.from_group(ranks.group, "cpu")
    plain = functools.partial(make, fused=False)
    reason = ""
    for candidate in (make, plain) if getattr(make, "keywords", {}).get("fused") else (make,):
        try:
            found = _tried(candidate, lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None))
        except Exception as error:  # of whatever kind the class raises
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
    """The full tensor of one that is split over ranks. Called by all ranks at the same time."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def gathered(state: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The same state on rank 0, its tensors whole and on the CPU; on the other ranks it is empty. Called by all ranks."""
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
    """This rank's part of a tensor that every rank has, split as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
