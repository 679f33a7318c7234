"""The base class of samplers: settings of decoding, and `sample`, which completes prompts.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Sequences, Tokens
from rlx.errors import ConfigError, DataError, NonFiniteError, ShapeError
from rlx.fields import LEAST_TEMPERATURE, Ranged, count, within
from rlx.rollout.decoding.loop import Completions, cut
from rlx.seeding import Stream
from rlx.task.messages import with_line_breaks

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.rollout.decoding.forward import Past


@dataclass(frozen=True, eq=False)
class Rollout:
    """Completions of P prompts.

    sampling_logprobs: float32 [P, G, T], log_softmax(logits / temperature) of each token before any truncation, 0 outside of the
    completion mask. finished: bool [P, G], ended by an end-of-sequence token or a stop string, not truncated by its limit.
    """

    sequences: Sequences
    sampling_logprobs: Tensor
    finished: Tensor
    temperature: float


@dataclass(frozen=True, eq=False)
class Draw:
    """The arguments of one call of `sample`, validated and with defaults filled in.

    limits: int64 [P], the longest completion of each prompt; keys: uint64 [P * G], the random key of each completion.
    names: (prompt index, completion index) of each conversation, [P * G]; empty for single answers. past: the cached states of
    these conversations, see `Sampler.new_past`.
    """

    prompts: tuple[Tokens, ...]
    group_size: int
    limits: np.ndarray
    keys: np.ndarray
    temperature: float
    greedy: bool
    names: Sequence[tuple[int, int]] = ()
    past: Past | None = None


@dataclass(frozen=True, kw_only=True)
class Sampler(Ranged, ABC):
    """How completions are sampled; a subclass samples in this process or on a server.

    temperature: divides the logits, in sampling and in training. top_k, top_p, min_p: truncation of the distribution, null for
    none; it biases importance ratios, as log-probabilities are those before truncation. stop: strings that end a completion,
    kept in its tokens and cut from its text. max_new_tokens: longest completion, null for the task's value. ahead: how many steps
    before its updates a draw is made, 0 or 1 (see rlx.training.ahead).
    """

    temperature: float = within(at_least=LEAST_TEMPERATURE, advice="greedy decoding is asked for by name, not by temperature 0")
    top_k: int | None = count(optional=True)
    top_p: float | None = within(above=0, at_most=1, optional=True)
    min_p: float | None = within(at_least=0, at_most=1, optional=True)
    stop: tuple[str, ...]
    max_new_tokens: int | None = count(optional=True)
    ahead: int = count(at_least=0, at_most=1, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "stop", tuple(with_line_breaks(text) for text in self.stop))
        if not all(self.stop):
            raise ConfigError("rollout.stop holds an empty string, which would end every completion at once; leave it out")

    @property
    def truncates(self) -> bool:
        """Whether tokens are sampled from a truncated distribution."""
        return self.top_k is not None or self.top_p is not None or self.min_p is not None

    def sample(
        self,
        policy: Policy,
        prompts: Sequence[Tokens],
        *,
        group_size: int,
        stream: Stream,
        prompt_keys: Sequence[int | str],
        occurrences: Sequence[int] | None = None,
        attempt: int = 0,
        temperature: float | None = None,
        greedy: bool = False,
        max_new_tokens: int | None = None,
        past: Past | None = None,
    ) -> Rollout:
        """Complete every prompt `group_size` times; a completion depends on its prompt and on its own random numbers only.

        prompt_keys: a name of each prompt, such as its index in the task; occurrences: how often the same prompt came before in
        this draw, counted if None; attempt: the number of the resampling; temperature: replaces the sampler's; greedy: always
        the most likely token, group_size 1; max_new_tokens: the task's, used if the sampler's is null; past: the store for
        conversations that `extend` continues.
        """
        if occurrences is None:
            occurrences = counted(prompt_keys)
        if not len(prompts) == len(prompt_keys) == len(occurrences):
            counts = f"{len(prompts)} prompts, {len(prompt_keys)} prompt_keys and {len(occurrences)} occurrences"
            raise ShapeError(f"{counts} differ in number; give each prompt one key and one occurrence")
        if group_size < 1 or (greedy and group_size != 1):
            raise ConfigError(
                f"group_size is {group_size}; it must be at least 1, and 1 for greedy decoding, which has one outcome"
            )
        used = self.temperature if temperature is None else temperature
        if not used >= LEAST_TEMPERATURE:
            raise ConfigError(f"temperature is {used}; it must be at least {LEAST_TEMPERATURE:g}; for greedy decoding say greedy")
        draw = Draw(
            prompts=tuple(prompts),
            group_size=group_size,
            limits=self._limits(policy, prompts, max_new_tokens),
            keys=random_keys(stream.child(attempt), prompt_keys, occurrences, group_size),
            temperature=used,
            greedy=greedy,
            names=() if past is None else [(row, column) for row in range(len(prompts)) for column in range(group_size)],
            past=past,
        )
        return _rollout(draw, self.complete(policy, draw) if draw.prompts else Completions.empty(0, 1))

    def extend(
        self,
        policy: Policy,
        histories: Sequence[Tokens],
        *,
        addresses: Sequence[Stream],
        limits: Sequence[int],
        names: Sequence[tuple[int, int]],
        past: Past | None = None,
        temperature: float | None = None,
        greedy: bool = False,
    ) -> Rollout:
        """One further turn of each conversation: G = 1 completion of each history, at most limits[i] tokens long.

        addresses: of each conversation's random numbers. names: (prompt index in `sample`, completion index). The other
        arguments are as in `sample`.
        """
        draw = Draw(
            prompts=tuple(histories),
            group_size=1,
            limits=np.array(limits, dtype=np.int64),
            keys=np.array([address.key for address in addresses], dtype=np.uint64),
            temperature=self.temperature if temperature is None else temperature,
            greedy=greedy,
            names=names,
            past=past,
        )
        return _rollout(draw, self.complete(policy, draw))

    def new_past(self, policy: Policy) -> Past | None:
        """A store for the keys and values of one draw's conversations; None if every turn recomputes its conversation."""
        return None

    @abstractmethod
    def complete(self, policy: Policy, draw: Draw) -> Completions:
        """Sample the completions, in the order of the prompts."""

    @abstractmethod
    def prepare(self, policy: Policy) -> None:
        """Check before a run that sampling works; append notes for the user to `policy.notes`."""

    @property
    def needs_one_process(self) -> str:
        """Why these settings need a single process, for a message; "" if they do not."""
        return f"rollout.ahead={self.ahead}, where ranks would sample while they exchange gradients," if self.ahead else ""

    @property
    def overlaps(self) -> bool:
        """Whether sampling runs outside of this process, which may train meanwhile."""
        return False

    @contextmanager
    def running(self, run: Path, policy: Policy) -> Iterator[None]:
        """Within this context, run whatever sampling needs besides this process. run: the directory of the run's record."""
        yield

    def refresh(self, policy: Policy, *, version: int) -> None:
        """Before a draw: make completions use the policy's current weights. version: the number of updates so far."""

    def rest(self) -> None:
        """After a draw: free the memory that only sampling needs."""

    def figures(self) -> dict[str, float]:
        """Metrics of the completions since `refresh`, to log with the draw."""
        return {}

    @property
    @abstractmethod
    def in_process(self) -> Sampler:
        """A sampler with the same settings that uses the policy's weights in this process; evaluations use it."""

    def largest_batch(self, policy: Policy, prompts: int, group_size: int, *, length: int, limit: int) -> tuple[int, int]:
        """For prompts of `length` tokens: how many are decoded together, and the tokens whose keys and values are then stored.

        limit: tokens of the longest completion.
        """
        return prompts, prompts * group_size * (length + limit)

    def text(self, policy: Policy, completion: Tokens) -> str:
        """The text of a completion, cut before its first stop string."""
        return cut(policy.decode(completion), self.stop)

    def _limits(self, policy: Policy, prompts: Sequence[Tokens], of_task: int | None) -> np.ndarray:
        longest = self.max_new_tokens if self.max_new_tokens is not None else of_task
        if longest is None:
            raise ConfigError("rollout.max_new_tokens is null and the task sets no limit; set rollout.max_new_tokens")
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        context = policy.max_length
        if context is None or not len(lengths):
            return np.full(len(lengths), longest, dtype=np.int64)
        worst = int(lengths.argmax())
        if lengths[worst] >= context:
            shown = policy.decode(prompts[worst])
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            raise DataError(
                f"the prompt {shown!r} has {lengths[worst]} tokens and {policy.name} reads at most {context}: there is no room "
                "for a completion; shorten or drop the prompt, or choose a policy with a longer context"
            )
        return np.minimum(longest, context - lengths)


def counted(prompt_keys: Sequence[int | str]) -> list[int]:
    """How often each key came before: counted(["a", "b", "a"]) == [0, 0, 1]."""
    seen: Counter[int | str] = Counter()
    before = []
    for key in prompt_keys:
        before.append(seen[key])
        seen[key] += 1
    return before


def random_keys(stream: Stream, prompt_keys: Sequence[int | str], occurrences: Sequence[int], group_size: int) -> np.ndarray:
    """uint64 [P * G]: the address of each completion's random numbers."""
    names = [key if isinstance(key, str) else int(key) for key in prompt_keys]
    keys = [
        stream.child(name, int(occurrence), completion).key
        for name, occurrence in zip(names, occurrences, strict=True)
        for completion in range(group_size)
    ]
    return np.array(keys, dtype=np.uint64)


def _rollout(draw: Draw, made: Completions) -> Rollout:
    prompts, group = len(draw.prompts), draw.group_size
    rows = [made.tokens[row, :length] for row, length in enumerate(made.lengths.tolist())]
    sequences = Sequences(draw.prompts, tuple(tuple(rows[first : first + group]) for first in range(0, len(rows), group)))
    width = sequences.completion_mask.shape[-1]
    logprobs = torch.from_numpy(made.logprobs[:, :width].copy()).reshape(prompts, group, width)
    if not bool(torch.isfinite(logprobs).all()):
        raise NonFiniteError(
            "the policy's logits are not finite while sampling: its weights have diverged; "
            "try a smaller optimizer.lr, or more clipping by algorithm.max_grad_norm"
        )
    return Rollout(sequences, logprobs, torch.from_numpy(made.finished.copy()).reshape(prompts, group), draw.temperature)
