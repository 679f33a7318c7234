"""Float32 matrix products by oneDNN, for processors that torch's default library uses only half.

On a CPU torch multiplies float32 matrices with MKL. On an AMD processor with AVX-512, MKL uses vectors of half the width; oneDNN,
which is part of torch too, detects the processor's abilities and takes less than half the time there, forward and backward.

Dimensions: M rows, I inputs, O outputs of a linear layer.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlx.errors import ConfigError

MATMULS = ("auto", "torch", "onednn")
_WORTH = 1 << 22  # M * I * O from which oneDNN is faster: it has a higher overhead per call
_FEW_ROWS = 128  # up to this many rows the weight is not copied into oneDNN's own layout
# oneDNN compiles a kernel per product shape in 0.4 ms and keeps 1,024 by default, at 1 to 2 MB each.
_KEPT_SHAPES = 32
KERNELS = 80 << 20  # bytes of this many kernels


def uses_onednn(matmul: str, *, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether to use oneDNN for products. matmul: a name in MATMULS; dtype: of the weights.

    auto depends only on the processor, never on a measurement, so that a run computes the same each time. Raises ConfigError
    for an unknown name, or if onednn is requested but not available.
    """
    if matmul not in MATMULS:
        raise ConfigError(f"matmul={matmul}: choose {', '.join(MATMULS)}")
    if matmul != "onednn":
        return matmul == "auto" and device.type == "cpu" and dtype == torch.float32 and _mkl_is_narrow() and _is_right()
    if device.type != "cpu" or dtype != torch.float32:
        raise ConfigError(f"matmul=onednn is for float32 weights on a CPU, but these are {dtype} on {device}; leave matmul=auto")
    if not _is_right():
        raise ConfigError("matmul=onednn: oneDNN is missing from this build of torch or multiplies wrongly; leave matmul=auto")
    return True


def multiply_by_onednn(model: nn.Module) -> None:
    """Make the linear layers of `model` use oneDNN, including those of adapters; subclasses of nn.Linear are not changed."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear


def is_linear(module: Any) -> bool:
    """Whether a module is exactly W x + b; quantised layers and layers with adapters are not."""
    return type(module) in (nn.Linear, OneDnnLinear)


class OneDnnLinear(nn.Linear):
    """A linear layer that multiplies with `linear`."""

    def forward(self, rows: Tensor) -> Tensor:
        """rows [..., I] -> [..., O]."""
        return linear(rows, self.weight, self.bias)


def linear_of(module: Any) -> Any:
    """A layer's matrix product: `linear`, or F.linear, which has the same arguments."""
    return linear if isinstance(module, OneDnnLinear) else F.linear


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Like F.linear: rows [..., I], weight [O, I], bias [O] -> [..., O]; uses oneDNN if possible and worth its overhead."""
    if not _is_worth(rows, weight):
        return F.linear(rows, weight, bias)
    flat = rows.reshape(-1, rows.shape[-1])
    wants_gradient = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
    found: Tensor = _Product.apply(flat, weight) if wants_gradient else _product(flat, weight)  # type: ignore[no-untyped-call]
    if bias is not None:
        found = found + bias
    return found.view(*rows.shape[:-1], -1)


def _is_worth(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.numel() * len(weight) >= _WORTH
        and rows.dtype == weight.dtype == torch.float32
        and rows.device.type == weight.device.type == "cpu"
        and type(rows) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows [M, I], weight [O, I] -> [M, O]; any strides."""
    if len(rows) <= _FEW_ROWS:
        return _by_onednn(weight, rows).t().contiguous()
    return _by_onednn(rows, weight)


def _by_onednn(left: Tensor, right: Tensor) -> Tensor:
    """left @ right.T, by the operator that torch.compile uses for linear layers on a CPU."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return found


class _Product(torch.autograd.Function):
    """`_product` with its gradients, which use the same product."""

    @staticmethod
    def forward(context: Any, rows: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(rows, weight)
        return _product(rows, weight)

    @staticmethod
    def backward(context: Any, lost: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = context.saved_tensors
        of_rows = linear(lost, weight.t()) if context.needs_input_grad[0] else None
        of_weight = linear(lost.t(), rows.t()) if context.needs_input_grad[1] else None
        return of_rows, of_weight


@functools.cache
def _mkl_is_narrow() -> bool:
    """Whether this is an AMD processor with AVX-512 and a torch that multiplies with MKL."""
    if not torch._C.has_mkl or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        name = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        name = platform.processor()
    return "AuthenticAMD" in name


@functools.cache
def _is_right() -> bool:
    """Whether oneDNN is available and its products and gradients agree with torch's."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KEPT_SHAPES))  # read at the first product
    rows, weight = torch.linspace(-1, 1, 160 * 256).view(160, 256), torch.linspace(1, -1, 192 * 256).view(192, 256).sin()
    found = []
    for multiply in (linear, F.linear):
        leaves = [rows.clone().requires_grad_(), weight.clone().requires_grad_()]
        with torch.enable_grad():
            result = multiply(*leaves)
            found.append([result.detach(), *torch.autograd.grad(result.square().sum(), leaves)])
    return all(
        torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
        for ours, theirs in zip(*found, strict=True)
    )
