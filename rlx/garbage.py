"""When Python searches for circular garbage: seldom while a process starts, and not while millions of objects are read.

Imports make half a million objects, none of them garbage.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# That are made between two searches of the young ones while a process starts; Python's own number is below 3,000.
OBJECTS = 100_000
_usual: tuple[int, int, int] | None = None  # Python's own thresholds, while others hold


def search_seldom() -> None:
    """Search for circular garbage seldom, until `search_as_usual`. With Python's own numbers a fifth of a start is searched."""
    global _usual
    _usual = gc.get_threshold()
    gc.set_threshold(OBJECTS, *_usual[1:])


def search_as_usual() -> None:
    """Search as often as before `search_seldom`, but not among the objects that the start has made.

    Call it once models and data are made. Where `search_seldom` was not called, in a process that imports rlx, nothing changes.
    """
    global _usual
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None


@contextmanager
def collection_paused() -> Iterator[None]:
    """Without Python's search for circular garbage, which reading millions of objects without circles starts again and again.

    While a process starts, those objects are not searched later either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _usual is not None:
            gc.freeze()
        if was_enabled:
            gc.enable()
