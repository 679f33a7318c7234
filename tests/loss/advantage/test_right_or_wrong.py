"""Advantages of the best of k, of several rewards, and of rewards that are right or wrong, against plain Python."""

from itertools import combinations
from math import comb
from statistics import mean, stdev

import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.advantage.completion import (
    asymmetric_reinforce,
    best_of_group,
    gdpo,
    group_centered,
    group_standardized,
    max_at_k,
    raft,
    reinforce_rej,
    weighted_reinforce,
)

REWARDS = torch.tensor([[0.3, 1.0, 0.3, 0.0, 0.7], [1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.2, 0.1, 0.4, 0.9]], dtype=torch.float64)


def enumerated(rewards: list[float], k: int) -> list[float]:
    """What each completion adds to the best of k, over all sets that hold it."""
    found = [0.0] * len(rewards)
    for chosen in combinations(range(len(rewards)), k):
        for one in chosen:
            without = [rewards[other] for other in chosen if other != one]
            found[one] += (max(rewards[index] for index in chosen) - max(without)) / comb(len(rewards), k)
    return found


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_max_at_k_is_what_a_completion_adds_to_the_best_of_k(k):
    found = max_at_k(k=k)(REWARDS)
    for row, rewards in enumerate(REWARDS.tolist()):
        assert found[row].tolist() == pytest.approx(enumerated(rewards, k), abs=1e-12)


def test_max_at_k_of_the_whole_group_is_the_lead_of_the_best():
    torch.testing.assert_close(max_at_k(k=5)(REWARDS), best_of_group()(REWARDS))


def test_a_group_smaller_than_k_is_refused():
    with pytest.raises(ShapeError, match="needs groups of at least 6, but they have 5"):
        max_at_k(k=6)(REWARDS)


def test_gdpo_standardises_each_reward_before_it_adds_them():
    parts = torch.stack([REWARDS, 100 * REWARDS.flip(0) ** 2], dim=-1)
    found = gdpo(epsilon=1e-12)(REWARDS, reward_parts=parts, reward_weights=torch.tensor([1.0, 0.5], dtype=torch.float64))
    rows = []
    for row in parts.tolist():
        columns = list(zip(*row, strict=True))
        scaled = [[(value - mean(column)) / (stdev(column) + 1e-12) for value in column] for column in columns]
        rows.append([first + 0.5 * second for first, second in zip(*scaled, strict=True)])
    every = [value for row in rows for value in row]
    for row, expected in enumerate(rows):
        assert found[row].tolist() == pytest.approx([(value - mean(every)) / stdev(every) for value in expected], abs=1e-9)


def test_gdpo_is_blind_to_the_scale_of_a_reward_and_asks_for_the_parts():
    one = torch.ones(1, dtype=torch.float64)
    found = [gdpo(epsilon=1e-12)(REWARDS, reward_parts=scale * REWARDS[..., None], reward_weights=one) for scale in (1.0, 50.0)]
    torch.testing.assert_close(*found)
    alone = group_standardized(epsilon=1e-12)(REWARDS)
    torch.testing.assert_close(found[0], alone / alone.std(), rtol=1e-6, atol=1e-9)
    with pytest.raises(ShapeError, match="gdpo needs reward_parts, reward_weights in addition to the rewards"):
        gdpo()(REWARDS)


def test_the_baseline_of_asymmetric_reinforce_lies_below_the_mean():
    torch.testing.assert_close(asymmetric_reinforce(shift=-0.25)(REWARDS), group_centered()(REWARDS) + 0.25)


def test_right_and_wrong_completions():
    assert raft()(REWARDS)[0].tolist() == [0, 1, 0, 0, 1]
    assert weighted_reinforce()(REWARDS)[0].tolist() == [-1, 0.1, -1, -1, 0.1]
    rejected = reinforce_rej(threshold=0.25)(REWARDS)
    assert rejected.tolist() == [[1, 1, 1, -1, 1], [0] * 5, [-1, -1, -1, 1, 1]]


def test_an_input_that_no_advantage_reads_is_refused():
    with pytest.raises(ShapeError, match="cannot read lenghts; a completion advantage may read lengths"):
        raft()(REWARDS, lenghts=None)
