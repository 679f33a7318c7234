"""Checks that all ranks have drawn the same batch, by a few numbers that summarise its contents."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

_SKIPPED = frozenset({"metrics"})  # may contain wall-clock times
_TOLERANCE = 1e-3  # relative to the size of a tensor: devices round differently
_ROUNDING = 1e-6  # for values that are 0 up to rounding

Contents = dict[str, tuple[str, float, float]]


def contents(batch: Any) -> Contents:
    """Place in a batch -> (digest of its integers, norm of its floats, inner product of its floats with fixed numbers).

    Only the rows' lengths, arrays and tensors count, including those in lists, dataclasses and mappings.
    """
    hashes: dict[str, Any] = {}
    sizes: dict[str, list[float]] = {}
    for place, values in [("row_tokens", np.asarray(batch.row_tokens)), *_arrays(batch, "")]:
        digest = hashes.setdefault(place, hashlib.blake2b(digest_size=16))
        size = sizes.setdefault(place, [0.0, 0.0])
        digest.update(repr(values.shape).encode())
        if values.dtype.kind == "f":
            flat = np.nan_to_num(values.astype(np.float64).reshape(-1), posinf=1e6, neginf=-1e6)
            size[0] += float(flat @ flat)
            size[1] += float(flat @ np.sin(np.arange(1, len(flat) + 1)))
        else:
            digest.update(np.ascontiguousarray(values).tobytes())
    return {place: (hashes[place].hexdigest(), math.sqrt(square), product) for place, (square, product) in sizes.items()}


def difference(one: Contents, other: Contents) -> str:
    """The first place where two batches differ; empty if they are equal up to rounding."""
    for place in dict.fromkeys((*one, *other)):
        if place not in one or place not in other or one[place][0] != other[place][0]:
            return place
        (_, length, product), (_, length_there, product_there) = one[place], other[place]
        allowed = _TOLERANCE * max(length, length_there) + _ROUNDING
        if max(abs(length - length_there), abs(product - product_there)) > allowed:
            return place
    return ""


def _arrays(value: Any, place: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, torch.Tensor):
        exact = value.detach().cpu()
        exact = exact if exact.layout is torch.strided else exact.to_dense()
        has_numpy = not exact.is_floating_point() or exact.dtype in (torch.float32, torch.float64)
        yield place, (exact if has_numpy else exact.float()).numpy()
        return
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "fiub":
            yield place, value
        return
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (torch.Tensor, np.ndarray)):
        parts = {str(number): part for number, part in enumerate(value)}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}  # without cached attributes
    elif isinstance(value, Mapping):
        parts = dict(value)
    else:
        parts = {} if place else vars(value) if hasattr(value, "__dict__") else {}
    for name, part in parts.items():
        if name not in _SKIPPED:
            yield from _arrays(part, f"{place}.{name}" if place else str(name))
