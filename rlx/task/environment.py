"""Conversations: an environment answers the assistant's turns, and each turn may be rewarded.

One instance of an Environment class holds the config. Every conversation runs on a copy of it, so the instance never changes,
and a copy may store its state in its own attributes.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlx.errors import ConfigError, RlxError, TrainingError, users_place
from rlx.seeding import Stream
from rlx.task.base import Message, Prompt, Text, finite
from rlx.task.timed import TimedCalls

ROLES = ("user", "tool", "system")  # roles of an environment's messages; the assistant's turns are the policy's


@dataclass(frozen=True)
class Turn:
    """An environment's answer to one turn of the assistant.

    messages: the answer as one user message (a text) or as messages; none of it is learned. Ignored if `done` is true.
    reward: of the assistant's latest turn. done: whether the conversation ends here.
    Example: Turn("higher"), Turn("right", reward=1.0, done=True).
    """

    messages: Text | Sequence[Message] = ""
    reward: float = 0.0
    done: bool = False


class BrokenTurnError(RlxError):
    """An environment broke its contract in one conversation."""


class Environment:
    """The base of all environments. A subclass defines `start` and `step`; both may be `async def`.

    Its config is the arguments of its constructor, most simply the fields of a dataclass: `task.environment.highest=20`. rlx sets
    these attributes on a conversation's copy, before `start`:
    rng: random numbers for that conversation only, equal in equal runs. Use no other randomness.
    state: an empty dict, for frozen classes that cannot set attributes.
    is_cut: before each step, whether a limit cut off the assistant's turn.

    bounds: the smallest and the largest sum of rewards of a conversation, None if unknown. A conversation with the largest sum
    counts as correct, and the score is the share of correct ones; see task.full_reward. (0, 0): it gives no rewards.
    reads_special_tokens: whether `step` also gets the special tokens of a turn, except the one that ends it.
    """

    bounds: ClassVar[tuple[float, float] | None] = None
    reads_special_tokens: ClassVar[bool] = False

    rng: random.Random
    state: dict[str, Any]
    is_cut: bool

    def start(self, prompt: Any, **columns: Any) -> Any:
        """The conversation up to the assistant's first turn: a text, or messages. Depends only on the prompt and its columns.

        All conversations of a group begin with it, so it must not use `rng`. `prompt` and `columns` are a row of task.path, or
        of `prompts`.
        """
        raise NotImplementedError

    def step(self, completion: str) -> Turn | Awaitable[Turn]:
        """The answer to the assistant's turn, given as text without special tokens."""
        raise NotImplementedError

    def cut_off(self) -> float | Awaitable[float]:
        """Called once, after the last step, if a limit of rlx ended the conversation: the additional reward of the last turn.

        It may be `async def`. The environment should release the conversation's resources here.
        """
        return 0.0

    def prompts(self, count: int, rng: random.Random) -> Sequence[Prompt]:
        """`count` rows for `start`, used if task.path is null; by default an empty prompt and an integer `seed` each."""
        return [Prompt("", {"seed": rng.getrandbits(32)}) for _ in range(count)]

    def tool_schemas(self) -> tuple[Mapping[str, Any], ...]:
        """The tool schemas that the chat template shows to the assistant."""
        return ()

    def for_policy(self, policy: Any) -> Environment:
        """The environment for conversations with an rlx.policy.base.Policy, called once per draw: self, unless it depends on
        the policy's chat template. Raises ConfigError if the two are incompatible.
        """
        return self

    def figures(self) -> Mapping[str, float]:
        """Numbers about a finished conversation, always with the same names; their means are logged as train/NAME and eval/NAME.

        NAME must not be one of rlx's own metrics, such as accuracy, loss or turns.
        """
        return {}

    def content_hash(self) -> str:
        """A hash of the data that the config names but does not contain; "" if there is none."""
        return ""


Share = Callable[[Sequence[int], Callable[[Sequence[int]], list[Any]]], list[Any]]


def all_here(prompts: Sequence[int], make: Callable[[Sequence[int]], list[Any]]) -> list[Any]:
    """Call `make` for all conversations: this process plays every one."""
    return make(range(len(prompts)))


@dataclass(frozen=True)
class Interaction:
    """How the conversations of a task are played.

    max_turns: the most turns of the assistant. max_tokens: the most tokens of a conversation after its opening, including the
    environment's; None: the policy's positions. stops_on_error: whether a failing environment ends the run rather than only its
    conversation, which then gets failed_reward. credit: episode or turn; see EnvironmentTask.
    calls: runs the environment's methods. said: the warnings already given.
    share: share(prompts, make) returns a list with one value per conversation; prompts[i] is the prompt index of conversation i.
    It calls make(places) for the conversations of this process, and adds the values from other processes.
    """

    environment: Environment
    max_turns: int
    max_tokens: int | None
    stops_on_error: bool
    failed_reward: float
    credit: str
    calls: TimedCalls
    said: set[str] = field(default_factory=set)
    share: Share = all_here

    def ask(self, calls: Sequence[Callable[[], Any]], prompts: Sequence[int]) -> list[Any]:
        """The result of each environment call; a BrokenTurnError for one that raised. prompts: as in `share`.

        An RlxError raised by an environment is raised here.
        """

        def make(places: Sequence[int]) -> list[Any]:
            return [_told(outcome) for outcome in self.calls.run([calls[place] for place in places])]

        return self.share(prompts, make)

    def figures(self, talks: Sequence[Conversation], prompts: Sequence[int]) -> list[dict[str, float]]:
        """The environment's metrics of each conversation; empty for aborted ones. prompts: as in `share`.

        Raises TrainingError if it raises, does not return a mapping, or returns values that cannot be sent to other processes.
        """

        def counted(talk: Conversation) -> Any:
            try:
                given = {} if talk.error else talk.environment.figures()
            except Exception as error:  # the user's code
                return _told(error)
            return dict(given) if isinstance(given, Mapping) else BrokenTurnError(f"gave {given!r:.40}, not numbers by name")

        def make(places: Sequence[int]) -> list[Any]:
            return [counted(talks[place]) for place in places]

        found = self.share(prompts, make)
        for talk, value in zip(talks, found, strict=True):
            if isinstance(value, BrokenTurnError):
                raise TrainingError(f"figures of {type(self.environment).__name__} {value}, after {talk.name}") from value
        return found


@dataclass(eq=False)
class Conversation:
    """A running conversation, and its record when it has ended.

    name: for errors. opening: the result of `start`. turns: the assistant's texts; rewards: of each; messages: all after the
    opening, in order. done: ended by the environment; error: the environment's error, "" if none. figures: the environment's
    metrics, once the conversation has ended.
    """

    environment: Environment
    prompt: Prompt
    name: str
    opening: Text = ""
    turns: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    done: bool = False
    error: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(environment: Environment, prompt: Prompt, *, name: str, stream: Stream) -> Conversation:
        """A conversation on its own copy of the environment. stream: the address of its random numbers."""
        try:
            twin = copy.deepcopy(environment)
        except Exception as error:
            raise ConfigError(
                f"the environment {type(environment).__name__} cannot be copied, and each conversation is played on a copy: "
                f"{type(error).__name__}: {error}; make in `start` what cannot be copied (a lock, a connection), or define "
                "__deepcopy__"
            ) from error
        object.__setattr__(twin, "rng", random.Random(stream.key))
        object.__setattr__(twin, "state", {})
        return Conversation(twin, prompt, name)

    def start(self) -> Any:
        """Call the environment's `start`; a coroutine if it is async."""
        return self.environment.start(self.prompt.text, **self.prompt.columns)

    def started(self, outcome: Any) -> None:
        """Process the result of `start`. Raises BrokenTurnError if it is neither text nor messages."""
        self.opening = as_opening(outcome)

    def say(self, text: str, *, is_cut: bool = False) -> None:
        """Add a turn of the assistant. is_cut: whether a limit cut it off."""
        object.__setattr__(self.environment, "is_cut", is_cut)
        self.turns.append(text)
        self.messages.append({"role": "assistant", "content": text})

    def answered(self, outcome: Any) -> tuple[Message, ...] | str:
        """Process the result of `step` and return the environment's messages. Raises BrokenTurnError for an invalid Turn."""
        turn = checked_turn(outcome)
        said = () if isinstance(turn.messages, str) and not turn.messages else as_messages(turn.messages)
        if not turn.done and not said:
            raise BrokenTurnError("gave a Turn that neither says anything nor is done; give messages, or done=True")
        self.rewards.append(float(turn.reward))
        self.messages += said
        self.done = bool(turn.done)
        return turn.messages if isinstance(turn.messages, str) else said

    def was_cut(self, outcome: Any) -> None:
        """Process the result of `cut_off`. Raises BrokenTurnError if it is not a finite number."""
        if isinstance(outcome, bool) or finite(outcome) is None:
            raise BrokenTurnError(f"gave {outcome!r:.40} where it was cut off; cut_off returns a finite number")
        self.rewards[-1] += float(outcome)

    def failed(self, error: str) -> None:
        """End the conversation with an error, whatever it earned."""
        self.error = error
        self.rewards += [0.0] * (len(self.turns) - len(self.rewards))

    @property
    def columns(self) -> dict[str, Any]:
        """The columns for rewards of the whole conversation, in addition to those of the prompt."""
        return {"turns": tuple(self.turns), "turn_rewards": tuple(self.rewards), "messages": tuple(self.messages)}

    def to_dict(self) -> list[dict[str, Any]]:
        """The messages after the opening; the assistant's have the reward that the environment gave."""
        rewards = iter(self.rewards)
        rows = [dict(message) for message in self.messages]
        for row in rows:
            if row["role"] == "assistant":
                row["reward"] = next(rewards, 0.0)
        return [*rows, {"role": "error", "content": self.error}] if self.error else rows


def _told(outcome: Any) -> Any:
    """Convert a user exception to a BrokenTurnError with its location; return other outcomes unchanged. Raises RlxErrors."""
    if not isinstance(outcome, BaseException) or isinstance(outcome, BrokenTurnError):
        return outcome
    if isinstance(outcome, RlxError):
        raise outcome
    where = f" ({users_place(outcome)})" if users_place(outcome) else ""
    broken = BrokenTurnError(f"raised {type(outcome).__name__}: {outcome}{where}")
    broken.__cause__ = outcome
    return broken


def checked_turn(outcome: Any) -> Turn:
    """`outcome` if it is a valid Turn. Raises BrokenTurnError for anything else."""
    if not isinstance(outcome, Turn):
        raise BrokenTurnError(f"gave {outcome!r:.80}, not a Turn; return Turn(messages, reward, done)")
    if not isinstance(outcome.done, bool):
        raise BrokenTurnError(f"gave a Turn with done={outcome.done!r:.40}; it is True or False")
    if isinstance(outcome.reward, bool) or finite(outcome.reward) is None:
        raise BrokenTurnError(f"gave a Turn with reward={outcome.reward!r:.40}; it is a finite number")
    return outcome


def as_opening(outcome: Any) -> Text:
    """The result of `start` as a text or a tuple of messages. Raises BrokenTurnError for anything else."""
    if isinstance(outcome, str):
        return _encodable(outcome)
    return _messages(outcome, roles=(*ROLES, "assistant"), of="start")


def as_messages(said: Any) -> tuple[Message, ...]:
    """The content of a Turn as messages. Raises BrokenTurnError if it is neither text nor messages."""
    if isinstance(said, str):
        return ({"role": "user", "content": _encodable(said)},)
    return _messages(said, roles=ROLES, of="step")


def _messages(value: Any, *, roles: tuple[str, ...], of: str) -> tuple[Message, ...]:
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, (list, tuple)) or not messages:
        raise BrokenTurnError(f"gave {value!r:.80} as the messages of {of}; they are a text, or a list of messages")
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str) or message.get("role") not in roles:
            example = '{"role": "user", "content": "..."}'
            raise BrokenTurnError(
                f"gave {message!r:.80} as a message of {of}; a message is {example}, its role one of {', '.join(roles)}"
            )
        _encodable(content)
    return tuple(dict(message) for message in messages)  # copies, so that the environment may change its own later


def _encodable(text: str) -> str:
    """The text itself. Raises BrokenTurnError for text that no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):x}"
        raise BrokenTurnError(f"gave a text with {half}, half of a surrogate pair and not a character; remove it") from error
    return text


def require_free(figures: Iterable[str], taken: Iterable[str], *, of: str) -> None:
    """Raise TrainingError if an environment's metric has a name that is taken. of: what the taken names belong to."""
    both = sorted(set(figures) & set(taken))
    if both:
        raise TrainingError(
            f"figures of the environment gives {', '.join(both)}, a name of rlx's own among the figures of {of}; give another"
        )
