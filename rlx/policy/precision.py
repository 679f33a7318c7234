"""The arithmetic of a model's matrix products: float32, or bfloat16 under autocast around float32 weights.

Micikevicius et al. 2018, arXiv:1710.03740; bfloat16 has the exponents of float32, so that no loss scaling is needed.
"""

from __future__ import annotations

import time

import torch

from rlx.errors import ConfigError

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
HALF = (torch.float16, torch.bfloat16)


def autocast_dtype(precision: str, *, device: torch.device, weights: torch.dtype) -> torch.dtype | None:
    """The dtype that matrix products are cast to; None if they stay in that of the weights.

    precision: a name of PRECISIONS. Raises ConfigError if the device lacks it, or the weights are float64.
    """
    dtype = PRECISIONS[precision]
    if dtype is None:
        return None
    if weights == torch.float64:
        raise ConfigError(
            f"precision={precision} has no effect with policy.dtype=float64, which autocast does not change; leave one out"
        )
    if not _multiplies_in(dtype, device):
        raise ConfigError(
            f"precision={precision}: {_name(device)} has no {precision} arithmetic (NVIDIA GPUs have it from compute "
            "capability 8.0 on); leave precision=float32, or choose another device"
        )
    return dtype


def slower_note(dtype: torch.dtype, device: torch.device) -> str | None:
    """A note for the user if this CPU multiplies `dtype` slower than float32; else None."""
    if device.type != "cpu":
        return None
    slower = matmul_peak(torch.float32, size=256, seconds=0.02) / matmul_peak(dtype, size=256, seconds=0.02)
    name = str(dtype).removeprefix("torch.")
    return f"{name} multiplies {slower:.0f} times slower than float32 on this CPU" if slower > 1 else None


def _multiplies_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether autocast computes correct products in `dtype` on the device. Emulation on a GPU does not count."""
    if device.type == "cuda" and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return False
    try:
        ones = torch.ones(8, 8, device=device)
        with torch.autocast(device.type, dtype=dtype):
            product = ones @ ones
        return product.dtype == dtype and bool((product == 8).all())
    except (RuntimeError, TypeError, NotImplementedError):  # raised by torch for a device or dtype without autocast
        return False


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"device={device}"


# The peak speed of matrix products on this machine.


def matmul_peak(dtype: torch.dtype, *, size: int = 768, seconds: float = 0.3) -> float:
    """Floating-point operations per second of the fastest of several products of two square matrices."""
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    start = time.perf_counter()
    left @ right
    if time.perf_counter() - start > seconds:
        size = 128
        left, right = left[:size, :size].contiguous(), right[:size, :size].contiguous()
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or best == 0.0:
        start = time.perf_counter()
        left @ right
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
