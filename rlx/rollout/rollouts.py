"""Batches of rollouts: completions that a policy sampled, with their rewards; and preference pairs made from them.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import ConfigError
from rlx.seeding import Stream
from rlx.task.environment import require_free

if TYPE_CHECKING:
    from rlx.task.base import Prompt


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """P groups of G completions. A row is a group; slicing slices all fields and cuts tensors [P, G, T] to the slice's own T.

    prompts: of the task; prompt_keys: their indices in the task; texts: of the completions, without a stop string.
    sampling_logprobs: float32 [P, G, T] at `temperature`; rewards: float32 [P, G]; reward_parts: name -> float32 [P, G].
    finished: bool [P, G], not truncated; kept: bool [P, G], not filtered out of the loss.
    Set for conversations with an environment, else None: failed: bool [P, G], aborted by the environment; turns: int64
    [P, G, T], the index of the assistant's turn that a token belongs to, -1 outside; token_rewards: float32 [P, G, T], the
    parts of the rewards at the tokens where they were earned, set if the task gives credit by turn; environment_figures:
    name -> float32 [P, G], the environment's metrics.
    Set by an algorithm with `with_values`, else None: advantages [P, G] or [P, G, T], weights [P, G, T] (of the loss,
    over the rows of one update), value_weights, values, returns, reference_logprobs and proximal_logprobs [P, G, T]; rng: the
    stream of a loss that uses random numbers.
    tokens_sampled: of the whole draw, including discarded groups; a slice keeps the number.
    """

    sequences: Sequences
    prompts: tuple[Prompt, ...]
    prompt_keys: tuple[int, ...]
    texts: tuple[tuple[str, ...], ...]
    sampling_logprobs: Tensor
    temperature: float
    rewards: Tensor
    reward_parts: Mapping[str, Tensor]
    finished: Tensor
    kept: Tensor
    failed: Tensor | None = None
    turns: Tensor | None = None
    token_rewards: Tensor | None = None
    environment_figures: Mapping[str, Tensor] = field(default_factory=dict)
    advantages: Tensor | None = None
    weights: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    value_weights: Tensor | None = None
    reference_logprobs: Tensor | None = None
    proximal_logprobs: Tensor | None = None
    rng: Stream | None = None
    tokens_sampled: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: slice) -> RolloutBatch:
        taken = range(*rows.indices(len(self)))
        return self if taken == range(len(self)) else self.take(taken)

    @property
    def group_size(self) -> int:
        """G, the number of completions of a prompt."""
        return self.sequences.group_size

    @property
    def row_tokens(self) -> list[int]:
        """The number of tokens of each group, its prompt counted once."""
        return self.sequences.row_tokens

    @property
    def completion_mask(self) -> Tensor:
        """bool [P, G, T]: the tokens of the completions, including filtered ones."""
        mask = self.sequences.completion_mask
        return (
            mask if len(self) else mask.new_zeros((0, self.rewards.shape[1], mask.shape[-1]))
        )  # G cannot be inferred from an empty batch

    @property
    def loss_mask(self) -> Tensor:
        """bool [P, G, T]: the tokens that the loss is computed on, those of the kept completions."""
        return self.completion_mask.to(self.kept.device) & self.kept[..., None]

    @property
    def without_signal(self) -> Tensor:
        """bool [P]: groups whose rewards are all equal, whose group-relative advantages are therefore 0."""
        return self.rewards.amax(dim=1) == self.rewards.amin(dim=1)

    def with_values(self, **tensors: Any) -> RolloutBatch:
        """This batch with these fields set: advantages, weights, values, returns, reference_logprobs."""
        return replace(self, **tensors)

    def to(self, device: torch.device) -> RolloutBatch:
        """Move the tensors that a loss reads to `device`; the masks follow them."""
        if device.type == "cpu":
            return self
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in found.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def take(self, rows: Sequence[int]) -> RolloutBatch:
        """The groups `rows`, in that order."""
        rows = list(rows)
        sequences = self.sequences.take(rows)
        width = sequences.completion_mask.shape[-1]

        def taken(value: Any) -> Any:
            if isinstance(value, Tensor):
                part = value[rows]
                return part[..., :width] if part.ndim == 3 else part
            if isinstance(value, tuple):
                return tuple(value[row] for row in rows)
            return value

        others = {item.name: taken(getattr(self, item.name)) for item in fields(self)}
        for name in ("reward_parts", "environment_figures"):
            others[name] = {key: taken(part) for key, part in getattr(self, name).items()}
        return RolloutBatch(**{**others, "sequences": sequences})

    @staticmethod
    def join(batches: Sequence[RolloutBatch]) -> RolloutBatch:
        """Concatenate the groups of `batches`, without the fields that an algorithm sets; tokens_sampled is summed."""
        first = batches[0]
        sequences = Sequences.join([batch.sequences for batch in batches])

        def joined(name: str, *, padding: float = 0) -> Tensor | None:
            """[P, G, ...] the tensors of all batches; token tensors are padded to the widest."""
            parts = [getattr(batch, name) for batch in batches]
            if any(part is None for part in parts):
                return None
            extra = [sequences.width - part.shape[-1] if part.ndim == 3 else 0 for part in parts]
            return torch.cat(
                [torch.nn.functional.pad(part, (0, more), value=padding) for part, more in zip(parts, extra, strict=True)]
            )

        return RolloutBatch(
            sequences=sequences,
            prompts=tuple(prompt for batch in batches for prompt in batch.prompts),
            prompt_keys=tuple(key for batch in batches for key in batch.prompt_keys),
            texts=tuple(group for batch in batches for group in batch.texts),
            sampling_logprobs=present(joined("sampling_logprobs")),
            temperature=first.temperature,
            rewards=torch.cat([batch.rewards for batch in batches]),
            reward_parts={name: torch.cat([batch.reward_parts[name] for batch in batches]) for name in first.reward_parts},
            finished=torch.cat([batch.finished for batch in batches]),
            kept=torch.cat([batch.kept for batch in batches]),
            failed=joined("failed"),
            turns=joined("turns", padding=-1),
            token_rewards=joined("token_rewards"),
            environment_figures={
                name: torch.cat([batch.environment_figures.get(name, torch.zeros_like(batch.rewards)) for batch in batches])
                for name in dict.fromkeys(name for batch in batches for name in batch.environment_figures)
            },
            tokens_sampled=sum(batch.tokens_sampled for batch in batches),
        )

    def figures(self) -> dict[str, float]:
        """Means over the batch, by metric name."""
        rewards = self.rewards.double()
        figures = {
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std(correction=0)),
            "completion_length": float(self.sequences.learned_lengths.double().mean()),
            "truncated_fraction": float((~self.finished).double().mean()),
        }
        if self.group_size > 1:  # a single completion has no spread
            figures["groups_without_signal"] = float(self.without_signal.double().mean())
        if self.turns is not None and self.failed is not None:
            figures["turns"] = float((self.turns.amax(dim=-1) + 1).double().mean())
            figures["environment_failed"] = float(self.failed.double().mean())
        figures |= {f"reward/{name}": float(part.double().mean()) for name, part in self.reward_parts.items()}
        require_free(self.environment_figures, figures, of="a draw")
        return figures | {name: float(part.double().mean()) for name, part in self.environment_figures.items()}


def present(tensor: Tensor | None) -> Tensor:
    """The tensor, which must not be None."""
    assert tensor is not None
    return tensor


def best_against_worst(batch: RolloutBatch) -> PairBatch:
    """One pair per group with signal: the first of its best completions against the first of its worst.

    Filtered completions are not paired. The scores of the pairs are their rewards; the metrics are those of the batch.
    """
    if batch.token_rewards is not None:
        raise ConfigError(
            "pairs compare whole conversations, so task.credit=turn has no meaning for them; set task.credit=episode"
        )
    rewards = batch.rewards.double()
    best = torch.where(batch.kept, rewards, -torch.inf).argmax(dim=1)
    worst = torch.where(batch.kept, rewards, torch.inf).argmin(dim=1)
    pairs = torch.stack([best, worst], dim=1)  # [P, 2]
    scores = batch.rewards.gather(1, pairs)
    usable = batch.kept.any(dim=1) & (scores[:, 0] > scores[:, 1])
    rows = torch.nonzero(usable).flatten().tolist()
    sequences = batch.sequences.take(rows).pick(pairs[rows].tolist())
    source = TokenizedPairs(sequences, np.array([batch.prompt_keys[row] for row in rows], dtype=np.int64), scores=scores[rows])
    paired = PairBatch.of(source, np.arange(len(rows)))
    return PairBatch(source, paired.rows, paired.sequences, {}, dict(batch.metrics), paired.scores)
