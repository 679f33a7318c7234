"""The decoding loop: a batch of prompts, each with G completions, until every completion has ended.

Completions that are equal so far share a row of the batch, which splits where they differ.
Dimensions: P prompts, G completions of a prompt, B = P * G completions in the order of the prompts, R rows of the batch,
T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Tokens
from rlx.seeding import uniforms

if TYPE_CHECKING:
    from rlx.rollout.decoding.forward import Forward
    from rlx.rollout.decoding.past import Past

_SPARE_TOKENS = 8  # beyond one token a byte: tokens that decode to nothing, or to half a character
# logits [R, V], row of each completion [B], uniform [B] -> tokens [B], log-probabilities [B]
Choose = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def distinct(prompts: Sequence[Tokens]) -> tuple[list[int], np.ndarray]:
    """The first place of each different prompt, and int64 [P], the number of each prompt among these."""
    first: dict[bytes, int] = {}
    found: list[int] = []
    numbers = np.empty(len(prompts), dtype=np.int64)
    for place, prompt in enumerate(prompts):
        number = first.setdefault(np.asarray(prompt, dtype=np.int64).tobytes(), len(first))
        if number == len(found):
            found.append(place)
        numbers[place] = number
    return found, numbers


def branch(rows: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next batch: the row that each row continues and its next token, both int64 [R'], and the row of each completion.

    rows: int64 [B], the row of each unfinished completion; tokens: int64 [B], its latest token. A row keeps its place where it
    can, so that little is copied; other rows fill the free places, then the end.
    """
    width = int(tokens.max()) + 1
    children, child_of = np.unique(rows * width + tokens, return_inverse=True)
    parents, following = np.divmod(children, width)
    count = len(children)
    stays = np.ones(count, dtype=bool)
    stays[1:] = parents[1:] != parents[:-1]  # of the rows that continue one row, one can keep its place
    stays &= parents < count
    place = np.empty(count, dtype=np.int64)
    place[stays] = parents[stays]
    free = np.ones(count, dtype=bool)
    free[parents[stays]] = False
    place[~stays] = np.flatnonzero(free)
    order = np.empty(count, dtype=np.int64)
    order[place] = np.arange(count)
    return parents[order], following[order], place[child_of]


@dataclass(frozen=True)
class StopStrings:
    """Strings that end a completion. strings: none may be empty. decode: tokens to text."""

    strings: tuple[str, ...]
    decode: Callable[[Tokens], str]

    def complete(self, tokens: Tokens) -> bool:
        """Whether a stop string ends tokens, int64 [T]; called after every token."""
        window = max(len(string.encode()) for string in self.strings) + _SPARE_TOKENS
        text = self.decode(tokens[-window:])
        return any(string in text for string in self.strings)


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    places = [place for string in strings if (place := text.find(string)) >= 0]
    return text[: min(places)] if places else text


@dataclass(frozen=True, eq=False)
class Completions:
    """tokens: int64 [B, T]; logprobs: float32 [B, T]; lengths: int64 [B]; finished: bool [B], not ended by its limit."""

    tokens: np.ndarray
    logprobs: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray

    @staticmethod
    def empty(rows: int, width: int) -> Completions:
        """Room for `rows` completions of up to `width` tokens."""
        tokens, logprobs = np.zeros((rows, width), dtype=np.int64), np.zeros((rows, width), dtype=np.float32)
        return Completions(tokens, logprobs, np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=bool))

    def place(self, other: Completions, rows: np.ndarray) -> None:
        """Write `other` into the rows `rows`, int64 [B'], of this."""
        width = other.tokens.shape[1]
        self.tokens[rows, :width] = other.tokens
        self.logprobs[rows, :width] = other.logprobs
        self.lengths[rows] = other.lengths
        self.finished[rows] = other.finished


def decode(
    forward: Forward,
    prompts: Sequence[Tokens],
    *,
    group_size: int,
    limits: np.ndarray,
    end_tokens: Sequence[int],
    keys: np.ndarray | None,
    choose: Choose,
    stop: StopStrings | None,
    past: Past | None = None,
    names: Sequence[Hashable] = (),
) -> Completions:
    """Complete every prompt `group_size` times.

    limits: int64 [P], the longest completion of each prompt; keys: uint64 [B], the random address of each completion, None for
    greedy decoding. past: what is known of conversations, and kept of those that finish their turn; names: of each completion's.
    """
    limit = np.repeat(limits, group_size)
    out = Completions.empty(len(limit), int(limits.max()))
    ends = np.asarray(sorted(end_tokens), dtype=np.int64)
    first, numbers = distinct(prompts)
    rows = np.repeat(numbers, group_size)  # the row of the batch that each completion is in
    live = np.arange(len(rows))  # which completions those are
    read = [prompts[place] for place in first]
    logits = forward.start(
        read,
        max_rows=len(rows),
        max_new_tokens=int(limits.max()),
        past=() if past is None else [past.take(names[place * group_size], prompts[place]) for place in first],
    )
    device = logits.device
    for position in range(int(limits.max())):
        uniform = None if keys is None else torch.from_numpy(uniforms(keys[live], position)).to(device)
        chosen, logprobs = choose(logits, torch.from_numpy(rows).to(device), uniform)
        tokens = chosen.cpu().numpy()
        out.tokens[live, position] = tokens
        out.logprobs[live, position] = logprobs.cpu().numpy()
        finished = np.isin(tokens, ends)
        if stop is not None:
            finished |= [stop.complete(out.tokens[completion, : position + 1]) for completion in live]
        ended = finished | (position + 1 >= limit[live])
        out.finished[live[finished]] = True
        out.lengths[live[ended]] = position + 1
        if past is not None:
            for completion, row in zip(live[finished], rows[finished], strict=True):
                if (states := forward.states(int(row))) is not None:  # of all tokens but the last
                    heard = np.concatenate([prompts[completion // group_size], out.tokens[completion, :position]])
                    past.keep(names[completion], heard, states)
        if ended.all():
            break
        live = live[~ended]
        parents, following, rows = branch(rows[~ended], tokens[~ended])
        logits = forward.step(torch.from_numpy(parents).to(device), torch.from_numpy(following).to(device))
    return out
