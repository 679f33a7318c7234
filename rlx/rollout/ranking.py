"""Preference pairs out of rollouts: the best completion of a group against its worst."""

from __future__ import annotations

import numpy as np
import torch

from rlx.data.preferences import PairBatch, TokenizedPairs
from rlx.data.sequences import Sequences
from rlx.rollout.rollouts import RolloutBatch


def best_against_worst(batch: RolloutBatch) -> PairBatch:
    """One pair a group that has signal: the first of its best completions, and the first of its worst.

    Completions that were filtered out are not paired; the pairs carry their rewards as scores. The batch's metrics go along.
    """
    rewards = batch.rewards.double()
    best = torch.where(batch.kept, rewards, -torch.inf).argmax(dim=1)
    worst = torch.where(batch.kept, rewards, torch.inf).argmin(dim=1)
    pairs = torch.stack([best, worst], dim=1)  # [P, 2]
    scores = batch.rewards.gather(1, pairs)
    usable = batch.kept.any(dim=1) & (scores[:, 0] > scores[:, 1])
    rows = torch.nonzero(usable).flatten().tolist()
    sequences = Sequences(
        tuple(batch.sequences.prompts[row] for row in rows),
        tuple(tuple(batch.sequences.completions[row][place] for place in pairs[row].tolist()) for row in rows),
    )
    source = TokenizedPairs(sequences, np.array([batch.prompt_keys[row] for row in rows], dtype=np.int64), scores=scores[rows])
    paired = PairBatch.of(source, np.arange(len(rows)))
    return PairBatch(source, paired.rows, paired.sequences, {}, dict(batch.metrics), paired.scores)
