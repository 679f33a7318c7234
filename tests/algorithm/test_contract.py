"""The contract names every planted fault, and passes every sound algorithm of unusual shape."""

import functools

import pytest
import torch

import rlx
from rlx.algorithm.base import Need
from rlx.algorithm.contract import LAWS, Subject, check_algorithm, promise
from rlx.policy.tiny import build_tiny
from rlx.train.gradients import AccumulatedGradients
from tests.algorithm.faulty import FAULTS, Demonstrations, Preferences, Rewards
from tests.algorithm.sound import SOUND


@pytest.fixture(scope="session")
def small_lab():
    policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    task = rlx.load("task", "arithmetic", max_operand=20)
    return policy, task, rlx.load("rollout", "transformers"), functools.partial(torch.optim.AdamW, lr=1e-3)


def subject(algorithm, small_lab):
    policy, task, sampler, optimizer = small_lab
    if Need.VALUES in algorithm.active_needs:
        policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
        policy.add_value_head()
    return Subject(algorithm, task, policy, sampler, AccumulatedGradients, optimizer)


def failed(algorithm, small_lab, laws=None):
    verdicts = list(check_algorithm(subject(algorithm, small_lab), laws=laws))
    return {verdict.law: verdict.finding for verdict in verdicts if verdict.failed}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_named(kind, small_lab):
    wanted = FAULTS[kind]
    found = failed(kind(), small_lab, {name: LAWS[name] for name in wanted})
    assert found.keys() & wanted
    for finding in found.values():
        assert finding.wrong
        assert finding.mend


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards, *SOUND], ids=lambda kind: kind.__name__)
def test_a_sound_algorithm_passes(kind, small_lab):
    assert failed(kind(), small_lab) == {}


def test_every_law_promises_something():
    assert all(promise(law).endswith(".") for law in LAWS.values())
