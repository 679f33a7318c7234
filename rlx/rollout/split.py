"""A draw made by several ranks: each samples and rewards its share of the prompts, and every rank gets all results.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from rlx.data.sequences import Sequences
from rlx.errors import ConfigError
from rlx.policy.statistics import TokenStatistics
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Draw, Sampler
from rlx.task.environment import BrokenTurnError, Share

if TYPE_CHECKING:
    from rlx.parallel.ranks import Ranks
    from rlx.policy.base import Policy
    from rlx.policy.reference import Reference
    from rlx.rollout.decoding.forward import Past
    from rlx.task.base import Prompt, Task

T = TypeVar("T")
Rewards = Callable[["Sequence[Prompt]", Sequence[str]], list[T]]


@dataclass(frozen=True, kw_only=True)
class SplitSampler(Sampler):
    """Samples this rank's share of the prompts, every N-th of N ranks, with another sampler.

    A completion depends on its own random numbers, not on the number of ranks.
    """

    sampler: Sampler
    ranks: Ranks

    @staticmethod
    def of(sampler: Sampler, ranks: Ranks) -> SplitSampler:
        """A sampler with the settings of `sampler`. Raises ConfigError if those need a single process."""
        if sampler.needs_one_process:
            raise ConfigError(
                f"{sampler.needs_one_process} does not support several ranks; set ranks=1, or sample in process and on-policy"
            )
        settings = {item.name: getattr(sampler, item.name) for item in fields(Sampler)}
        return SplitSampler(**settings, sampler=sampler, ranks=ranks)

    @property
    def in_process(self) -> SplitSampler:
        return SplitSampler.of(self.sampler.in_process, self.ranks)

    def prepare(self, policy: Policy) -> None:
        self.sampler.prepare(policy)

    def refresh(self, policy: Policy, *, version: int) -> None:
        self.sampler.refresh(policy, version=version)

    def figures(self) -> dict[str, float]:
        return self.sampler.figures()

    def largest_batch(self, policy: Policy, prompts: int, group_size: int, *, length: int, limit: int) -> tuple[int, int]:
        return self.sampler.largest_batch(policy, -(-prompts // self.ranks.world), group_size, length=length, limit=limit)

    def complete(self, policy: Policy, draw: Draw) -> Completions:
        world, group = self.ranks.world, draw.group_size
        rows = np.array([row for row, _ in draw.names[::group]] if draw.names else range(len(draw.prompts)))
        places = [np.flatnonzero(rows % world == rank) for rank in range(world)]
        given = self.ranks.exchange("sampling", lambda: self._part(policy, draw, places[self.ranks.rank]))
        out = Completions.empty(len(draw.prompts) * group, int(draw.limits.max()))
        for prompts, made in zip(places, given, strict=True):
            if made is not None:
                out.place(made, (prompts[:, None] * group + np.arange(group)).reshape(-1))
        return out

    def _part(self, policy: Policy, draw: Draw, prompts: np.ndarray) -> Completions | None:
        if not len(prompts):
            return None
        own = Draw(
            prompts=tuple(draw.prompts[place] for place in prompts),
            group_size=draw.group_size,
            limits=draw.limits[prompts],
            keys=draw.keys.reshape(-1, draw.group_size)[prompts].reshape(-1),
            temperature=draw.temperature,
            greedy=draw.greedy,
            names=[draw.names[place * draw.group_size + column] for place in prompts for column in range(draw.group_size)]
            if draw.names
            else (),
            past=draw.past,
        )
        return self.sampler.complete(policy, own)

    def new_past(self, policy: Policy) -> Past | None:
        return self.sampler.new_past(policy)


def split_task(task: Task, ranks: Ranks) -> Task:
    """The task with its rewards and conversations distributed over the ranks; every rank gets all results.

    Each conversation calls its environment on one rank only, so the environment need not be deterministic.
    """
    twin = copy.copy(task)

    def split(rewards: Rewards[T]) -> Rewards[T]:
        """`rewards`, called on each rank for whole groups of completions of one prompt."""

        def made(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[T]:
            starts = [place for place in range(len(prompts)) if place == 0 or prompts[place] is not prompts[place - 1]]
            bounds = [*starts, len(prompts)]
            groups = ranks.rows([end - start for start, end in pairwise(bounds)])
            own = slice(bounds[groups.start], bounds[groups.stop])
            given = ranks.exchange("rewards", lambda: rewards(prompts[own], completions[own]) if completions[own] else [])
            return [reward for part in given for reward in part]

        return made

    object.__setattr__(twin, "reward_all", split(task.reward_all))
    object.__setattr__(twin, "grade_all", split(task.grade_all))
    if task.interaction is not None:
        object.__setattr__(twin, "interaction", replace(task.interaction, share=_shared(ranks)))
    return twin


def _shared(ranks: Ranks) -> Share:
    """A function that computes every N-th prompt's values on each of N ranks and exchanges them."""

    def share(prompts: Sequence[int], make: Callable[[Sequence[int]], list[Any]]) -> list[Any]:
        places = [[place for place, row in enumerate(prompts) if row % ranks.world == rank] for rank in range(ranks.world)]
        given = ranks.exchange("the environment's answers", lambda: [_sendable(value) for value in make(places[ranks.rank])])
        found: list[Any] = [None] * len(prompts)
        for own, values in zip(places, given, strict=True):
            for place, value in zip(own, values, strict=True):
                found[place] = value
        return found

    return share


def _sendable(value: Any) -> Any:
    """The environment's result, if it can be pickled for another process; else a BrokenTurnError."""
    try:
        pickle.loads(pickle.dumps(value))
    except Exception as error:  # any exception type that pickling a user's object raises
        why = f"which cannot be sent to the other ranks ({error!r:.120}); give texts and numbers"
        return BrokenTurnError(f"gave {value!r:.80}, {why}")
    return value


@contextmanager
def split_statistics(model: Policy | Reference, ranks: Ranks) -> Iterator[None]:
    """Within this context `token_statistics` of a policy or reference computes only this rank's rows, and returns all rows.

    Every rank must make the same call; with a gradient nothing is split.
    """
    if ranks.world == 1:
        yield
        return
    real = model.token_statistics

    def token_statistics(sequences: Sequences, **settings: Any) -> TokenStatistics:
        if torch.is_grad_enabled() or len(sequences) == 0:
            return real(sequences, **settings)
        rows = ranks.rows(sequences.row_tokens)

        def own() -> dict[str, torch.Tensor]:
            found = {} if rows.start == rows.stop else vars(real(sequences[rows], **settings))
            return {name: values.cpu() for name, values in found.items() if values is not None}

        given = [part for part in ranks.exchange("token statistics", own) if part]
        return TokenStatistics(**{name: torch.cat([part[name] for part in given]).to(model.device) for name in given[0]})

    model.token_statistics = token_statistics  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.token_statistics  # restores the method of the class
