"""Which rows of a forward pass are the cheapest.

Dimensions: P prompts, G completions of a prompt, B rows of the forward, T tokens of a row.
"""

from __future__ import annotations

import heapq

import numpy as np

from rlx.data.layout import Layout, lengths_of, plain_rows, rests_of, shared_beginnings, shared_prefix_rows
from rlx.data.sequences import Sequences


def cheapest_rows(sequences: Sequences, *, attention_cost: float, branch_cost: float | None = None) -> Layout:
    """Shared-prefix rows with prompts packed into rows of similar lengths, one row branch by branch, or plain rows: the cheapest.

    attention_cost: what seeing one more position costs a token, as a share of all that does not depend on the row's length.
    branch_cost: what taking a row apart for attention branch by branch costs a token, in the same unit; None where the model
    cannot do so. Longer rows waste less on padding and more on masked attention; plain causal attention skips the half that it
    must not see.
    """
    prompts, lengths, common = lengths_of(sequences.prompts), sequences.completion_lengths.numpy(), shared_beginnings(sequences)
    totals = prompts + common + rests_of(lengths, common).sum(axis=1)
    longest = int((prompts[:, None] + np.maximum(lengths - 1, 0)).max())
    plain_cost = lengths.size * longest * (1 + attention_cost * longest / 2)
    best_cost, best = plain_cost, None
    whole = {-(-len(totals) // each) for each in (1, 2, 3, 4, 8)}  # as many prompts in each row: the best of similar lengths
    full = {-(-int(totals.sum()) // int(width)) for width in (totals.max(), 2 * totals.max())}  # of lengths that differ much
    for num_rows in sorted(whole | full, reverse=True):
        rows_of = balanced(totals, num_rows)
        row_lengths = np.bincount(rows_of, weights=totals)
        cost = len(row_lengths) * row_lengths.max() * (1 + attention_cost * row_lengths.max())
        if cost < best_cost:
            best_cost, best = cost, rows_of
    if branch_cost is not None:
        trunks, branches = prompts + common, rests_of(lengths, common)
        longest, rest = int(trunks.max()), int(branches.max())
        seen = len(trunks) * longest**2 / 2 + branches.size * rest * (longest + rest)
        if totals.sum() * (1 + branch_cost) + attention_cost * seen < best_cost:
            return shared_prefix_rows(sequences, branched=True)
    return plain_rows(sequences) if best is None else shared_prefix_rows(sequences, rows_of=best)


def balanced(totals: np.ndarray, num_rows: int) -> np.ndarray:
    """int64 [P], a row for each item of these lengths [P]: longest first, each to the row that is emptiest so far."""
    if num_rows >= len(totals):
        return np.arange(len(totals))
    rows_of = np.empty(len(totals), dtype=np.int64)
    fill = [(0, row) for row in range(num_rows)]
    for item in np.argsort(-totals, kind="stable").tolist():
        length, row = fill[0]
        rows_of[item] = row
        heapq.heapreplace(fill, (length + int(totals[item]), row))
    return rows_of
