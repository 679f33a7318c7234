"""Completions that say the same so far are one row of the batch, which splits where they part.

The completions of a prompt begin equal, and under a policy that is sure of itself many stay so for long, or to their end: what a
row costs is paid once for all of them, and each completion still chooses its own tokens by its own random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlx.data.sequences import Tokens


def distinct(prompts: Sequence[Tokens]) -> tuple[list[int], np.ndarray]:
    """Where each different prompt is met first, and int64 [P], which of those each prompt is."""
    first: dict[bytes, int] = {}
    found: list[int] = []
    numbers = np.empty(len(prompts), dtype=np.int64)
    for place, prompt in enumerate(prompts):
        number = first.setdefault(np.asarray(prompt, dtype=np.int64).tobytes(), len(first))
        if number == len(found):
            found.append(place)
        numbers[place] = number
    return found, numbers


def branch(rows: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next batch: which row each row goes on from and with which token, both int64 [R'], and each completion's row in it.

    rows: int64 [B], the row of each completion that goes on; tokens: int64 [B], what it said. A row stays where it is if it can,
    so that little is copied: the others fill the holes, and the end.
    """
    width = int(tokens.max()) + 1
    children, child_of = np.unique(rows * width + tokens, return_inverse=True)
    parents, following = np.divmod(children, width)
    count = len(children)
    stays = np.ones(count, dtype=bool)
    stays[1:] = parents[1:] != parents[:-1]  # of the rows that come from one row, one can stay in its place
    stays &= parents < count
    place = np.empty(count, dtype=np.int64)
    place[stays] = parents[stays]
    free = np.ones(count, dtype=bool)
    free[parents[stays]] = False
    place[~stays] = np.flatnonzero(free)
    order = np.empty(count, dtype=np.int64)
    order[place] = np.arange(count)
    return parents[order], following[order], place[child_of]
