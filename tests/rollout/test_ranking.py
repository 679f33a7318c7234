import dataclasses

import numpy as np
import pytest
import torch

from rlx.rollout.draw import sample_groups
from rlx.rollout.rollouts import best_against_worst
from tests.rollout.stand_in import Bench, StandIn, model_of

REWARDS = torch.tensor(
    [[0.0, 2.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0], [3.0, 3.0, -1.0, 0.0], [0.0, 0.0, 0.0, 5.0], [4.0, 3.0, 2.0, 1.0]]
)


@pytest.fixture(scope="module")
def batch():
    batch = sample_groups(Bench(StandIn(model_of("llama"))), [4, 3, 2, 1, 0], group_size=4)
    return dataclasses.replace(batch, rewards=REWARDS, metrics={"reward_mean": 1.5})


def chosen_places(batch, pairs):
    """prompt key -> places of chosen and rejected in their group."""
    places = {}
    for row, (chosen, rejected) in zip(pairs.rows, pairs.sequences.completions, strict=True):
        key = int(pairs.source.index[row])
        group = batch.sequences.completions[batch.prompt_keys.index(key)]
        places[key] = tuple(next(i for i, other in enumerate(group) if other is one) for one in (chosen, rejected))
    return places


def test_the_best_of_each_group_against_its_worst(batch):
    pairs = best_against_worst(batch)
    assert chosen_places(batch, pairs) == {4: (1, 0), 2: (0, 2), 1: (3, 0), 0: (0, 3)}
    assert pairs.metrics == {"reward_mean": 1.5}
    for row, score in zip(pairs.rows, pairs.scores, strict=True):
        rewards = REWARDS[batch.prompt_keys.index(int(pairs.source.index[row]))]
        assert score.tolist() == [rewards.max(), rewards.min()]


def test_filtered_completions_are_not_paired(batch):
    kept = torch.ones_like(REWARDS, dtype=torch.bool)
    kept[0] = torch.tensor([False, False, True, True])  # leaves 1 and 2
    kept[3] = torch.tensor([True, True, True, False])  # leaves no difference
    kept[4] = False
    pairs = best_against_worst(dataclasses.replace(batch, kept=kept))
    assert chosen_places(batch, pairs) == {4: (3, 2), 2: (0, 2)}


def test_no_signal_no_pairs(batch):
    pairs = best_against_worst(dataclasses.replace(batch, rewards=torch.zeros(5, 4)))
    assert len(pairs) == 0
    assert np.asarray(pairs.rows).shape == (0,)
