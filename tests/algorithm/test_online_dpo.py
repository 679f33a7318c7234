import dataclasses

import pytest
import torch

import rlx
from rlx.training.gradients import AccumulatedGradients


def made(**changes):
    return rlx.load("algorithm", "online_dpo", **{"prompts_per_step": 6, "group_size": 4, **changes})


@pytest.fixture
def rewarded(lab, monkeypatch):
    monkeypatch.setattr(
        type(lab.task), "reward", lambda self, prompt, completion: {"reward": float(sum(map(ord, completion)) % 3)}
    )
    return dataclasses.replace(lab, task=rlx.load("task", "arithmetic", max_operand=20, max_new_tokens=4))


def test_the_better_completion_is_the_chosen_one(rewarded):
    batch = made().draw(rewarded)
    assert len(batch) > 0
    assert batch.metrics["pairs"] == len(batch)
    for row in range(len(batch)):
        chosen, rejected = (sum(map(ord, rewarded.policy.decode(tokens))) % 3 for tokens in batch.sequences.completions[row])
        assert chosen > rejected
    assert batch.tokens_sampled > 0
    assert torch.isfinite(made().compute_loss(rewarded.policy, rewarded.reference, batch).loss)


def test_a_draw_without_signal_moves_nothing(rewarded, monkeypatch):
    monkeypatch.setattr(type(rewarded.task), "reward", lambda self, prompt, completion: {"reward": 0.0})
    algorithm = made()
    batch = algorithm.draw(rewarded)
    assert len(batch) == 0
    gradients = AccumulatedGradients(algorithm, rewarded.policy, rewarded.reference, batch, micro_batch=None)
    assert set(map(type, gradients()["loss"])) == {type(None)}
    assert gradients.metrics["loss"] == 0.0
