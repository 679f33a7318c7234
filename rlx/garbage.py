"""When Python's cyclic garbage collector runs: rarely at startup, and not at all while millions of objects are read.

Imports create half a million objects, none of them garbage.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects created between two collections of the youngest generation during startup; Python's default is below 3,000.
OBJECTS = 100_000
_usual: tuple[int, int, int] | None = None  # Python's thresholds, while ours are set


def search_seldom() -> None:
    """Collect cyclic garbage rarely until `search_as_usual`. With Python's defaults, collection takes a fifth of startup."""
    global _usual
    _usual = gc.get_threshold()
    gc.set_threshold(OBJECTS, *_usual[1:])


def search_as_usual() -> None:
    """Restore the thresholds from before `search_seldom`, and exclude the objects created during startup from collection.

    Call it once models and data exist. It does nothing if `search_seldom` was not called, as in a process that imports rlx.
    """
    global _usual
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None


@contextmanager
def collection_paused() -> Iterator[None]:
    """Disable cyclic garbage collection within this context: reading millions of acyclic objects would trigger it repeatedly.

    During startup, the objects created here are excluded from later collections too.
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
