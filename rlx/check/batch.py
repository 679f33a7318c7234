"""Inspects and transforms any batch: its tensors, rows in another order, wider padding, content as text, keys of completions.

Dimensions: B rows, G completions of a row, T tokens.
"""

from __future__ import annotations

import copy
import hashlib
import marshal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.seeding import Stream
from rlx.task.base import Prompt

Key = tuple[bytes, bytes]  # the tokens of a prompt and of one of its completions
_WHOLE = (TokenizedPairs, Prompt, Stream, str, bytes, int, float, bool, Enum, type(None))  # not searched for inner values
_AS_IT_IS = frozenset({bytes, str, int, float, bool, type(None)})
GARBAGE = 3.7
T = TypeVar("T")


def recast(owner: Any, kind: type[T]) -> T:
    """Return a shallow copy of an object as an instance of another class."""
    twin = copy.copy(owner)
    twin.__class__ = kind
    assert isinstance(twin, kind)
    return twin


def key_of(prompt: np.ndarray, completion: np.ndarray) -> Key:
    """Return the key of a completion of a prompt."""
    return np.asarray(prompt).tobytes(), np.asarray(completion).tobytes()


def keys_of(sequences: Sequences) -> list[Key]:
    """Return the key of every completion, row by row; the result is cached for each object."""
    if sequences not in _KEYS:
        found: list[Key] = []
        for prompt, group in zip(sequences.prompts, sequences.completions, strict=True):
            start = np.asarray(prompt).tobytes()
            found += [(start, np.asarray(tokens).tobytes()) for tokens in group]
        _KEYS[sequences] = found
    return _KEYS[sequences]


_KEYS: WeakKeyDictionary[Sequences, list[Key]] = WeakKeyDictionary()


def group_keys(sequences: Sequences) -> list[tuple[Key, ...]]:
    """Return for every row the keys of its completions, which identify the prompt too."""
    keys, size = keys_of(sequences), sequences.group_size
    return [tuple(keys[start : start + size]) for start in range(0, len(keys), size)] if size else []


@contextmanager
def at(leaf: Tensor, values: Tensor | float, places: Any = ...) -> Iterator[None]:
    """Set a leaf, or the given places of it, to these values inside the context; restore the old values afterwards."""
    before = leaf.detach().clone()
    with torch.no_grad():
        leaf[places] = values
    yield
    with torch.no_grad():
        leaf.copy_(before)


def tensors_of(batch: Any, path: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Yield (path, tensor) for every tensor in a batch."""
    if isinstance(batch, Tensor):
        yield path, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from tensors_of(value, f"{path}.{key}")
    elif isinstance(batch, (list, tuple)):
        for index, value in enumerate(batch):
            yield from tensors_of(value, f"{path}[{index}]")
    elif not isinstance(batch, (*_WHOLE, Sequences, np.ndarray)):
        for name, value in attributes(batch).items():
            yield from tensors_of(value, f"{path}.{name}")


def attributes(owner: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, or the instance attributes of any other object."""
    if is_dataclass(owner):
        return {item.name: getattr(owner, item.name) for item in fields(owner)}
    return dict(getattr(owner, "__dict__", {}))


def parts_of(batch: Any) -> list[Any]:
    """Return the innermost batches with sequences of their own: the batch itself, or batches in it."""
    if isinstance(batch, Mapping):
        return [part for value in batch.values() for part in parts_of(value)]
    if isinstance(batch, (list, tuple)):
        return [part for value in batch if not isinstance(value, _WHOLE) for part in parts_of(value)]
    if isinstance(batch, (*_WHOLE, Sequences, np.ndarray, Tensor)):
        return []
    inner = [part for value in attributes(batch).values() for part in parts_of(value)]
    return [batch] if not inner and isinstance(getattr(batch, "sequences", None), Sequences) else inner


def against_rewards(part: Any) -> bool:
    """Whether the advantages that draw computed fall as the rewards of their group rise; the fault is then in draw."""
    rewards, advantages = getattr(part, "rewards", None), getattr(part, "advantages", None)
    if not isinstance(rewards, Tensor) or not isinstance(advantages, Tensor) or advantages.shape[:2] != rewards.shape:
        return False
    each = advantages if advantages.ndim == 2 else advantages.sum(dim=-1)
    centred = rewards.double() - rewards.double().mean(dim=1, keepdim=True)
    return float((centred * each.double()).sum()) < 0


def signature(batch: Any) -> str:
    """Return a hash of every token, tensor and number in a batch; it is equal for equal batches."""
    parts: list[Any] = []
    _collect(batch, parts.append)
    return hashlib.blake2b(marshal.dumps(parts, 0), digest_size=16).hexdigest()


def _collect(value: Any, found: Callable[[Any], None]) -> None:
    """Call `found` with every token, tensor and number in `value`, and with the names of the attributes that hold them."""
    kind = value.__class__
    if kind in _AS_IT_IS:
        found(value)
    elif isinstance(value, np.ndarray):
        found((value.shape, value.tobytes()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, Tensor):
        found((tuple(value.shape), value.detach().cpu().numpy().tobytes()))
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            found(str(key))
            _collect(value[key], found)
    elif isinstance(value, TokenizedPairs):
        found(len(value))
    elif isinstance(value, Prompt):
        found(value.text)
    elif isinstance(value, _WHOLE):
        found(repr(value))
    else:
        for name, item in attributes(value).items():
            found(name)
            _collect(item, found)


def permuted(batch: Any) -> Any:
    """Return the batch with its rows in another order: every second row first."""
    count = len(batch)
    rows = [*range(1, count, 2), *range(0, count, 2)]

    def moved(value: Any) -> Any:
        if isinstance(value, (Tensor, np.ndarray)):
            return value[rows] if value.ndim and len(value) == count else value
        if isinstance(value, (list, tuple)) and len(value) == count:
            return type(value)(value[row] for row in rows)
        return value

    return _mapped(batch, moved, lambda s: s.take(rows, width=s.width) if len(s) == count else s, permuted)


def with_padding(batch: Any, extra: int) -> Any:
    """Return the batch with `extra` columns of padding: GARBAGE in tensors with a non-zero value outside the mask, else 0."""
    sequences = getattr(batch, "sequences", None)
    if not isinstance(sequences, Sequences):
        return _mapped(batch, lambda value: value, lambda s: s, lambda part: with_padding(part, extra))
    width, mask = sequences.width, sequences.completion_mask
    of_each = any(tensor.shape == mask.shape for _, tensor in tensors_of(batch))  # then a [P, G] tensor is one value a completion

    def wider(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[-1] != width or len(value) != len(batch):
            return value
        if of_each and value.shape == mask.shape[:2]:
            return value
        inside = mask if value.ndim == 3 else mask.any(dim=1)
        outside = value[~inside] if inside.shape == value.shape else value[:0].reshape(-1)
        fill = GARBAGE if value.is_floating_point() and bool((outside != 0).any()) else 0
        return torch.nn.functional.pad(value, (0, extra), value=fill)

    return _mapped(batch, wider, lambda s: s.take(range(len(s)), width=width + extra), lambda part: with_padding(part, extra))


def with_more_said(batch: Any, extra: int) -> Any | None:
    """Return the batch with `extra` more tokens after each stretch of tokens in a completion that the policy did not sample.

    The last token of the stretch is repeated. Return None if a tensor over tokens is not [P, G, T], or the policy sampled all
    tokens.
    """
    sequences = getattr(batch, "sequences", None)
    if not isinstance(sequences, Sequences) or sequences.learned is None:
        return None
    places = [[_with_repeats(own, extra) for own in group] for group in sequences.learned]
    width = max((len(place) for group in places for place in group), default=0)
    if width <= sequences.width or any(
        tensor.ndim != 3 for _, tensor in tensors_of(batch) if tensor.ndim > 1 and tensor.shape[-1] == sequences.width
    ):
        return None
    index = torch.zeros((len(places), sequences.group_size, width), dtype=torch.int64)
    inside = torch.zeros(index.shape, dtype=torch.bool)
    for row, group in enumerate(places):
        for column, place in enumerate(group):
            index[row, column, : len(place)] = torch.from_numpy(place)
            inside[row, column, : len(place)] = True

    def longer(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim != 3 or value.shape[-1] != sequences.width:
            return value
        return torch.where(inside, value.gather(-1, index), -1 if value.dtype == torch.int64 else 0).to(value.dtype)

    def said(_: Sequences) -> Sequences:
        def taken(groups: Any) -> tuple[tuple[np.ndarray, ...], ...]:
            rows = zip(groups, places, strict=True)
            return tuple(tuple(each[place] for each, place in zip(*row, strict=True)) for row in rows)

        return Sequences(sequences.prompts, taken(sequences.completions), learned=taken(sequences.learned))

    return _mapped(batch, longer, said, lambda part: part)


def _with_repeats(own: np.ndarray, extra: int) -> np.ndarray:
    """Return int64 indices of the tokens, the last one of each stretch that is not `own` repeated `extra` more times."""
    ends = ~own & np.append(own[1:], True)
    return np.repeat(np.arange(len(own)), np.where(ends, 1 + extra, 1))


def draw_of(algorithm: Any, lab: Any) -> Any:
    """Return an algorithm's draw; if it refuses to mix float64 with float32 rewards, policy and reference return float32."""
    with torch.no_grad():
        try:
            return algorithm.draw(lab)
        except RuntimeError as error:
            if not any(said in str(error) for said in ("dtype", "scalar type")):
                raise
        with _in_single(lab.policy, lab.reference):
            return algorithm.draw(lab)


@contextmanager
def _in_single(*owners: Any) -> Iterator[None]:
    """Let a policy and a reference return token statistics in float32 inside the context, as they do in a run."""
    kinds = [type(owner) for owner in owners]

    def said(kind: type, name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            found = getattr(kind, name)(self, *args, **kwargs)
            return single(found) if isinstance(found, Tensor) else _mapped(found, single, lambda s: s, single)

        return method

    def single(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    try:
        for owner, kind in zip(owners, kinds, strict=True):
            methods = {name: said(kind, name) for name in ("token_statistics", "token_logprobs")}
            owner.__class__ = type(kind.__name__, (kind,), methods)
        yield
    finally:
        for owner, kind in zip(owners, kinds, strict=True):
            owner.__class__ = kind


def in_double(batch: Any) -> Any:
    """Return the batch with its floating-point tensors in float64, so that their sums do not depend on width and order."""

    def doubled(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return _mapped(batch, doubled, lambda s: s, in_double)


def _mapped(
    batch: Any, change: Callable[[Any], Any], sequences: Callable[[Sequences], Sequences], inner: Callable[[Any], Any]
) -> Any:
    """Return a copy of a batch: `change` applied to its tensors and lists, `inner` to the batches in it."""

    def of(value: Any) -> Any:
        if isinstance(value, Sequences):
            return sequences(value)
        if isinstance(value, Mapping):
            return {key: of(item) for key, item in value.items()}
        if isinstance(value, (*_WHOLE, Tensor, np.ndarray, list, tuple)):
            return change(value)
        return inner(value) if parts_of(value) else value

    twin = copy.copy(batch)
    for name, value in attributes(batch).items():
        object.__setattr__(twin, name, of(value))
    for name in set(getattr(twin, "__dict__", {})) - set(attributes(batch)):
        del twin.__dict__[name]  # values of cached properties belong to the old rows
    return twin
