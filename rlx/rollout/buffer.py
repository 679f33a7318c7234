"""A replay buffer: groups of rollouts from earlier steps, in tensors that the run's checkpoints contain.

Dimensions: N stored groups, G completions of a group, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Sequences
from rlx.errors import ConfigError
from rlx.rollout.draw import RolloutContext
from rlx.rollout.rollouts import RolloutBatch

_GROUPS = ("keys", "steps", "lengths", "rewards", "finished", "kept")  # [N] or [N, G]; tokens and logprobs are [all tokens]


class ReplayBuffer:
    """The newest `capacity` groups; the oldest are dropped first. Created anew in each `draw`, on `lab.state`.

    name: distinguishes several buffers of one algorithm. Raises ConfigError for a capacity below 1.
    """

    def __init__(self, lab: RolloutContext, *, capacity: int, name: str = "buffer") -> None:
        if capacity < 1:
            raise ConfigError(f"a replay buffer of capacity {capacity} keeps nothing; it counts groups, 1 or more")
        self._lab, self._capacity, self._name = lab, capacity, name

    def __len__(self) -> int:
        """The number of stored groups."""
        return len(self._lab.state.get(f"{self._name}/keys", ()))

    def add(self, batch: RolloutBatch) -> None:
        """Store the groups of a batch: prompts, completions, sampling log-probabilities, rewards; not fields set by algorithms.

        Raises ConfigError if group size, temperature or reward parts differ from those of the stored groups.
        """
        if any(value is not None for value in (batch.turns, batch.token_rewards, batch.failed)):
            raise ConfigError(
                f"the replay buffer {self._name} keeps completions of one turn alone, and these are conversations with an "
                "environment, or have rewards at tokens; learn from each draw when it is made"
            )
        lengths = batch.sequences.completion_lengths.to(torch.int64).reshape(len(batch), -1)
        mask = batch.sequences.completion_mask
        tokens = [torch.from_numpy(np.asarray(one, dtype=np.int64)) for group in batch.sequences.completions for one in group]
        new = {
            "keys": torch.tensor(batch.prompt_keys, dtype=torch.int64),
            "steps": torch.full((len(batch),), self._lab.step, dtype=torch.int64),
            "lengths": lengths,
            "rewards": batch.rewards.cpu(),
            "finished": batch.finished.cpu(),
            "kept": batch.kept.cpu(),
            **{f"reward/{name}": part.cpu() for name, part in batch.reward_parts.items()},
        }
        flat = {
            "tokens": torch.cat([torch.zeros(0, dtype=torch.int64), *tokens]),
            "logprobs": batch.sampling_logprobs.cpu()[mask],
        }
        if len(self):
            self._require_alike(batch)
            new = {name: torch.cat([self._tensor(name), value]) for name, value in new.items()}
            flat = {name: torch.cat([self._tensor(name), value]) for name, value in flat.items()}
        dropped = max(0, len(new["keys"]) - self._capacity)
        gone = int(new["lengths"][:dropped].sum())
        kept = {name: value[dropped:].clone() for name, value in new.items()} | {
            name: value[gone:].clone() for name, value in flat.items()
        }
        kept["temperature"] = torch.tensor(batch.temperature, dtype=torch.float64)
        self._lab.state.update({f"{self._name}/{name}": value for name, value in kept.items()})

    def sample(self, num_groups: int) -> RolloutBatch:
        """Choose `num_groups` groups without replacement, at random depending on the step; all of them if there are fewer.

        Raises ConfigError if the buffer is empty. tokens_sampled is 0, as the tokens were counted when they were sampled.
        """
        if not len(self):
            raise ConfigError(f"the replay buffer {self._name} is empty; add a batch before a sample is taken")
        rng = self._lab.rng.child("replay", self._name, self._lab.step).numpy()
        return self.take(rng.permutation(len(self))[:num_groups].tolist())

    def take(self, rows: Sequence[int]) -> RolloutBatch:
        """The groups at these indices; 0 is the oldest."""
        all_prompts, lengths = self._lab.task.prompts(), self._tensor("lengths")
        group_size = lengths.shape[1]
        ends = lengths.flatten().cumsum(0)
        places = [range(row * group_size, (row + 1) * group_size) for row in rows]
        spans = [[(int(ends[place] - lengths.flatten()[place]), int(ends[place])) for place in group] for group in places]
        tokens, logprobs = self._tensor("tokens").numpy(), self._tensor("logprobs")
        keys = [int(self._tensor("keys")[row]) for row in rows]
        prompts = tuple(all_prompts[key] for key in keys)
        sequences = Sequences(
            tuple(self._lab.policy.encode_prompt(prompt.text, prompt.tools) for prompt in prompts),
            tuple(tuple(tokens[start:end] for start, end in group) for group in spans),
        )
        sampled = torch.zeros(sequences.completion_mask.shape, dtype=logprobs.dtype)
        sampled[sequences.completion_mask] = torch.cat([logprobs[start:end] for group in spans for start, end in group])
        parts = [
            name.removeprefix(f"{self._name}/reward/") for name in self._lab.state if name.startswith(f"{self._name}/reward/")
        ]
        picked = {name: self._tensor(name)[list(rows)] for name in _GROUPS}
        return RolloutBatch(
            sequences=sequences,
            prompts=prompts,
            prompt_keys=tuple(keys),
            texts=tuple(tuple(self._lab.sampler.text(self._lab.policy, one) for one in group) for group in sequences.completions),
            sampling_logprobs=sampled,
            temperature=float(self._tensor("temperature")),
            rewards=picked["rewards"],
            reward_parts={name: self._tensor(f"reward/{name}")[list(rows)] for name in parts},
            finished=picked["finished"],
            kept=picked["kept"],
        )

    def _tensor(self, name: str) -> Tensor:
        return self._lab.state[f"{self._name}/{name}"]

    def _require_alike(self, batch: RolloutBatch) -> None:
        sizes = self._tensor("rewards").shape[1], batch.group_size
        if sizes[0] != sizes[1]:
            raise ConfigError(f"the replay buffer {self._name} holds groups of {sizes[0]} completions, and these have {sizes[1]}")
        if float(self._tensor("temperature")) != batch.temperature:
            raise ConfigError(
                f"the replay buffer {self._name} holds completions of another temperature than {batch.temperature:g}"
            )
        for name in batch.reward_parts:
            if f"{self._name}/reward/{name}" not in self._lab.state:
                raise ConfigError(f"the replay buffer {self._name} holds no reward {name}, which these completions have")
