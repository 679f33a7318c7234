"""The peak speed of matrix products on this machine."""

from __future__ import annotations

import time

import torch


def matmul_peak(dtype: torch.dtype, *, size: int = 768, seconds: float = 0.3) -> float:
    """Floating-point operations per second of the fastest of repeated products of two square matrices."""
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
