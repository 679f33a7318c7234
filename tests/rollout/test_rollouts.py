import dataclasses

import numpy as np
import pytest
import torch

from rlx.data.sequences import Sequences
from rlx.rollout.draw import sample_groups
from rlx.rollout.rollouts import RolloutBatch
from tests.rollout.stand_in import Bench, StandIn, model_of, sampler_of


@pytest.fixture(scope="module")
def batch():
    sampler = sampler_of(max_new_tokens=None)
    batch = sample_groups(Bench(StandIn(model_of("llama"), eos=(1, 2, 3, 4, 5)), sampler), range(5), group_size=3)
    shape = batch.completion_mask.shape
    numbers = torch.arange(batch.completion_mask.numel(), dtype=torch.float32).reshape(shape)
    return batch.with_values(
        advantages=numbers[..., 0], weights=numbers, values=numbers + 1, returns=numbers + 2, reference_logprobs=numbers + 3
    )


def equal_rows(part, whole, rows):
    width = part.completion_mask.shape[-1]
    for field in dataclasses.fields(RolloutBatch):
        mine, all_of_it = getattr(part, field.name), getattr(whole, field.name)
        if isinstance(mine, torch.Tensor):
            expected = all_of_it[rows]
            assert torch.equal(mine, expected[..., :width] if expected.ndim == 3 else expected), field.name
        elif isinstance(mine, tuple):
            assert mine == tuple(all_of_it[row] for row in rows), field.name
    for name, part_of_reward in part.reward_parts.items():
        assert torch.equal(part_of_reward, whole.reward_parts[name][rows])
    for row, prompt, group in zip(rows, part.sequences.prompts, part.sequences.completions, strict=True):
        assert prompt is whole.sequences.prompts[row]
        assert all(a is b for a, b in zip(group, whole.sequences.completions[row], strict=True))


def test_a_slice_takes_everything_along(batch):
    assert len(batch) == 5
    assert batch.sampling_logprobs.shape == batch.completion_mask.shape
    widths = set()
    for start in range(5):
        for end in range(start + 1, 6):
            part = batch[start:end]
            equal_rows(part, batch, list(range(start, end)))
            assert part.weights.shape == part.completion_mask.shape
            assert part.metrics is batch.metrics
            widths.add(part.completion_mask.shape[-1])
    assert len(widths) > 1  # a slice has its own longest completion


def test_slices_of_a_slice_and_of_nothing(batch):
    equal_rows(batch[1:5][1:3], batch, [2, 3])
    assert len(batch[2:2]) == 0
    assert batch[2:2].completion_mask.shape[:2] == batch[2:2].loss_mask.shape[:2] == (0, 3)


def test_groups_can_be_taken_in_any_order(batch):
    equal_rows(batch.take([4, 0, 2]), batch, [4, 0, 2])


def test_batches_join(batch):
    joined = RolloutBatch.join([batch[3:5], batch[0:3]])
    plain = batch.with_values(advantages=None, weights=None, values=None, returns=None, reference_logprobs=None)
    equal_rows(joined.take([2, 3, 4, 0, 1]), plain, list(range(5)))
    assert joined.tokens_sampled == 2 * batch.tokens_sampled  # each slice carries what the draw cost


def test_the_loss_mask_leaves_out_what_was_filtered(batch):
    kept = batch.finished
    assert 0 < kept.sum() < kept.numel()
    filtered = dataclasses.replace(batch, kept=kept)
    assert torch.equal(filtered.loss_mask.any(-1), kept)
    assert torch.equal(filtered.loss_mask[kept], batch.completion_mask[kept])
    assert torch.equal(filtered.completion_mask, batch.completion_mask)


def test_figures(batch):
    rewards = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.25]])
    figures = dataclasses.replace(batch, rewards=rewards, reward_parts={"exact": rewards}).figures()
    assert figures["groups_without_signal"] == pytest.approx(3 / 5)
    assert figures["reward_mean"] == pytest.approx(rewards.mean().item())
    assert figures["reward/exact"] == pytest.approx(rewards.mean().item())
    assert figures["reward_std"] == pytest.approx(np.std(rewards.numpy()))
    alone = dataclasses.replace(
        batch, sequences=Sequences(batch.sequences.prompts, tuple(group[:1] for group in batch.sequences.completions))
    )
    assert "groups_without_signal" not in dataclasses.replace(alone, rewards=rewards[:, :1], reward_parts={}).figures()
    lengths = [len(completion) for group in batch.sequences.completions for completion in group]
    assert figures["completion_length"] == pytest.approx(np.mean(lengths))
    assert figures["truncated_fraction"] == pytest.approx(1 - batch.finished.float().mean().item())
