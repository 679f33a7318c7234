"""Python's search for circular garbage while a process starts: imports make half a million objects, none of them garbage."""

from __future__ import annotations

import gc

OBJECTS = 100_000  # that are made between two searches of the young ones while a process starts; Python's own number is 700


def search_seldom() -> None:
    """Search for circular garbage seldom, until `search_as_usual`. With Python's own numbers a fifth of a start is searched."""
    gc.set_threshold(OBJECTS, 10, 10)


def search_as_usual() -> None:
    """Search as often as Python does by itself, but not among the objects that the start has made.

    Call it once models and data are made. Where `search_seldom` was not called, in a process that imports rlx, nothing changes.
    """
    if gc.get_threshold()[0] == OBJECTS:
        gc.freeze()
        gc.set_threshold(700, 10, 10)
