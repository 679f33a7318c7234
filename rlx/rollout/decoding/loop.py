"""The decoding loop, which completes a batch of prompts G times each until every completion has ended, and token selection.

Completions that are equal so far share a row of the batch, which splits when they differ.
Dimensions: P prompts, G completions of a prompt, B = P * G completions in prompt order, R rows of the batch,
T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Tokens
from rlx.seeding import uniforms

if TYPE_CHECKING:
    from rlx.rollout.decoding.forward import Forward, Past

_SPARE_TOKENS = 8  # in addition to one token per byte: tokens that decode to nothing, or to part of a character
# logits [R, V], row of each completion [B], uniform [B] -> tokens [B], log-probabilities [B]
Choose = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def distinct(prompts: Sequence[Tokens]) -> tuple[list[int], np.ndarray]:
    """The first index of each distinct prompt, and int64 [P], the index of each prompt among the distinct ones."""
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
    """The next batch: for each row the row that it continues and its next token, both int64 [R'], and each completion's row.

    rows: int64 [B], the row of each unfinished completion; tokens: int64 [B], its latest token. Rows keep their place if
    possible, so that little is copied; other rows fill the free places, then the end.
    """
    width = int(tokens.max()) + 1
    children, child_of = np.unique(rows * width + tokens, return_inverse=True)
    parents, following = np.divmod(children, width)
    count = len(children)
    stays = np.ones(count, dtype=bool)
    stays[1:] = parents[1:] != parents[:-1]  # one of the rows that continue the same row can keep its place
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
    """Strings that end a completion. strings: non-empty. decode: tokens to text."""

    strings: tuple[str, ...]
    decode: Callable[[Tokens], str]

    def complete(self, tokens: Tokens) -> bool:
        """Whether the tokens, int64 [T], now contain a stop string; called after every token."""
        window = max(len(string.encode()) for string in self.strings) + _SPARE_TOKENS
        text = self.decode(tokens[-window:])
        return any(string in text for string in self.strings)


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    places = [place for string in strings if (place := text.find(string)) >= 0]
    return text[: min(places)] if places else text


@dataclass(frozen=True, eq=False)
class Completions:
    """tokens: int64 [B, T]; logprobs: float32 [B, T]; lengths: int64 [B]; finished: bool [B], not cut off by the limit."""

    tokens: np.ndarray
    logprobs: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray

    @staticmethod
    def empty(rows: int, width: int) -> Completions:
        """Allocate `rows` completions of up to `width` tokens."""
        tokens, logprobs = np.zeros((rows, width), dtype=np.int64), np.zeros((rows, width), dtype=np.float32)
        return Completions(tokens, logprobs, np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=bool))

    def place(self, other: Completions, rows: np.ndarray) -> None:
        """Write `other` into the rows `rows`, int64 [B']."""
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

    limits: int64 [P], the longest completion of each prompt; keys: uint64 [B], the random key of each completion, None for
    greedy decoding. past: stored states of conversations, to which those of finished turns are added; names: the conversation
    of each completion.
    """
    limit = np.repeat(limits, group_size)
    out = Completions.empty(len(limit), int(limits.max()))
    ends = np.asarray(sorted(end_tokens), dtype=np.int64)
    first, numbers = distinct(prompts)
    rows = np.repeat(numbers, group_size)  # the batch row of each completion
    live = np.arange(len(rows))  # the indices of those completions
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
                if (states := forward.states(int(row))) is not None:  # of all tokens except the last
                    heard = np.concatenate([prompts[completion // group_size], out.tokens[completion, :position]])
                    past.keep(names[completion], heard, states)
        if ended.all():
            break
        live = live[~ended]
        parents, following, rows = branch(rows[~ended], tokens[~ended])
        logits = forward.step(torch.from_numpy(parents).to(device), torch.from_numpy(following).to(device))
    return out


# Choosing the next token: truncation of a distribution and inversion of its cumulative distribution function.
#
# Dimensions: R distributions, B tokens drawn from them, V vocabulary.


_ELEMENTS_AT_ONCE = 1 << 24  # R * V processed at once; bounds the memory of the float64 sums


def truncated(probabilities: Tensor, *, top_k: int | None, top_p: float | None, min_p: float | None) -> Tensor:
    """[R, V] with truncated tokens set to 0; the rest is not renormalised.

    In this order: top_k keeps the k most likely tokens (smaller token ids in ties), top_p the smallest set of most likely tokens
    whose share of the remaining mass reaches top_p, min_p the tokens at least min_p times as likely as the most likely one.
    The most likely token is always kept.
    """
    if min_p is not None:
        floor = min_p * probabilities.amax(dim=-1, keepdim=True)
    if top_k is not None or top_p is not None:
        ordered, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
        if top_k is not None:
            ordered[:, top_k:] = 0.0
        if top_p is not None:
            before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
            total = ordered.sum(dim=-1, keepdim=True, dtype=torch.float64)
            ordered = ordered.masked_fill(before >= top_p * total, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    if min_p is not None:
        probabilities = probabilities.masked_fill(probabilities < floor, 0.0)
    return probabilities


def invert(probabilities: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """int64 [B]: the first token at which the running sum over token ids, in float64, exceeds `uniform` times the total.

    probabilities: [R, V], not negative, any sum above 0; rows: int64 [B], the distribution that each token is drawn from;
    uniform: float64 [B] in [0, 1). A token of probability 0 is never chosen. The sum runs in token-id order, so a choice does
    not depend on the other draws.
    """
    running = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = running[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))
    order = torch.argsort(rows, stable=True)
    ordered = rows[order]
    column = torch.empty_like(rows)  # each draw's index among those of its row, so that one search serves all rows
    column[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(ordered, ordered)
    thresholds = running.new_zeros(len(running), int(column.max()) + 1)
    thresholds[rows, column] = torch.minimum(uniform * total[rows], below[rows])
    tokens = torch.searchsorted(running, thresholds, right=True)[rows, column]
    return tokens.clamp_(max=probabilities.shape[-1] - 1)  # out of range only for NaN logits, which the caller detects


def choose(
    logits: Tensor,
    rows: Tensor,
    uniform: Tensor | None,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [B] and their log-probabilities [B] under log_softmax(logits / temperature), before any truncation.

    logits: [R, V]; rows: int64 [B], the row of logits for each token; uniform: float64 [B], None for greedy.
    """
    limits = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    size = max(1, _ELEMENTS_AT_ONCE // logits.shape[-1])
    if len(logits) <= size:
        return _choose(logits, rows, uniform, temperature, limits)
    tokens, logprobs = torch.empty_like(rows), torch.empty(len(rows), device=logits.device)
    for first in range(0, len(logits), size):
        inside = torch.nonzero((rows >= first) & (rows < first + size)).flatten()
        part = None if uniform is None else uniform[inside]
        tokens[inside], chosen = _choose(logits[first : first + size], rows[inside] - first, part, temperature, limits)
        logprobs[inside] = chosen.to(logprobs.dtype)
    return tokens, logprobs


def _choose(
    logits: Tensor, rows: Tensor, uniform: Tensor | None, temperature: float, limits: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    if uniform is None:
        tokens = logits.argmax(dim=-1)[rows]
    else:
        probabilities = logprobs.exp()
        if any(limit is not None for limit in limits.values()):
            probabilities = truncated(probabilities, **limits)
        tokens = invert(probabilities, rows, uniform)
    return tokens, logprobs[rows, tokens]
