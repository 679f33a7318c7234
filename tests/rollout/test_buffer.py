"""A replay buffer gives back what was added, forgets the oldest, and lies in the state that checkpoints contain."""

from dataclasses import replace

import pytest
import torch

import rlx
from rlx.algorithm.base import Lab
from rlx.errors import ConfigError
from rlx.policy.tiny import build_tiny
from rlx.rollout.draw import sample_groups
from rlx.seeding import Stream

SAME = ("rewards", "finished", "kept", "sampling_logprobs")


@pytest.fixture(scope="module")
def lab():
    policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    task, sampler = rlx.load("task", "arithmetic", max_operand=20), rlx.load("rollout", "transformers")
    return lambda state, step=0: Lab(task, policy, None, sampler, step, Stream(0), state)


def test_what_was_added_comes_back(lab):
    state = {}
    batch = sample_groups(lab(state), range(5), group_size=3)
    buffer = lab(state).buffer(8)
    buffer.add(batch)
    assert len(lab(state).buffer(8)) == 5
    back = buffer.take([3, 1])
    wanted = batch.take([3, 1])
    assert back.prompt_keys == wanted.prompt_keys
    assert back.texts == wanted.texts
    assert all(torch.equal(getattr(back, name), getattr(wanted, name)) for name in SAME)
    assert back.reward_parts.keys() == wanted.reward_parts.keys()
    for mine, theirs in zip(back.sequences.completions, wanted.sequences.completions, strict=True):
        assert [one.tolist() for one in mine] == [one.tolist() for one in theirs]
    assert back.tokens_sampled == 0
    assert len(type(batch).join([batch, back])) == 7


def test_the_oldest_leave_and_a_saved_state_goes_on(lab, tmp_path):
    state = {}
    for step in range(3):
        at = lab(state, step)
        at.buffer(4).add(sample_groups(at, range(2 * step, 2 * step + 2), group_size=2))
    assert lab(state).buffer(4).take(range(4)).prompt_keys == (2, 3, 4, 5)
    torch.save(state, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    one, other = (lab(saved, 7).buffer(4).sample(3) for saved in (state, again))
    assert one.prompt_keys == other.prompt_keys
    assert len(set(one.prompt_keys)) == 3
    assert torch.equal(one.sampling_logprobs, other.sampling_logprobs)
    assert lab(state, 8).buffer(4).sample(9).rewards.shape == (4, 2)


def test_what_does_not_fit_is_refused(lab):
    state = {}
    with pytest.raises(ConfigError, match="is empty"):
        lab(state).buffer(4).sample(1)
    with pytest.raises(ConfigError, match="capacity 0"):
        lab(state).buffer(0)
    lab(state).buffer(4).add(sample_groups(lab(state), [0], group_size=2))
    with pytest.raises(ConfigError, match="groups of 2 completions, and these have 3"):
        lab(state).buffer(4).add(sample_groups(lab(state), [0], group_size=3))
    several = sample_groups(lab(state), [0], group_size=2)
    with pytest.raises(ConfigError, match="of one turn alone"):
        lab(state).buffer(4).add(replace(several, turns=torch.zeros(several.completion_mask.shape, dtype=torch.int64)))
    lab(state).buffer(4, name="other").add(sample_groups(lab(state), [0], group_size=3))
