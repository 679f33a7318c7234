import dataclasses

import numpy as np
import pytest
import torch

from rlx.errors import ConfigError, DataError, RlxError, TrainingError
from rlx.rollout.draw import roll_out
from rlx.seeding import Stream
from tests.rollout.stand_in import Bench, Letters, StandIn, model_of, sampler_of
from tests.task.rewarding import letters


@pytest.fixture(scope="module")
def bench():
    return Bench(StandIn(model_of("llama"), eos=(1, 2, 3)), sampler_of(max_new_tokens=None))


def drawn(bench, **changes):
    arguments = {"prompts_per_step": 4, "group_size": 3, "resample_attempts": 0, "filter_truncated": False, **changes}
    return roll_out(bench, **arguments)


class Graded(Letters):
    """Every prompt is graded by a function of its text and of the completion."""

    def reward(self, prompt, completion):
        return {"reward": self.grade(prompt.text, completion)}

    @staticmethod
    def grade(prompt, completion):
        raise AssertionError


def graded(grade):
    kind = type("Graded", (Graded,), {"grade": staticmethod(grade)})
    return kind(name="graded", max_new_tokens=6)


def test_every_prompt_comes_once_an_epoch(bench):
    keys = [key for step in range(5) for key in drawn(dataclasses.replace(bench, step=step)).prompt_keys]
    for epoch in range(4):
        assert sorted(keys[5 * epoch : 5 * epoch + 5]) == list(range(5))


def test_rewards_belong_to_their_completions(bench):
    batch = drawn(bench)
    prompts = bench.task.prompts()
    for row, key in enumerate(batch.prompt_keys):
        assert batch.prompts[row].text == prompts[key].text
        assert np.array_equal(batch.sequences.prompts[row], bench.policy.encode_prompt(prompts[key].text))
        for place, completion in enumerate(batch.sequences.completions[row]):
            text = bench.policy.decode(completion)
            assert batch.texts[row][place] == text
            reward = bench.task.reward(prompts[key], text)
            assert batch.rewards[row, place] == pytest.approx(reward.pop("reward"))
            assert {name: part[row, place].item() for name, part in batch.reward_parts.items()} == pytest.approx(reward)
    assert batch.sequences.completion_lengths.max() == bench.task.max_new_tokens
    assert batch.tokens_sampled == batch.sequences.completion_lengths.sum()
    assert batch.metrics == batch.figures()
    assert batch.kept.all()


def test_the_same_stream_draws_the_same_batch(bench):
    first, second = drawn(bench), drawn(bench)
    assert first.texts == second.texts
    assert torch.equal(first.sampling_logprobs, second.sampling_logprobs)
    assert drawn(dataclasses.replace(bench, rng=Stream(1))).texts != first.texts


def test_a_stop_string_is_not_shown_to_the_reward(bench):
    batch = drawn(dataclasses.replace(bench, sampler=sampler_of(max_new_tokens=None, stop=("m", "n", "o"))))
    assert not any(letter in text for group in batch.texts for text in group for letter in "mno")
    assert any(
        text == "" or len(tokens) > len(text)
        for group, said in zip(batch.sequences.completions, batch.texts, strict=True)
        for tokens, text in zip(group, said, strict=True)
    )


def test_groups_without_signal_are_drawn_again(bench):
    # the prompts "bcd" and "za" never have signal; the others nearly always
    task = graded(lambda prompt, completion: 0.0 if prompt in ("bcd", "za") else float(sum(map(ord, completion)) % 97))
    bench = dataclasses.replace(bench, task=task)
    once = drawn(bench, prompts_per_step=5)
    assert once.metrics["groups_without_signal"] == pytest.approx(0.4)
    assert "groups_resampled" not in once.metrics
    again = drawn(bench, prompts_per_step=5, resample_attempts=20)
    assert len(again) == 5
    assert again.metrics["groups_without_signal"] == 0.0
    assert again.metrics["groups_resampled"] >= 2
    assert again.tokens_sampled > int(again.sequences.completion_lengths.sum())
    assert not {"bcd", "za"} & {prompt.text for prompt in again.prompts}
    assert len(set(again.texts)) == 5  # a prompt that is drawn once more is completed anew


def test_drawing_again_has_a_limit(bench):
    bench = dataclasses.replace(bench, task=graded(lambda prompt, completion: 1.0))
    batch = drawn(bench, resample_attempts=3)
    assert len(batch) == 4
    assert batch.metrics["groups_without_signal"] == 1.0
    assert batch.metrics["groups_resampled"] == 12
    assert batch.tokens_sampled > int(batch.sequences.completion_lengths.sum())


def test_truncated_completions_can_be_kept_out_of_the_loss(bench):
    batch = drawn(bench, filter_truncated=True)
    assert torch.equal(batch.kept, batch.finished)
    assert 0 < batch.kept.sum() < batch.kept.numel()
    assert torch.equal(batch.rewards, drawn(bench).rewards)


def test_reward_noise_moves_rewards_between_the_completions_of_a_draw_and_no_others(bench):
    def task(noise):
        made = letters({"length": lambda prompt, completion: sum(map(ord, completion))}, reward_noise=noise)
        return dataclasses.replace(bench, task=made)

    clean, noisy, again = (drawn(task(noise), prompts_per_step=1, group_size=12) for noise in (0.0, 1.0, 1.0))
    assert noisy.texts == clean.texts
    assert not torch.equal(noisy.rewards, clean.rewards)
    assert torch.equal(noisy.rewards.sort().values, clean.rewards.sort().values)
    assert torch.equal(noisy.reward_parts["length"], noisy.rewards)
    assert torch.equal(again.rewards, noisy.rewards)
    assert noisy.metrics["reward_mean"] == pytest.approx(clean.metrics["reward_mean"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_reward_that_is_no_number_is_named(bench, value):
    bench = dataclasses.replace(bench, task=graded(lambda prompt, completion: value if prompt == "hello" else 0.0))
    with pytest.raises(TrainingError, match=r"graded .*the completion '.*' of the prompt 'hello'"):
        drawn(bench, prompts_per_step=5)


def test_a_reward_that_raises_is_named(bench):
    bench = dataclasses.replace(bench, task=graded(lambda prompt, completion: 1 / 0))
    with pytest.raises(TrainingError, match=r"raised ZeroDivisionError.*of the prompt"):
        drawn(bench)


def test_an_error_of_rlx_in_a_reward_stays_itself(bench):
    def complain(prompt, completion):
        raise DataError("no such column")

    with pytest.raises(RlxError, match=r"^no such column$"):
        drawn(dataclasses.replace(bench, task=graded(complain)))


def test_parts_that_come_and_go_are_an_error(bench):
    class Fickle(Letters):
        def reward(self, prompt, completion):
            return {"reward": 0.0, prompt.text: 1.0}

    with pytest.raises(TrainingError, match="same parts"):
        drawn(dataclasses.replace(bench, task=Fickle(name="fickle", max_new_tokens=3)))


@pytest.mark.parametrize("change", [{"prompts_per_step": 0}, {"group_size": 0}, {"resample_attempts": -1}])
def test_counts_out_of_range_are_named(bench, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        drawn(bench, **change)


def test_a_task_without_prompts_is_named(bench):
    class Empty(Letters):
        def prompts(self):
            return []

    with pytest.raises(DataError, match="task nothing has no prompts"):
        drawn(dataclasses.replace(bench, task=Empty(name="nothing", max_new_tokens=3)))
