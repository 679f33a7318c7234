"""The values of a comparison as JSON's types."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlx.compare.scores import RunScore


def plain(value: Any) -> Any:
    """Dataclasses, arrays and tuples as JSON's types; numbers that are not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (enum.Enum, os.PathLike)):
        return str(value)
    return value


def run_dict(run: RunScore) -> dict[str, Any]:
    """What comparison.json says about a single run."""
    names = ("variant", "task", "seed", "state", "score", "imputed", "step", "tokens", "seconds", "kl", "prompt_error", "notes")
    record = run.record
    about = {"id": record.id, "directory": str(record.directory), "status": record.status, "config_hash": record.config_hash}
    return {**about, **{name: plain(getattr(run, name)) for name in names}, "error": plain(record.error)}
