"""A problem with enumerable completions: tables of logits as policy and reference, and all completions.

Dimensions: K completions, S states (the tokens so far), V vocabulary, P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rlx.check.batch import recast
from rlx.check.stand_in import SyntheticSampler
from rlx.check.stand_in_task import shortened
from rlx.check.subject import TOLERANCE, Laboratory, Subject
from rlx.data.sequences import Sequences
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.policy.statistics import NO_STATISTICS, TokenStatistics, statistics_of, unflatten
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Draw
from rlx.seeding import Stream
from rlx.task.base import Prompt, Task

SPREAD = 0.7  # standard deviation of the policy's logits, and of the reference's difference from them
MOVED = 0.3  # standard deviation of the difference of the sampler's logits, off policy


@dataclass(frozen=True)
class World:
    """All completions of up to `length` tokens of a vocabulary, whose last token ends a completion.

    tokens: the vocabulary, as ids of the policy's tokenizer. completions: K tuples of indices into `tokens`.
    """

    tokens: tuple[int, ...]
    length: int

    @staticmethod
    def of(policy: Policy, *, vocabulary: int, length: int) -> World:
        """Return the world of the first tokens that decode to one visible character, and of the end-of-sequence token."""
        end = (policy.eos_token_ids[:1] or (0,))[0]
        found: dict[str, int] = {}
        for token in range(policy.vocabulary_size):
            text = policy.decode([token])
            if token not in policy.eos_token_ids and text and len(text.strip()) == len(text) == 1:
                found.setdefault(text, token)
            if len(found) == vocabulary - 1:
                break
        return World((*found.values(), int(end)), length)

    @cached_property
    def completions(self) -> tuple[tuple[int, ...], ...]:
        """All completions, first those that end."""
        end = len(self.tokens) - 1
        ended = [(*body, end) for size in range(self.length) for body in itertools.product(range(end), repeat=size)]
        return (*ended, *itertools.product(range(end), repeat=self.length))

    @cached_property
    def states(self) -> dict[tuple[int, ...], int]:
        """The tokens so far -> the row of a table of logits."""
        return {
            state: row
            for row, state in enumerate(dict.fromkeys(each[:place] for each in self.completions for place in range(len(each))))
        }

    def rows(self, completion: Sequence[int]) -> list[int]:
        """Return the states that a completion passes through, as rows."""
        return [self.states[tuple(completion[:place])] for place in range(len(completion))]

    @cached_property
    def place_of(self) -> dict[int, int]:
        """Token id -> its index in `tokens`."""
        return {token: place for place, token in enumerate(self.tokens)}

    def logprobs(self, logits: Tensor, temperature: float) -> Tensor:
        """Return [K] the log-probability of each completion under logits [S, V]."""
        table = torch.log_softmax(logits / temperature, dim=-1)
        return torch.stack([table[self.rows(each), list(each)].sum() for each in self.completions])


class TabularPolicy(Policy):
    """A policy given by a table: logits [S, V] and values [S], both parameters."""

    @staticmethod
    def of_world(policy: Policy, world: World, logits: Tensor, values: Tensor) -> TabularPolicy:
        """Return a tabular policy with the tokenizer of a real policy."""
        twin = recast(policy, TabularPolicy)
        twin.world = world
        twin.table, twin.state_values = nn.Parameter(logits.clone()), nn.Parameter(values.clone())
        return twin

    world: World
    table: nn.Parameter
    state_values: nn.Parameter

    @property
    def dtype(self) -> torch.dtype:
        """The data type of all computations, float64."""
        return torch.float64

    def parameters(self) -> list[nn.Parameter]:
        """Return the logits and the values."""
        return [self.table, self.state_values]

    def logits_of(self, sequences: Sequences) -> tuple[Tensor, Tensor, list[int]]:
        """Return (logits [N, V], int64 [N] indices of the tokens, their states), in the order of the completion mask."""
        places = [[self.world.place_of[int(token)] for token in tokens] for group in sequences.completions for tokens in group]
        rows = [row for each in places for row in self.world.rows(each)]
        return self.table[rows], torch.tensor([place for each in places for place in each], dtype=torch.long), rows

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS, reference: Any = None
    ) -> TokenStatistics:
        """Return the statistics of the tokens, computed from the table."""
        logits, targets, rows = self.logits_of(sequences)
        theirs = None
        if isinstance(reference, TableReference):
            theirs = torch.log_softmax(reference.table.logits_of(sequences)[0].detach() / temperature, dim=-1)
        names = [name for name in requires if name != "values"]
        found = statistics_of(
            torch.log_softmax(logits / temperature, dim=-1), targets, sequences.token_mask, names=names, reference=theirs
        )
        return replace(found, values=unflatten(self.state_values[rows], sequences.token_mask)) if "values" in requires else found


class TableReference(Reference):
    """A reference given by a table."""

    @staticmethod
    def of_table(reference: Reference, table: TabularPolicy) -> TableReference:
        """Return a reference that has its statistics from a table and everything else from a real reference."""
        twin = recast(reference, TableReference)
        twin.table = table
        return twin

    table: TabularPolicy

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS
    ) -> TokenStatistics:
        """Return the statistics of the tokens, without a gradient."""
        with torch.no_grad():
            return self.table.token_statistics(sequences, temperature=temperature, requires=requires)


@dataclass(frozen=True, kw_only=True)
class ChosenSampler(SyntheticSampler):
    """Returns the completions numbered in `chosen`, with log-probabilities under logits [S, V]; greedy: the likeliest one.

    asked: (prompts, completions of each) of the last call that was not greedy.
    """

    world: World
    sampler_logits: Tensor
    chosen: list[int]
    asked: list[int]

    def complete(self, policy: Policy, draw: Draw) -> Completions:
        """Return the same completions for every prompt."""
        table = torch.log_softmax(self.sampler_logits / draw.temperature, dim=-1)
        wanted = [self.likeliest(table)] if draw.greedy else (self.chosen * draw.group_size)[: draw.group_size]
        if not draw.greedy:
            self.asked[:] = [len(draw.prompts), draw.group_size]
        made = Completions.empty(len(draw.prompts) * draw.group_size, self.world.length)
        for row, number in enumerate(wanted * len(draw.prompts)):
            places = self.world.completions[number]
            made.tokens[row, : len(places)] = [self.world.tokens[place] for place in places]
            made.logprobs[row, : len(places)] = table[self.world.rows(places), list(places)].numpy()
            made.lengths[row], made.finished[row] = len(places), places[-1] == len(self.world.tokens) - 1
        return made

    def likeliest(self, table: Tensor) -> int:
        """Return the index of the completion whose every token is the most likely one. table: log-probabilities [S, V]."""
        state: tuple[int, ...] = ()
        while state in self.world.states:
            state = (*state, int(table[self.world.states[state]].argmax()))
        return self.world.completions.index(state)


@dataclass(frozen=True, eq=False)
class ExactLaboratory:
    """A laboratory in a world, with its tables and rewards.

    logits, sampler_logits, reference_logits: [S, V]. rewards: float64 [K].
    """

    laboratory: Laboratory
    world: World
    logits: Tensor
    sampler_logits: Tensor
    reference_logits: Tensor
    rewards: Tensor

    @property
    def sampler(self) -> ChosenSampler:
        """The sampler of the laboratory, which returns the chosen groups."""
        assert isinstance(self.laboratory.sampler, ChosenSampler)
        return self.laboratory.sampler


def exact_laboratory(subject: Subject, world: World, *, on_policy: bool = True, rewarded: bool = True) -> ExactLaboratory:
    """Return a laboratory with random tables. on_policy: whether the sampler is the policy.

    rewarded: whether rewards are between 0 and 1, or all 0. Values are 0 everywhere, so that without rewards only a penalty gives
    a gradient. Raises ValueError for a task with conversations, whose turns are not enumerated.
    """
    if subject.task.interaction is not None:
        raise ValueError("the task holds conversations with an environment")
    rng = Stream(0, ("exact",)).torch()
    shape = len(world.states), len(world.tokens)
    logits, reference, moved = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(3))
    logits = SPREAD * logits
    tables = {"reference": logits + SPREAD * reference, "sampler": logits if on_policy else logits + MOVED * moved}
    values = torch.zeros(shape[0], dtype=torch.float64)
    texts = [subject.policy.decode([world.tokens[place] for place in each]) for each in world.completions]
    rewards = {text: round(float(Stream(0, ("exact", text)).numpy().random()), 3) * rewarded for text in texts}
    names = ("temperature", "top_k", "top_p", "min_p", "stop")
    settings = {name: getattr(subject.sampler, name) for name in names}
    sampler = ChosenSampler(
        **settings, max_new_tokens=world.length, world=world, sampler_logits=tables["sampler"], chosen=[0], asked=[]
    )
    policy = TabularPolicy.of_world(subject.policy, world, logits, values)
    held = TabularPolicy.of_world(subject.policy, world, tables["reference"], values)
    laboratory = Laboratory(
        _rewarding(shortened(subject.small_task, rows=1), rewards),
        policy,
        TableReference.of_table(subject.reference, held),
        sampler,
        TOLERANCE,
    )
    found = torch.tensor([rewards[text] for text in texts], dtype=torch.float64)
    return ExactLaboratory(laboratory, world, logits, tables["sampler"], tables["reference"], found)


def _rewarding(task: Task, rewards: dict[str, float]) -> Task:
    """Return the task with these rewards of texts; the parts of a reward keep their names."""
    twin, names = copy.copy(task), [*task.reward_all([task.prompts()[0]], [""])[0]]

    def reward_all(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[dict[str, float]]:
        asked = zip(prompts, completions, strict=True)
        return [{**dict.fromkeys(names, rewards[text]), "reward": rewards[text]} for _, text in asked]

    object.__setattr__(twin, "reward", lambda prompt, completion: reward_all([prompt], [completion])[0])
    object.__setattr__(twin, "reward_all", reward_all)
    return twin
