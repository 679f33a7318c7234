"""Tools of a user's, sound ones and others."""

from __future__ import annotations

import os
import time
from typing import Any, Literal


def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: the first number
        b: the second number
    """
    print("this is not a reply")
    return str(a + b)


def search(query: str, limit: int = 5, tags: list[str] | None = None, deep: bool = False) -> str:
    """Search the notes.

    Twice.
    """
    return query * limit


def choose(kind: Literal["a", "b"], at: tuple[int, float] | None, limits: dict[str, int], other: int | list[str]) -> str:
    return repr((kind, at, limits, other))


def hang() -> str:
    time.sleep(60)
    return ""


def crash() -> str:
    os._exit(3)


def nonsense() -> Any:
    return object()


def row() -> Any:
    return {"a": [1, None]}


async def later(word: str) -> str:
    return word


def surrogate() -> str:
    return "\ud800"


def fail() -> str:
    raise KeyError("no notes")


def large() -> str:
    return "x" * 3000
