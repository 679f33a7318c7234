"""The base of all tasks: prompts with rewards, preference pairs, and the score by which runs are compared. No tensors here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError, RlxError, TrainingError
from rlx.fields import Ranged, count

Message = Mapping[str, Any]  # {"role": "user", "content": "..."}
Text = str | tuple[Message, ...]  # plain text, or the messages of a conversation

ROLES = ("system", "developer", "user", "assistant", "tool")  # who speaks in a conversation
OF_PAIRS = ("pair_accuracy", "log_likelihood")  # scores measured on held-out pairs, of which one side may be absent
LARGEST = 3e38  # rewards are stored in float32, in which a larger number is infinite


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt, with `columns` of further data about it (such as the answer), which rewards read.

    tools: the schemas of the tools that the assistant may call, for the chat template.
    """

    text: Text
    columns: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Pair:
    """A prompt with a better and a worse completion. The completions continue the prompt's text or conversation.

    scores: of the two completions, if the data has them (for losses that need them).
    label: None for an ordinary pair. A single completion leaves the other side empty: (True, None) is a desirable one, in
    `chosen`; (None, False) is an undesirable one, in `rejected`. source: the location in the data, for errors.
    tools: the schemas of the tools that the assistant may call.
    lacks: what is missing in its row, such as "'chosen' is null"; such a pair has no text, and is dropped and counted.
    Example: Pair(prompt="12+34=", chosen="46", rejected="47").
    """

    prompt: Text
    chosen: Text
    rejected: Text
    scores: tuple[float, float] | None = None
    source: str = ""
    label: tuple[bool | None, bool | None] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    lacks: str = ""

    def flipped(self) -> Pair:
        """The pair with chosen, rejected and their scores swapped; a single completion gets the other label."""
        scores = None if self.scores is None else (self.scores[1], self.scores[0])
        label = None if self.label is None else (_other(self.label[1]), _other(self.label[0]))
        return replace(self, chosen=self.rejected, rejected=self.chosen, scores=scores, label=label)


class Pairs(tuple[Pair, ...]):
    """Pairs with a name that is valid in every process: equal names mean equal pairs."""

    name: str

    @staticmethod
    def of(pairs: Iterable[Pair], name: str) -> Pairs:
        """The pairs under a name."""
        made = Pairs(pairs)
        made.name = name
        return made


def is_learned(message: Message) -> bool:
    """Whether the assistant wrote a message, and the data does not exclude it from learning by a weight of 0."""
    return message.get("role") == "assistant" and message.get("weight") != 0


def _other(label: bool | None) -> bool | None:
    return None if label is None else not label


@dataclass(frozen=True)
class Earned:
    """A part of a completion's reward and where it was earned: the turn of the assistant and the position in its text.

    turn: its index, from 0. end: the position, in characters of the turn's text; None: its end.
    """

    value: float
    turn: int
    end: int | None = None


@dataclass(frozen=True)
class Graded:
    """The rewards of one completion. parts: by name, with their weighted sum as "reward"; earned: that sum by location."""

    parts: dict[str, float]
    earned: tuple[Earned, ...]


@dataclass(frozen=True, kw_only=True)
class Task(Ranged):
    """Base of all tasks. `offers` lists what it provides for algorithms: "pairs", "rewards"; "labels" if each pair has only one
    side; "demonstrations" if pairs have only a chosen side. A task with pairs also provides demonstrations, their chosen sides.

    name: shown in tables and recorded; runs of different tasks are not compared.
    max_new_tokens: longest sampled completion, including its end-of-sequence token.
    """

    offers: ClassVar[frozenset[str]]
    # accuracy, greedy_reward, pair_accuracy or log_likelihood: the evaluation metric by which runs are compared
    score: ClassVar[str]

    name: str
    max_new_tokens: int = count()

    def keep_in(self, store: Any) -> None:
        """Set the rlx.data.pair_store.PairStore in which the task may cache pairs for later runs."""

    @property
    def has_pairs(self) -> bool:
        """Whether `pairs` gives training data: pairs, or demonstrations, whose rejected side is absent."""
        return not self.offers.isdisjoint(("pairs", "demonstrations"))

    def pairs(self) -> Sequence[Pair]:
        """The training pairs, always in the same order."""
        raise ConfigError(f"task {self.name} has no preference pairs; task=preference_file has, among others")

    def held_out_pairs(self) -> Sequence[Pair]:
        """Pairs never used for training; they depend on the task, not on a run's seed."""
        return ()

    def prompts(self) -> Sequence[Prompt]:
        """The training prompts, always in the same order."""
        raise ConfigError(f"task {self.name} has no prompts to learn from")

    def held_out_prompts(self) -> Sequence[Prompt]:
        """Prompts never used for training."""
        return ()

    def dropped_rows(self) -> Sequence[tuple[str, str]]:
        """(location, what is missing) for each file row that gives no prompt; rows that give no pair are in `pairs`."""
        return ()

    def reward(self, prompt: Prompt, completion: str) -> Mapping[str, float]:
        """The rewards of a completion by name, and under "reward" their weighted sum."""
        raise ConfigError(f"task {self.name} gives no rewards; task=arithmetic, prompt_file and reasoning_gym do")

    def reward_all(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[dict[str, float]]:
        """`reward` of each completion, one per prompt, as finite numbers.

        Raises TrainingError with the prompt and the completion if a reward raises or is not a finite number.
        """
        return [self._rewarded(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    def grade_all(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Graded]:
        """Like `reward_all`, with the locations in the completions where the rewards were earned."""
        turns = [prompt.columns.get("turns", (completion,)) for prompt, completion in zip(prompts, completions, strict=True)]
        parts = self.reward_all(prompts, completions)
        return [Graded(part, (Earned(part["reward"], len(own) - 1),)) for part, own in zip(parts, turns, strict=True)]

    @property
    def interaction(self) -> Any:
        """The rlx.task.environment.Interaction that plays its conversations; None if a completion is one turn."""
        return None

    @property
    def curriculum(self) -> Any:
        """The rlx.task.base.Curriculum that decides when training prompts are drawn; None if all are drawn equally."""
        return None

    def _rewarded(self, prompt: Prompt, completion: str) -> dict[str, float]:
        where = f"for the completion {completion!r} of the prompt {prompt.text!r}"
        try:
            given = self.reward(prompt, completion)
        except RlxError:
            raise
        except Exception as error:  # rewards are user code
            raise TrainingError(f"the reward of task {self.name} raised {type(error).__name__}: {error}, {where}") from error
        reward = {name: finite(value) for name, value in given.items()}
        bad = [name for name, value in reward.items() if value is None]
        if bad or "reward" not in reward:
            what = f"{bad[0]} = {given[bad[0]]}" if bad else f"{sorted(reward)} without 'reward'"
            raise TrainingError(f"task {self.name} gave {what} {where}; a reward must be a finite number")
        return {name: value for name, value in reward.items() if value is not None}

    def full_reward_value(self) -> float | None:
        """The reward from which a completion counts as correct; None if the task defines none."""
        return 1.0

    def score_facts(self) -> str:
        """A description of the score."""
        return f"{self.score}, on what is held out"

    def facts(self) -> Mapping[str, str]:
        """Name -> text about the data (counts, dropped rows), shown and recorded."""
        return {}

    def notes(self) -> Sequence[str]:
        """Notes for the user about the data: columns recognised by their names, and columns that are not read."""
        return ()

    def content_hash(self) -> str:
        """A hash of the data that the config names but does not contain (a file's content); "" if there is none."""
        return ""


def finite(value: Any) -> float | None:
    """`value` as a finite number within float32, else None. Text gives None, even if it spells a number."""
    if isinstance(value, (str, bytes)) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST else None


_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=dict).encode


def content_uniform(text: Any, *, salt: str) -> float:
    """A number in [0, 1) that depends only on the content, so that a prompt is in the same split in every run."""
    canonical = _canonical([salt, text])
    return int.from_bytes(hashlib.blake2b(canonical.encode(), digest_size=8).digest(), "big") / 2.0**64


def content_digest(content: Any) -> str:
    """16 hexadecimal digits that depend only on the content, such as the prompts of an evaluation in order."""
    return hashlib.blake2b(_canonical(content).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def with_label_noise(pairs: Sequence[Pair], label_noise: float) -> tuple[Pair, ...]:
    """Flip a share of the pairs, chosen by content. 0 changes nothing, 1 flips all."""
    if not 0 <= label_noise <= 1:
        raise ConfigError(
            f"task.label_noise is {label_noise}; it is the share of training pairs that are flipped, between 0 and 1"
        )
    if label_noise == 0:
        return tuple(pairs)
    return tuple(
        pair.flipped() if content_uniform([pair.prompt, pair.chosen, pair.rejected], salt="label_noise") < label_noise else pair
        for pair in pairs
    )


def pass_at_k(num_right: int, num_samples: int, k: int) -> float:
    """The unbiased estimate of the probability that at least one of k completions is correct, given `num_right` of `num_samples`.

    1 - C(n - c, k) / C(n, k), Chen et al. 2021 (arXiv:2107.03374). Example: pass_at_k(1, 4, 2) == 0.5.
    """
    if not 1 <= k <= num_samples or not 0 <= num_right <= num_samples:
        raise ConfigError(f"pass@{k} cannot be estimated from {num_right} right of {num_samples} completions")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


@dataclass(frozen=True)
class Curriculum:
    """The difficulty of a task's training prompts.

    levels: the level of each prompt, in order; every level from the smallest to the largest has prompts. start: the first level.
    raise_at: the level rises by one when the mean success, from 0 to 1, over `raise_after` steps reaches this; otherwise counting
    starts again. None: the level never rises.
    """

    levels: tuple[int, ...]
    start: int
    raise_at: float | None
    raise_after: int

    def __post_init__(self) -> None:
        lacking = sorted(set(range(self.start, self.highest + 1)) - set(self.levels))
        if lacking:
            raise DataError(f"the curriculum has no prompts of level {lacking[0]}, and goes from {self.start} to {self.highest}")

    @property
    def highest(self) -> int:
        """The last level."""
        return max(self.levels)
