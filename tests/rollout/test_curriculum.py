"""Prompts of a level alone are drawn, the level rises with success, and it lies in the state of the run."""

import dataclasses

import pytest
import torch

from rlx.rollout.draw import learn_level, level_of, roll_out
from rlx.task.base import Curriculum, Prompt
from tests.rollout.stand_in import Bench, Letters, StandIn, model_of, sampler_of


class Levels(Letters):
    """Six prompts of three levels; completions are right where the level is at most 1."""

    @property
    def curriculum(self):
        return Curriculum((0, 1, 2, 0, 1, 2), 0, 0.9, 2)

    def prompts(self):
        return [Prompt(text, {"level": level}) for text, level in zip("bcdefg", (0, 1, 2) * 2, strict=True)]

    def reward(self, prompt, completion):
        return {"reward": float(prompt.columns["level"] <= 1)}


@dataclasses.dataclass(frozen=True)
class StatefulBench(Bench):
    state: dict = dataclasses.field(default_factory=dict)


def drawn(bench, step):
    return roll_out(
        dataclasses.replace(bench, step=step), prompts_per_step=2, group_size=2, resample_attempts=0, filter_truncated=False
    )


@pytest.fixture
def bench():
    task = Levels(name="levels", max_new_tokens=3)
    return StatefulBench(StandIn(model_of("llama"), eos=(1, 2)), sampler_of(max_new_tokens=None), task)


def test_the_level_rises_with_success_and_its_prompts_alone_are_drawn(bench):
    batches = [drawn(bench, step) for step in range(8)]
    levels = [{prompt.columns["level"] for prompt in batch.prompts} for batch in batches]
    assert levels == [{0}, {0}, {1}, {1}, {2}, {2}, {2}, {2}]
    assert [batch.metrics["difficulty"] for batch in batches] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [batch.metrics["difficulty_success"] for batch in batches] == [1, 1, 1, 1, 0, 0, 0, 0]
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert sorted(first.prompt_keys + second.prompt_keys) == sorted(2 * sorted(set(first.prompt_keys)))


def test_a_state_of_before_goes_on_the_same(bench):
    whole = [drawn(bench, step).prompt_keys for step in range(6)]
    part = dataclasses.replace(bench, state={})
    for step in range(3):
        drawn(part, step)
    kept = {name: tensor.clone() for name, tensor in part.state.items()}
    resumed = dataclasses.replace(bench, state=kept)
    assert [drawn(resumed, step).prompt_keys for step in range(3, 6)] == whole[3:]


def test_success_is_counted_anew_after_its_steps(bench):
    curriculum, state = Curriculum((0, 1), 0, 0.5, 2), {}
    batch = drawn(bench, 0)
    right, wrong = (dataclasses.replace(batch, rewards=torch.full_like(batch.rewards, value)) for value in (1.0, 0.0))
    for one in (wrong, wrong, right):
        learn_level(curriculum, state, one, 1.0)
    assert level_of(curriculum, state) == 0
    learn_level(curriculum, state, right, 1.0)
    assert level_of(curriculum, state) == 1
    assert level_of(dataclasses.replace(curriculum, raise_at=None), {}) == 0
