"""What losses an algorithm holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from rlx.loss.base import Loss


def losses_of(owner: Any, path: str = "algorithm") -> Iterator[tuple[str, Loss]]:
    """(where, loss) for every loss in a tree of dataclasses; not those within a loss."""
    if isinstance(owner, Loss):
        yield path, owner
    elif is_dataclass(owner) and not isinstance(owner, type):
        for item in fields(owner):
            yield from losses_of(getattr(owner, item.name), f"{path}.{item.name}")
    elif isinstance(owner, Mapping):
        for key, value in owner.items():
            yield from losses_of(value, f"{path}.{key}")
