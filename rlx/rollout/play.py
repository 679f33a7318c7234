"""Completions of a task's prompts with their rewards: single answers, or conversations with an environment.

A conversation is one completion: the assistant's sampled tokens are learned, the environment's messages are context.
The next turns of all unfinished conversations are sampled together. Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlx.data.sequences import Tokens
from rlx.errors import TrainingError
from rlx.rollout.dialogue import DialogueRounds, Spans, TurnSampler
from rlx.rollout.sampler import Rollout, Sampler
from rlx.seeding import Stream
from rlx.task.base import Graded, Prompt, Task, finite
from rlx.task.environment import Conversation, Interaction

if TYPE_CHECKING:
    from rlx.policy.base import Policy

MANY = 8  # with this many prompts in a draw, it is not by chance that all conversations are aborted


@dataclass(frozen=True, eq=False)
class Played:
    """Completions of P prompts, G each, with their rewards.

    texts: the completions as text; for a conversation including the environment's messages. turn_spans: for each completion the
    token ranges (begin, end) of the assistant's turns. graded: P lists of G; None if the task gives no rewards.
    conversations: P lists of G records; None for single answers.
    """

    rollout: Rollout
    texts: tuple[tuple[str, ...], ...]
    turn_spans: tuple[tuple[Spans, ...], ...]
    graded: list[list[Graded]] | None = None
    conversations: list[list[Conversation]] | None = None

    def rewards(self) -> dict[str, np.ndarray]:
        """Name -> float64 [P, G], including "reward". Raises TrainingError if completions have different reward parts."""
        assert self.graded is not None
        flat = [graded.parts for group in self.graded for graded in group]
        if any(parts.keys() != flat[0].keys() for parts in flat):
            raise TrainingError("the reward of a task does not always have the same parts; give each part a number every time")
        return {name: np.array([parts[name] for parts in flat]).reshape(len(self.graded), -1) for name in flat[0]}

    def token_rewards(self, policy: Policy, sources: Sequence[int] | None = None) -> torch.Tensor:
        """float32 [P, G, T], each part of a reward at the token where it was earned; the sum over T is the reward.

        sources: sources[i] is the index of the completion, of P * G, whose rewards completion i receives. Rewards of turns
        beyond the last turn of i are added to its last turn.
        """
        assert self.graded is not None
        sequences = self.rollout.sequences
        found = torch.zeros(sequences.token_mask.shape)
        flat = [graded.earned for group in self.graded for graded in group]
        spans = [own for group in self.turn_spans for own in group]
        tokens = [own for group in sequences.completions for own in group]
        rows = found.reshape(len(flat), -1)
        for row, source in enumerate(range(len(flat)) if sources is None else sources):
            for piece in flat[source] if spans[row] else ():
                begin, end = spans[row][min(piece.turn, len(spans[row]) - 1)]
                place = end - 1 if source != row or piece.end is None else _place(policy, tokens[row], begin, end, piece.end)
                rows[row, place] += piece.value
        return found

    @property
    def turns(self) -> torch.Tensor:
        """int64 [P, G, T], the index of a token's turn, from 0; -1 for tokens that the assistant did not write."""
        found = torch.full(self.rollout.sequences.token_mask.shape, -1)
        for row, group in enumerate(self.turn_spans):
            for column, spans in enumerate(group):
                for number, (begin, end) in enumerate(spans):
                    found[row, column, begin:end] = number
        return found

    def figures(self) -> dict[str, np.ndarray]:
        """Name -> float64 [P, G], the environment's metrics of each conversation; 0 for aborted ones.

        Raises TrainingError for a value that is not a finite number, or if conversations have different names.
        """
        if self.conversations is None:
            return {}
        talks = [one for group in self.conversations for one in group]
        found = [talk.figures for talk in talks]
        first: Mapping[str, float] = next((own for own, talk in zip(found, talks, strict=True) if not talk.error), {})
        for own, talk in zip(found, talks, strict=True):
            if not talk.error and (own.keys() != first.keys() or any(finite(value) is None for value in own.values())):
                raise TrainingError(
                    f"figures of {type(talk.environment).__name__} returns {own!r:.120}; it must give finite numbers by the same "
                    f"names in every conversation, and in the first they were {', '.join(first) or 'none'}"
                )
        return {name: np.array([own.get(name, 0.0) for own in found]).reshape(len(self.conversations), -1) for name in first}

    @property
    def failed(self) -> torch.Tensor | None:
        """bool [P, G], conversations that the environment could not continue; None for single answers."""
        if self.conversations is None:
            return None
        return torch.tensor([[bool(one.error) for one in group] for group in self.conversations])

    def require_some_unbroken(self) -> None:
        """Raise TrainingError if the environment aborted all conversations of many prompts: nothing can be learned from them."""
        groups = self.conversations or []
        talks = [one for group in groups for one in group]
        if len(groups) >= MANY and all(one.error for one in talks):
            raise TrainingError(
                f"all {len(talks)} conversations broke off, so there is nothing to learn from or to measure: {talks[0].error}; "
                "fix the environment"
            )


def _place(policy: Policy, tokens: Tokens, begin: int, end: int, characters: int) -> int:
    """The index of the token in tokens[begin:end] that completes the first `characters` characters of the turn."""
    for place in range(begin, end):
        if len(policy.decode(tokens[begin : place + 1])) >= characters:
            return place
    return end - 1


def play(
    task: Task,
    policy: Policy,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    *,
    group_size: int,
    stream: Stream,
    prompt_keys: Sequence[int | str],
    attempt: int = 0,
    greedy: bool = False,
    temperature: float | None = None,
) -> Played:
    """Complete every prompt `group_size` times and reward the completions. The arguments are those of Sampler.sample."""
    interaction: Interaction | None = task.interaction
    goes_on = interaction is not None and interaction.max_turns > 1
    turns = TurnSampler(
        policy,
        sampler,
        task.max_new_tokens,
        stream,
        prompt_keys,
        attempt,
        greedy=greedy,
        temperature=temperature,
        past=sampler.new_past(policy) if goes_on else None,
    )
    if interaction is None:
        rollout = turns.first([policy.encode_prompt(prompt.text, prompt.tools) for prompt in prompts], group_size)
        texts = turns.texts(rollout.sequences)
        spans = tuple(tuple(((0, len(tokens)),) for tokens in group) for group in rollout.sequences.completions)
        return Played(rollout, texts, spans, _graded(task, prompts, texts))
    rounds = DialogueRounds(interaction, turns, prompts, group_size)
    rounds.play()
    conversations = [[dialogue.conversation for dialogue in group] for group in rounds.dialogues]
    rollout = rounds.rollout()
    return Played(rollout, turns.texts(rollout.sequences), rounds.turn_spans(), rounds.graded(task), conversations)


def _graded(task: Task, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[list[Graded]] | None:
    if "rewards" not in task.offers:
        return None
    asked = [(prompt, text) for prompt, group in zip(prompts, texts, strict=True) for text in group]
    flat = iter(task.grade_all([prompt for prompt, _ in asked], [text for _, text in asked]))
    return [[next(flat) for _ in group] for group in texts]
