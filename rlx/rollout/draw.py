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
from rlx.errors import ConfigError, DataError, TrainingError
from rlx.rollout.play import Played, play
from rlx.rollout.rollouts import RolloutBatch
from rlx.rollout.sampler import Sampler
from rlx.seeding import Stream
from rlx.task.base import Curriculum
from rlx.task.environment import require_free
from rlx.task.rewarded import RewardedTask

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.task.base import Prompt, Task


def exchanged(count: int, share: float, *, rng: Stream) -> list[int]:
    """For each of `count` completions, the index of the one whose reward it gets: its own, except for a random `share`.

    A control that measures how much an algorithm depends on its reward: at share 1 rewards are independent of their completions.
    """
    sources = np.arange(count)
    if share > 0:
        generator = rng.numpy()
        chosen = generator.permutation(count)[: round(share * count)]
        sources[chosen] = generator.permutation(chosen)
    found: list[int] = sources.tolist()
    return found


def _moved(part: Tensor, sources: Sequence[int]) -> Tensor:
    return part.flatten()[list(sources)].reshape(part.shape)


class RolloutContext(Protocol):
    """The objects needed for rollouts; a Lab provides them."""

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
    @property
    def state(self) -> dict[str, Tensor]: ...


def roll_out(
    lab: RolloutContext, *, prompts_per_step: int, group_size: int, resample_attempts: int, filter_truncated: bool
) -> RolloutBatch:
    """This step's rollouts: every prompt once per epoch, `group_size` completions each.

    resample_attempts: how often groups without signal (all rewards equal) are replaced by groups of other prompts, drawn at
    random; groups that still have no signal are kept. filter_truncated: leave truncated completions out of the loss, but not
    out of the rewards.
    """
    if prompts_per_step < 1 or group_size < 1 or resample_attempts < 0:
        raise ConfigError(
            f"prompts_per_step={prompts_per_step} and group_size={group_size} must be at least 1, "
            f"resample_attempts={resample_attempts} at least 0"
        )
    num_rows, address, curriculum = len(lab.task.prompts()), lab.rng.child("prompts"), lab.task.curriculum
    if num_rows == 0:
        raise DataError(f"task {lab.task.name} has no prompts to sample completions for")
    pool = np.arange(num_rows)
    if curriculum is not None:
        level = level_of(curriculum, lab.state)
        pool, address = rows_at(curriculum, level), address.child("level", level)
    rows = pool[epoch_rows(address, num_rows=len(pool), step=lab.step, per_step=prompts_per_step)]
    batch = sample_groups(lab, rows, group_size=group_size)
    progress = {} if curriculum is None else learn_level(curriculum, lab.state, batch, lab.task.full_reward_value())
    drawn = len(batch)
    for attempt in range(1, resample_attempts + 1):
        without_signal = batch.without_signal
        missing = int(without_signal.sum())
        if not missing:
            break
        again = pool[lab.rng.child("prompts", "attempt", attempt, lab.step).numpy().integers(0, len(pool), size=missing)]
        fresh = sample_groups(lab, again, group_size=group_size, attempt=attempt)
        drawn += missing
        good = batch.take(torch.nonzero(~without_signal).flatten().tolist())
        batch = (
            RolloutBatch.join([good, fresh])
            if len(good)
            else replace(fresh, tokens_sampled=batch.tokens_sampled + fresh.tokens_sampled)
        )
    if filter_truncated:
        batch = replace(batch, kept=batch.kept & batch.finished)
    counts = {"groups_resampled": float(drawn - len(batch))} if resample_attempts else {}
    require_free(batch.environment_figures, counts | progress, of="a draw")
    return replace(batch, metrics=batch.figures() | counts | progress)


def sample_groups(lab: RolloutContext, rows: Sequence[int] | np.ndarray, *, group_size: int, attempt: int = 0) -> RolloutBatch:
    """Sample, decode and reward completions of the task's training prompts `rows`."""
    keys = [int(row) for row in rows]
    all_prompts = lab.task.prompts()
    prompts = tuple(all_prompts[key] for key in keys)
    played = play(
        lab.task,
        lab.policy,
        lab.sampler,
        prompts,
        group_size=group_size,
        stream=lab.rng.child("rollout", lab.step),
        prompt_keys=keys,
        attempt=attempt,
    )
    played.require_some_unbroken()
    noise = lab.task.reward_noise if isinstance(lab.task, RewardedTask) else 0.0
    sources = exchanged(len(keys) * group_size, noise, rng=lab.rng.child("reward_noise", lab.step, attempt))
    rewards = {name: _moved(part, sources) for name, part in rewards_of(lab.task, played).items()}
    rollout, failed = played.rollout, played.failed
    by_turn = lab.task.interaction is not None and lab.task.interaction.credit == "turn"
    return RolloutBatch(
        sequences=rollout.sequences,
        prompts=prompts,
        prompt_keys=tuple(keys),
        texts=played.texts,
        sampling_logprobs=rollout.sampling_logprobs,
        temperature=rollout.temperature,
        rewards=rewards.pop("reward"),
        reward_parts=rewards,
        finished=rollout.finished,
        kept=torch.ones_like(rollout.finished) if failed is None else ~failed,
        failed=failed,
        turns=None if lab.task.interaction is None else played.turns,
        token_rewards=played.token_rewards(lab.policy, sources) if by_turn else None,
        environment_figures={name: torch.tensor(part, dtype=torch.float32) for name, part in played.figures().items()},
        tokens_sampled=int(rollout.sequences.learned_lengths.sum()),
    )


def parts_and_weights(lab: RolloutContext, batch: RolloutBatch, *, by: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(float32 [P, G, K] the individual rewards of a batch, float32 [K] their weights in the task).

    Raises TrainingError if the task's reward has no parts; `by` names the advantage that reads them.
    """
    rewards = lab.task.all_rewards() if isinstance(lab.task, RewardedTask) else {}
    names = [name for name in rewards if name in batch.reward_parts]
    if not names:
        raise TrainingError(
            f"advantage {by} reads the single rewards of a completion, but task {lab.task.name} gives their sum alone; "
            "take a task with task.rewards, or advantage=group_standardized"
        )
    weights = torch.tensor([rewards[name].weight for name in names], dtype=torch.float32)
    return torch.stack([batch.reward_parts[name] for name in names], dim=-1), weights


def greedy_rewards(lab: RolloutContext, prompts: Sequence[Prompt]) -> torch.Tensor:
    """float32 [P]: the reward of the greedy completion of each prompt."""
    if not prompts:
        return torch.zeros(0)
    played = play(
        lab.task,
        lab.policy,
        lab.sampler.in_process,
        prompts,
        group_size=1,
        stream=lab.rng.child("greedy"),
        prompt_keys=range(len(prompts)),
        greedy=True,
    )
    return rewards_of(lab.task, played)["reward"][:, 0]


def rewards_of(task: Task, played: Played) -> dict[str, torch.Tensor]:
    """Name -> float32 [P, G], including "reward". Raises TrainingError if completions have different reward parts."""
    if played.graded is None:
        raise ConfigError(f"task {task.name} gives no rewards; task=arithmetic, prompt_file and environment do")
    return {name: torch.tensor(part, dtype=torch.float32) for name, part in played.rewards().items()}


# Curricula: the prompts that a step draws from, with a difficulty level that rises with success. The level is part of the run's
# state, which checkpoints contain, so that a resumed run continues at its level.

_LEVEL, _COUNT, _SUM = "curriculum/level", "curriculum/steps", "curriculum/success"


def level_of(curriculum: Curriculum, state: Mapping[str, Tensor]) -> int:
    """The level of this step."""
    return int(state[_LEVEL]) if _LEVEL in state else curriculum.start


def rows_at(curriculum: Curriculum, level: int) -> np.ndarray:
    """int64 [N], the rows of the task's prompts at a level."""
    return np.flatnonzero(np.array(curriculum.levels) == level)


def learn_level(curriculum: Curriculum, state: dict[str, Tensor], batch: RolloutBatch, full: float | None) -> dict[str, float]:
    """Count the successes of a batch and raise the level for the next step if there are enough. Returns metrics to log.

    full: the reward from which a completion counts as correct; None: the reward itself is the success.
    """
    level = level_of(curriculum, state)
    rewards = batch.rewards.double()
    success = float((rewards if full is None else (rewards >= full).double()).mean())
    steps = int(state[_COUNT]) + 1 if _COUNT in state else 1
    total = (float(state[_SUM]) if _SUM in state else 0.0) + success
    figures = {"difficulty": float(level), "difficulty_success": total / steps}
    if steps >= curriculum.raise_after:
        if curriculum.raise_at is not None and total / steps >= curriculum.raise_at and level < curriculum.highest:
            level += 1
        steps, total = 0, 0.0
    state.update({
        _LEVEL: torch.tensor(level), _COUNT: torch.tensor(steps), _SUM: torch.tensor(total, dtype=torch.float64)
    })  # fmt: skip
    return figures
