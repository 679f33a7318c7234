"""Sums of two numbers: the built-in task, small enough to learn in seconds and hard enough to distinguish algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from rlx.fields import count, within
from rlx.task.base import Pair, Prompt, content_uniform, with_label_noise
from rlx.task.rewarded import RewardedTask

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Arithmetic(RewardedTask):
    """Prompts `a+b=` for a and b in 0..max_operand; the answer is the sum.

    A tenth of the prompts is held out, by a hash of the prompt, so a prompt is in the same split for every max_operand.
    A pair is the sum and a wrong answer of the same length, chosen by the prompt's hash.
    label_noise: share of the training pairs that are flipped.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs", "rewards"})

    max_operand: int = count(at_least=9)
    label_noise: float = within(at_least=0, at_most=1)

    def prompts(self) -> Sequence[Prompt]:
        return _split(self.max_operand)[0]

    def held_out_prompts(self) -> Sequence[Prompt]:
        return _split(self.max_operand)[1]

    def pairs(self) -> Sequence[Pair]:
        return _pairs(self.max_operand, self.label_noise)

    def held_out_pairs(self) -> Sequence[Pair]:
        return _held_out_pairs(self.max_operand)


# Cached per process: the jobs of a sweep share the task, and creating it took a quarter of a short job.


@lru_cache(maxsize=2)
def _split(max_operand: int) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts to learn from and those held out, each in the order of their hashes."""
    split: tuple[list[tuple[float, Prompt]], list[tuple[float, Prompt]]] = ([], [])
    for a in range(max_operand + 1):
        for b in range(max_operand + 1):
            place = content_uniform(f"{a}+{b}=", salt="arithmetic")
            prompt = Prompt(f"{a}+{b}=", {"answer": str(a + b)})
            split[place < HELD_OUT_SHARE].append((place, prompt))
    learn, held_out = (tuple(prompt for _, prompt in sorted(side, key=lambda item: item[0])) for side in split)
    return learn, held_out


@lru_cache(maxsize=2)
def _pairs(max_operand: int, label_noise: float) -> tuple[Pair, ...]:
    return with_label_noise([as_pair(prompt) for prompt in _split(max_operand)[0]], label_noise)


@lru_cache(maxsize=2)
def _held_out_pairs(max_operand: int) -> tuple[Pair, ...]:
    return tuple(as_pair(prompt) for prompt in _split(max_operand)[1])


def as_pair(prompt: Prompt) -> Pair:
    """The pair of a prompt: chosen is the sum, rejected an answer of the same length whose last digits (at least one) are wrong.

    All digits from the first wrong one on are wrong, so the loss never lowers a digit that is correct in its place.
    """
    answer = str(prompt.columns["answer"])
    first_wrong = int(_draw(prompt, "place") * len(answer))
    tail = "".join(_wrong_digit(prompt, answer, place) for place in range(first_wrong, len(answer)))
    return Pair(prompt=prompt.text, chosen=answer, rejected=answer[:first_wrong] + tail, source=f"arithmetic {prompt.text}")


def _wrong_digit(prompt: Prompt, answer: str, place: int) -> str:
    digits = [d for d in "0123456789" if d != answer[place] and not (d == "0" and place == 0 and len(answer) > 1)]
    return digits[int(_draw(prompt, f"digit {place}") * len(digits))]


def _draw(prompt: Prompt, name: str) -> float:
    """A number in [0, 1): a hash of the prompt and `name`."""
    return content_uniform(prompt.text, salt=f"arithmetic {name}")
