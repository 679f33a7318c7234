"""Conversations with an environment while they run: the next turns of all unfinished conversations are sampled together.

Dimensions: P prompts, G conversations of a prompt, T tokens.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlx.data.continuation import encode_continuation
from rlx.data.sequences import Sequences, Tokens
from rlx.errors import DataError, TrainingError
from rlx.rollout.sampler import Rollout, Sampler, counted
from rlx.seeding import Stream
from rlx.task.base import Earned, Graded, Message, Prompt, Task
from rlx.task.environment import BrokenTurnError, Conversation, Environment, Interaction

if TYPE_CHECKING:
    from rlx.policy.base import Policy
    from rlx.rollout.decoding.forward import Past

_log = logging.getLogger(__name__)
Spans = tuple[tuple[int, int], ...]
# Warnings about environments whose messages the policy does not see exactly as given.
_SAID = {
    "special_plain": "spell special tokens; they are plain text to the policy",
    "special_text": "spell special tokens, and the policy reads them as such: chat template or tokenizer do not tell the two "
    "apart; take them out of what the environment says",
    "words_unseen": "have messages that the chat template leaves out, so that the policy does not see them; use other roles",
    "results_unseen": "have results of tools that the chat template leaves out, so that the policy does not see them",
}


@dataclass(frozen=True)
class TurnSampler:
    """Samples the assistant's turns with the random numbers of one draw. past: cached states of its conversations, if kept."""

    policy: Policy
    sampler: Sampler
    max_new_tokens: int
    stream: Stream
    prompt_keys: Sequence[int | str]
    attempt: int
    greedy: bool
    temperature: float | None
    past: Past | None = None

    def first(self, prompts: Sequence[Tokens], group_size: int) -> Rollout:
        """The first turns, `group_size` for each prompt."""
        return self.sampler.sample(
            self.policy,
            prompts,
            group_size=group_size,
            stream=self.stream,
            prompt_keys=self.prompt_keys,
            attempt=self.attempt,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            greedy=self.greedy,
            past=self.past,
        )

    def address(self, row: int, column: int) -> Stream:
        """The address of the random numbers of one completion."""
        key = self.prompt_keys[row]
        return self.stream.child(self.attempt, key if isinstance(key, str) else int(key), self._occurrences[row], column)

    @cached_property
    def _occurrences(self) -> list[int]:
        return counted(self.prompt_keys)

    def later(self, dialogues: Sequence[Dialogue], addresses: Sequence[Stream], limits: Sequence[int]) -> Rollout:
        """One further turn of each conversation."""
        return self.sampler.extend(
            self.policy,
            [dialogue.history for dialogue in dialogues],
            addresses=addresses,
            limits=limits,
            names=[(dialogue.row, dialogue.column) for dialogue in dialogues],
            past=self.past,
            temperature=self.temperature,
            greedy=self.greedy,
        )

    def texts(self, sequences: Sequences) -> tuple[tuple[str, ...], ...]:
        """The texts of the completions; equal completions, which are frequent in a group, are decoded once."""
        read: dict[bytes, str] = {}
        for tokens in (tokens for group in sequences.completions for tokens in group):
            if tokens.tobytes() not in read:
                read[tokens.tobytes()] = self.sampler.text(self.policy, tokens)
        return tuple(tuple(read[tokens.tobytes()] for tokens in group) for group in sequences.completions)


@dataclass(eq=False)
class Dialogue:
    """A running conversation: its tokens in pieces, prompt first, with log-probabilities of those that the policy sampled.

    row: the index of its prompt in the draw; column: its index among the conversations of that prompt. sent: the assistant's
    last turn as sent to the environment. reply: the environment's answer to it.
    """

    row: int
    column: int
    conversation: Conversation
    address: Stream
    prompt: Tokens
    pieces: list[Tokens] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    is_learned: list[bool] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    is_cut: bool = False
    sent: str = ""
    reply: Any = None

    @property
    def length(self) -> int:
        """The number of tokens after the prompt."""
        return sum(map(len, self.pieces))

    @property
    def history(self) -> Tokens:
        """int64 [T]: all tokens, starting with the prompt."""
        return np.concatenate([self.prompt, *self.pieces])

    @property
    def runs(self) -> bool:
        """Whether the assistant has another turn."""
        return not (self.conversation.done or self.conversation.error or self.is_cut)

    def step(self) -> Any:
        """Let the environment judge the assistant's last turn."""
        return self.conversation.environment.step(self.sent)

    def answered(self, outcome: Any) -> None:
        """Process the environment's outcome. Raises BrokenTurnError if it breaks the contract."""
        self.reply = self.conversation.answered(outcome)

    def add(self, tokens: Tokens, logprobs: np.ndarray | None) -> None:
        """Append a piece: sampled tokens with these log-probabilities, or context."""
        self.pieces.append(tokens)
        self.is_learned.append(logprobs is not None)
        self.logprobs.append(np.zeros(len(tokens), dtype=np.float32) if logprobs is None else logprobs)
        if logprobs is not None:
            self.spans.append((self.length - len(tokens), self.length))


class DialogueRounds:
    """All conversations of one draw, [P][G], played in rounds."""

    def __init__(self, interaction: Interaction, turns: TurnSampler, prompts: Sequence[Prompt], group_size: int) -> None:
        self.interaction, self.turns = interaction, turns
        self.environment = interaction.environment.for_policy(turns.policy)
        self.tools = self.environment.tool_schemas()
        self.dialogues = [
            [self._dialogue(prompt, row, column) for column in range(group_size)] for row, prompt in enumerate(prompts)
        ]
        self.temperature = turns.sampler.temperature if turns.temperature is None else turns.temperature

    def _dialogue(self, prompt: Prompt, row: int, column: int) -> Dialogue:
        address = self.turns.address(row, column)
        name = f"conversation {column + 1} of prompt {self.turns.prompt_keys[row]}"
        own = Conversation.of(self.environment, prompt, name=name, stream=address.child("environment"))
        return Dialogue(row, column, own, address, np.zeros(0, dtype=np.int64))

    @property
    def _all(self) -> list[Dialogue]:
        return [dialogue for group in self.dialogues for dialogue in group]

    def play(self) -> None:
        """Play all conversations to the end."""
        self._start()
        round_number = 0
        running = [dialogue for dialogue in self._all if dialogue.runs]
        while running:
            self._sample(running, round_number)
            self._answer(running)
            round_number += 1
            running = [dialogue for dialogue in running if dialogue.runs]
        talks = [dialogue.conversation for dialogue in self._all]
        for talk, figures in zip(talks, self.interaction.figures(talks, [dialogue.row for dialogue in self._all]), strict=True):
            talk.figures = figures

    def _start(self) -> None:
        self._call([(dialogue, dialogue.conversation.start, dialogue.conversation.started) for dialogue in self._all])
        policy = self.turns.policy
        failed: list[tuple[Dialogue, BrokenTurnError]] = []
        for row, group in enumerate(self.dialogues):
            openings = [dialogue.conversation.opening for dialogue in group if not dialogue.conversation.error]
            if any(opening != openings[0] for opening in openings):
                raise TrainingError(
                    f"start of {self._name} gives the conversations of prompt {self.turns.prompt_keys[row]} different openings "
                    f"({openings[0]!r:.60}, ...): all completions of a group begin alike, so it may depend on the prompt and its "
                    "columns alone"
                )
            for dialogue in group:
                dialogue.prompt = policy.text.begin()
            if not openings:
                continue
            try:
                tokens = policy.encode_prompt(openings[0], (*group[0].conversation.prompt.tools, *self.tools))
                if policy.max_length is not None and len(tokens) >= policy.max_length:
                    raise DataError(
                        f"it has {len(tokens)} tokens and {policy.name} reads at most {policy.max_length}, so that there is no "
                        "room for a turn; shorten it, or choose another policy"
                    )
            except DataError as error:
                broken = BrokenTurnError(f"gave an opening that cannot be read: {error}")
                failed += [(dialogue, broken) for dialogue in group if not dialogue.conversation.error]
                continue
            for dialogue in group:
                dialogue.prompt = tokens
        self._fail(failed)

    @property
    def _name(self) -> str:
        return type(self.environment).__name__

    def _sample(self, running: list[Dialogue], round_number: int) -> None:
        """Sample the next turn of each running conversation."""
        whole = [group for group in self.dialogues if all(dialogue.runs for dialogue in group)]
        if round_number == 0 and len(whole) == len(self.dialogues) and self.interaction.max_tokens is None:
            rollout = self.turns.first([group[0].prompt for group in self.dialogues], len(self.dialogues[0]))
        else:
            addresses = [
                dialogue.address if round_number == 0 else dialogue.address.child("turn", round_number) for dialogue in running
            ]
            rollout = self.turns.later(running, addresses, [self._limit(dialogue) for dialogue in running])
        tokens = [tokens for group in rollout.sequences.completions for tokens in group]
        logprobs = rollout.sampling_logprobs.reshape(len(tokens), -1).numpy()
        for dialogue, said, values, finished in zip(running, tokens, logprobs, rollout.finished.flatten().tolist(), strict=True):
            dialogue.add(said, values[: len(said)].copy())
            dialogue.is_cut = not finished
            dialogue.conversation.say(self.turns.sampler.text(self.turns.policy, said), is_cut=dialogue.is_cut)
            dialogue.sent = self._marked(said) if self.environment.reads_special_tokens else dialogue.conversation.turns[-1]

    def _marked(self, said: Tokens) -> str:
        """The text of a turn with its special tokens, except the one that ends it."""
        policy = self.turns.policy
        ended = len(said) > 0 and int(said[-1]) in policy.eos_token_ids
        return str(policy.tokenizer.decode(said[: len(said) - ended].tolist(), skip_special_tokens=False))

    def _limit(self, dialogue: Dialogue) -> int:
        """The most tokens of the conversation's next turn; below 1 if there is no room."""
        longest = self.turns.sampler.max_new_tokens
        longest = self.turns.max_new_tokens if longest is None else longest
        if self.interaction.max_tokens is not None:
            longest = min(longest, self.interaction.max_tokens - dialogue.length)
        positions = self.turns.policy.max_length
        return longest if positions is None else min(longest, positions - len(dialogue.prompt) - dialogue.length)

    def _answer(self, running: list[Dialogue]) -> None:
        """Get the environment's answer to each conversation; if it continues, the answer becomes context."""
        so_far = {id(dialogue): tuple(dialogue.conversation.messages) for dialogue in running}
        self._call([(dialogue, dialogue.step, dialogue.answered) for dialogue in running])
        remarks: Counter[str] = Counter()
        failed: list[tuple[Dialogue, BrokenTurnError]] = []
        for dialogue in running:
            if not dialogue.runs:
                continue
            if len(dialogue.conversation.turns) >= self.interaction.max_turns:
                dialogue.is_cut = True
                continue
            found: set[str] = set()
            try:
                context = self._context(dialogue, so_far[id(dialogue)], dialogue.reply, found)
            except DataError as error:
                failed.append((dialogue, BrokenTurnError(f"said what cannot be read: {error}")))
                continue
            remarks.update(found)
            dialogue.add(context, None)
            if self._limit(dialogue) < 1:  # no room for a turn: the completion ends with the assistant's last token
                for pieces in (dialogue.pieces, dialogue.is_learned, dialogue.logprobs):
                    pieces.pop()
                dialogue.is_cut = True
        self._fail(failed)
        self._say(remarks)
        if type(self.environment).cut_off is not Environment.cut_off:
            talks = [(dialogue, dialogue.conversation) for dialogue in running if dialogue.is_cut]
            ended = [(dialogue, talk) for dialogue, talk in talks if not talk.done and not talk.error]
            self._call([(dialogue, talk.environment.cut_off, talk.was_cut) for dialogue, talk in ended])

    def _say(self, remarks: Counter[str]) -> None:
        """Log each remark on how the policy reads the environment's messages, once per task."""
        for remark, count in remarks.items():
            if remark not in self.interaction.said:
                self.interaction.said.add(remark)
                _log.warning("%d of the turns that the environment %s just gave %s", count, self._name, _SAID[remark])

    def _context(self, dialogue: Dialogue, so_far: Sequence[Message], said: Any, remarks: set[str]) -> Tokens:
        turn = dialogue.pieces[-1]  # empty if a server returned no tokens
        ended = len(turn) > 0 and int(turn[-1]) in self.turns.policy.eos_token_ids
        opening = dialogue.conversation.opening
        tools = (*dialogue.conversation.prompt.tools, *self.tools)
        return encode_continuation(self.turns.policy.text, opening, so_far, said, tools=tools, ended=ended, remarks=remarks)

    def _call(self, calls: Sequence[tuple[Dialogue, Callable[[], Any], Callable[[Any], None]]]) -> None:
        """Call the environments; if one raises, hangs or returns nonsense, its conversation ends and the others continue."""
        outcomes = self.interaction.ask([call for _, call, _ in calls], [dialogue.row for dialogue, _, _ in calls])
        failed: list[tuple[Dialogue, BrokenTurnError]] = []
        for (dialogue, _, take), outcome in zip(calls, outcomes, strict=True):
            try:
                if isinstance(outcome, BrokenTurnError):
                    raise outcome
                take(outcome)
            except BrokenTurnError as error:
                failed.append((dialogue, error))
        self._fail(failed)

    def _fail(self, broken: Sequence[tuple[Dialogue, BrokenTurnError]]) -> None:
        """End conversations that the environment aborted, and log a warning."""
        failed: list[str] = []
        for dialogue, error in broken:
            turn = f"turn {len(dialogue.conversation.turns)} of {dialogue.conversation.name}"
            text = f"the environment {self._name} {error}, in {turn}"
            if self.interaction.stops_on_error:
                raise TrainingError(
                    f"{text}; fix it, or let such conversations fail alone: task.on_environment_error=fail"
                ) from error
            dialogue.conversation.failed(text)
            failed.append(text)
        if failed:
            more = f", and {len(failed) - 1} more like it" if len(failed) > 1 else ""
            _log.warning("%s%s; such conversations are not learned from", failed[0], more)

    def rollout(self) -> Rollout:
        """All conversations as completions of their prompts."""
        prompts, completions, learned = [], [], []
        for group in self.dialogues:
            prompts.append(group[0].prompt)
            completions.append(tuple(np.concatenate([np.zeros(0, dtype=np.int64), *dialogue.pieces]) for dialogue in group))
            masks = (
                [np.full(len(piece), own) for piece, own in zip(dialogue.pieces, dialogue.is_learned, strict=True)]
                for dialogue in group
            )
            learned.append(tuple(np.concatenate([np.zeros(0, dtype=bool), *mask]) for mask in masks))
        sequences = Sequences(tuple(prompts), tuple(completions), learned=tuple(learned))
        logprobs = torch.zeros(sequences.token_mask.shape)
        for row, group in enumerate(self.dialogues):
            for column, dialogue in enumerate(group):
                flat = np.concatenate([np.zeros(0, dtype=np.float32), *dialogue.logprobs])
                logprobs[row, column, : len(flat)] = torch.from_numpy(flat)
        finished = torch.tensor(
            [[dialogue.conversation.done and not dialogue.is_cut for dialogue in group] for group in self.dialogues]
        )
        return Rollout(sequences, logprobs, finished.reshape(len(self.dialogues), -1), self.temperature)

    def turn_spans(self) -> tuple[tuple[Spans, ...], ...]:
        """For each conversation, the token range of each of the assistant's turns."""
        return tuple(tuple(tuple(dialogue.spans) for dialogue in group) for group in self.dialogues)

    def graded(self, task: Task) -> list[list[Graded]]:
        """The rewards of each conversation; failed ones get the task's failed_reward."""
        sound = [dialogue for dialogue in self._all if not dialogue.conversation.error]
        talks = [dialogue.conversation for dialogue in sound]
        wholes = [self.turns.sampler.text(self.turns.policy, np.concatenate(dialogue.pieces)) for dialogue in sound]
        prompts = [
            Prompt(
                talk.prompt.text or talk.opening,
                {**talk.prompt.columns, **talk.columns, "conversation": whole},
                talk.prompt.tools,
            )
            for talk, whole in zip(talks, wholes, strict=True)
        ]
        found = dict(zip(map(id, sound), task.grade_all(prompts, [talk.turns[-1] for talk in talks]), strict=True))
        names = next(iter(found.values())).parts if found else ("reward", *getattr(task, "all_rewards", dict)())
        lost = self.interaction.failed_reward
        missing = Graded({**dict.fromkeys(names, 0.0), "reward": lost}, (Earned(lost, 0),))
        return [[found.get(id(dialogue), missing) for dialogue in group] for group in self.dialogues]
