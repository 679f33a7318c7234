"""From prompts to a batch of rollouts: sample, decode, reward, and resample groups without signal.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from rlx.data.preferences import epoch_rows
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError, DataError, TrainingError
from rlx.rollout.rollouts import RolloutBatch
from rlx.rollout.sampler import Sampler
from rlx.seeding import Stream
from rlx.task.rewarded import RewardedTask

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.task.base import Prompt, Task


def with_reward_noise(rewards: Mapping[str, Tensor], share: float, *, rng: Stream) -> dict[str, Tensor]:
    """Name -> [P, G] where a share of the completions have exchanged their rewards, all parts of a reward together.

    A control that measures how much an algorithm depends on its reward. `rng` chooses the completions, over all groups. 0 changes
    nothing; at 1 rewards are independent of their completions.
    """
    if share == 0:
        return dict(rewards)
    generator = rng.numpy()
    first = next(iter(rewards.values()))
    chosen = generator.permutation(first.numel())[: round(share * first.numel())]
    places, sources = torch.from_numpy(chosen.copy()), torch.from_numpy(generator.permutation(chosen))
    return {name: _moved(part, places, sources) for name, part in rewards.items()}


def _moved(part: Tensor, places: Tensor, sources: Tensor) -> Tensor:
    flat = part.flatten().clone()
    flat[places] = part.flatten()[sources]
    return flat.reshape(part.shape)


class RolloutContext(Protocol):
    """What rollouts are made from; a Lab is one."""

    @property
    def task(self) -> Task: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def sampler(self) -> Sampler: ...
    @property
    def step(self) -> int: ...
    @property
    def rng(self) -> Stream: ...


def roll_out(
    lab: RolloutContext, *, prompts_per_step: int, group_size: int, resample_attempts: int, filter_truncated: bool
) -> RolloutBatch:
    """This step's rollouts: every prompt once an epoch, `group_size` completions each.

    resample_attempts: how often groups without signal (all rewards equal) are replaced by groups of other prompts, drawn at
    random; groups that still have no signal are kept. filter_truncated: truncated completions are left out of the loss, not out
    of the rewards.
    """
    if prompts_per_step < 1 or group_size < 1 or resample_attempts < 0:
        raise ConfigError(
            f"prompts_per_step={prompts_per_step} and group_size={group_size} must be at least 1, "
            f"resample_attempts={resample_attempts} at least 0"
        )
    num_rows = len(lab.task.prompts())
    if num_rows == 0:
        raise DataError(f"task {lab.task.name} has no prompts to sample completions for")
    rows = epoch_rows(lab.rng.child("prompts"), num_rows=num_rows, step=lab.step, per_step=prompts_per_step)
    batch = sample_groups(lab, rows, group_size=group_size)
    drawn = len(batch)
    for attempt in range(1, resample_attempts + 1):
        without_signal = batch.without_signal
        missing = int(without_signal.sum())
        if not missing:
            break
        again = lab.rng.child("prompts", "attempt", attempt, lab.step).numpy().integers(0, num_rows, size=missing)
        fresh = sample_groups(lab, again, group_size=group_size, attempt=attempt)
        drawn += missing
        good = batch.take(torch.nonzero(~without_signal).flatten().tolist())
        batch = (
            RolloutBatch.join([good, fresh])
            if len(good)
            else replace(fresh, tokens_sampled=batch.tokens_sampled + fresh.tokens_sampled)
        )
    if filter_truncated:
        batch = replace(batch, kept=batch.finished)
    counts = {"groups_resampled": float(drawn - len(batch))} if resample_attempts else {}
    return replace(batch, metrics=batch.figures() | counts)


def sample_groups(lab: RolloutContext, rows: Sequence[int] | np.ndarray, *, group_size: int, attempt: int = 0) -> RolloutBatch:
    """Completions of the task's training prompts `rows`, decoded and rewarded."""
    keys = [int(row) for row in rows]
    all_prompts = lab.task.prompts()
    prompts = tuple(all_prompts[key] for key in keys)
    rollout = lab.sampler.sample(
        lab.policy,
        [lab.policy.encode_prompt(prompt.text, prompt.tools) for prompt in prompts],
        group_size=group_size,
        stream=lab.rng.child("rollout", lab.step),
        prompt_keys=keys,
        attempt=attempt,
        max_new_tokens=lab.task.max_new_tokens,
    )
    texts = _texts(lab, rollout.sequences)
    noise = lab.task.reward_noise if isinstance(lab.task, RewardedTask) else 0.0
    noise_rng = lab.rng.child("reward_noise", lab.step, attempt)
    rewards = with_reward_noise(rewards_of(lab.task, prompts, texts), noise, rng=noise_rng)
    return RolloutBatch(
        sequences=rollout.sequences,
        prompts=prompts,
        prompt_keys=tuple(keys),
        texts=texts,
        sampling_logprobs=rollout.sampling_logprobs,
        temperature=rollout.temperature,
        rewards=rewards.pop("reward"),
        reward_parts=rewards,
        finished=rollout.finished,
        kept=torch.ones_like(rollout.finished),
        tokens_sampled=int(rollout.sequences.completion_lengths.sum()),
    )


def _texts(lab: RolloutContext, sequences: Sequences) -> tuple[tuple[str, ...], ...]:
    """The texts of the completions; equal completions, which are frequent in a group, are decoded once."""
    read: dict[bytes, str] = {}
    for tokens in (tokens for group in sequences.completions for tokens in group):
        if tokens.tobytes() not in read:
            read[tokens.tobytes()] = lab.sampler.text(lab.policy, tokens)
    return tuple(tuple(read[tokens.tobytes()] for tokens in group) for group in sequences.completions)


def greedy_rewards(lab: RolloutContext, prompts: Sequence[Prompt]) -> torch.Tensor:
    """float32 [P]: the reward of the greedy completion of each prompt."""
    rollout = lab.sampler.in_process.sample(
        lab.policy,
        [lab.policy.encode_prompt(prompt.text, prompt.tools) for prompt in prompts],
        group_size=1,
        stream=lab.rng.child("greedy"),
        prompt_keys=range(len(prompts)),
        greedy=True,
        max_new_tokens=lab.task.max_new_tokens,
    )
    texts = [[lab.sampler.text(lab.policy, tokens) for tokens in group] for group in rollout.sequences.completions]
    return rewards_of(lab.task, prompts, texts)["reward"][:, 0]


def rewards_of(task: Task, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
    """Name -> float32 [P, G], "reward" among them.

    A reward function that raises, or gives a non-finite value, is reported with its prompt and completion.
    """
    asked = [(prompt, text) for prompt, group in zip(prompts, texts, strict=True) for text in group]
    given = task.reward_all([prompt for prompt, _ in asked], [text for _, text in asked])
    names = given[0].keys()
    if any(reward.keys() != names for reward in given):
        raise TrainingError(
            f"the reward of task {task.name} does not always have the same parts; give each part a number every time"
        )
    shape = (len(prompts), -1)
    return {name: torch.tensor([reward[name] for reward in given], dtype=torch.float32).reshape(shape) for name in names}
