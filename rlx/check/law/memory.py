"""Part of the law of draws, on state kept between draws: it belongs to prompts or to all rows, not to row positions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import key_of, parts_of, tensors_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Subject, row_shown
from rlx.errors import RlxError

LOWER = 1.0  # nats a token by which one row's completions are less likely at the first of two draws
NUDGE = 0.01  # added to a stored number
LEAST = 4  # rows: the changed one, and three that show the common change
MOST = 6  # rows that are tried
NEXT = (1, 2)  # steps of the second draw
STEPS = (0, 1, 2, 3, 9, 10, 49, 50, 99, 100, 199, 200, 499, 500, 999, 1000)  # draws after which state must have been written
SAME = 1e-4  # relative difference of numbers that count as equal, apart from a change common to all rows


def remembered_by_place(subject: Subject) -> Finding | None:
    """Return a finding if changes to a row at one draw affect the row at the same position of the next, with another prompt."""
    if subject.goes_past or subject.warm_up:
        return None
    seen: dict[int, str] = {}  # row -> name of the tensor that changes
    tried = 0
    for step in NEXT:
        usual = _second(subject, step, None)
        if usual is None or len(usual) < LEAST:
            return None
        before, tried = dict(tensors_of(usual)), min(len(usual), MOST)
        for row in range(tried):
            moved = _second(subject, step, row)
            if moved is None or _prompts(moved) != _prompts(usual):
                return None
            after = dict(tensors_of(moved))
            changed = [name for name, values in before.items() if name in after and not _equal(values, after[name])]
            if any(not _changes_alone(before[name], after[name], row) for name in changed):
                return None
            if changed:
                seen[row] = changed[0]
    if 2 * len(seen) < tried:  # a group with equal rewards shows nothing
        return None
    name = next(iter(seen.values())).removeprefix("batch.")
    return broken(
        f"what happens to a row at one draw changes the {name} of the row at the same place of the next draw and of no other, "
        "though another prompt stands there",
        number=f"{len(seen)} of {tried} rows",
        where="draw",
        example=row_shown(subject, usual, 0),
        mend="what lab.state keeps of a prompt is found by batch.prompt_keys (of a pair: batch.rows), not by its place in the "
        "batch; else keep one number for all rows",
    )


class _Noting(dict[str, Tensor]):
    """A state that records which keys were read and which were set."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__(given)
        self.asked: set[str] = set()
        self.written: set[str] = set(given)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.written.add(key)
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self.written.add(key)
        return super().setdefault(key, default)

    def update(self, *given: Any, **named: Any) -> None:
        self.written.update(dict(*given, **named))
        super().update(*given, **named)


def never_written(subject: Subject) -> Finding | None:
    """Return a finding if draws read a key of lab.state that none of them sets."""
    laboratory = subject.stand_in()
    laboratory.state = state = _Noting(laboratory.state)
    for step in STEPS:
        subject.draw(laboratory, step=step)
        if state.asked <= state.written:
            return None
    name = min(state.asked - state.written)
    return broken(
        f"draw looks for {name!r} in lab.state, and no draw puts it there ({len(STEPS)} steps up to {STEPS[-1]}): what it falls "
        "back on is all that is ever used",
        number=f"0 of {len(STEPS)} steps",
        where="draw",
        mend=f"write what shall last: lab.state[{name!r}] = ..., in draw alone",
    )


def state_of_other_rows(subject: Subject) -> Finding | None:
    """Return a finding if a row of lab.state affects the batch row with the same index, which is another prompt or pair."""
    laboratory = subject.stand_in()
    subject.draw(laboratory)
    sizes = {
        len(getattr(laboratory.task, name)())
        for name, each in (("pairs", "pairs"), ("prompts", "rewards"))
        if each in laboratory.task.offers
    }
    kept = copy.deepcopy(laboratory.state)
    tables = [name for name, values in kept.items() if values.ndim == 1 and len(values) in sizes and values.is_floating_point()]
    if not tables or subject.goes_past:
        return None
    usual = _again(subject, laboratory, kept)
    parts = parts_of(usual)
    if len(parts) != 1 or len(usual) < LEAST:
        return None
    own = getattr(parts[0], "prompt_keys", getattr(parts[0], "rows", None))
    places = [place for place in range(min(len(usual), MOST)) if own is not None and place not in list(own)]
    before = dict(tensors_of(usual))
    for name in tables:
        seen: dict[int, str] = {}
        for place in places:
            changed = {**kept, name: kept[name].clone()}
            changed[name][place] += NUDGE
            try:
                after = dict(tensors_of(_again(subject, laboratory, changed)))
            except (RlxError, ValueError, RuntimeError):  # a state that the algorithm itself never reaches
                return None
            moved = [each for each in before if each in after and _changes_alone(before[each], after[each], place)]
            if moved:
                seen[place] = moved[0]
        if len(places) > 1 and len(seen) == len(places):
            return broken(
                f"lab.state[{name!r}] has a number for each row of the task, and that of row {places[0]} changes the "
                f"{seen[places[0]].removeprefix('batch.')} of the row at place {places[0]} of a batch, which is another one",
                number=f"{len(seen)} rows",
                where="draw",
                example=row_shown(subject, usual, places[0]),
                mend="what is kept by prompt is read by prompt: kept[torch.tensor(batch.prompt_keys)], of pairs kept[batch.rows]",
            )
    return None


def _again(subject: Subject, laboratory: Any, state: Mapping[str, Tensor]) -> Any:
    """Return the second draw of a laboratory, from a given state."""
    laboratory.state.clear()
    laboratory.state.update(copy.deepcopy(dict(state)))
    return subject.draw(laboratory, step=NEXT[0])


def _second(subject: Subject, step: int, row: int | None) -> Any | None:
    """Return the second of two draws; at the first, a row had a higher reward and lower log-probabilities.

    Its reference log-probabilities were higher. Return None if no state is kept between the draws, or both hold a same prompt.
    """
    laboratory = subject.stand_in()
    kept = copy.deepcopy(laboratory.state)
    first = subject.draw(laboratory)
    parts = parts_of(first)
    if not laboratory.state or len(parts) != 1 or len(first) < LEAST or not isinstance(laboratory.policy, StandInPolicy):
        return None
    sequences, policy = parts[0].sequences, laboratory.policy
    held = None
    if row is not None:
        group = sequences.completions[row]
        if Need.REWARDS in subject.needs:
            text = subject.sampler.text(subject.policy, max(group, key=len))
            laboratory.task = subject.stand_in(rewards={"rewarded": text}).task
        places = policy.places.get("token_logprobs", {})
        keys = [key for key in (key_of(sequences.prompts[row], tokens) for tokens in group) if key in places]
        if keys:
            leaf = policy.leaves["token_logprobs"]
            held = leaf.detach().clone()
            with torch.no_grad():
                for key in keys:
                    leaf[places[key]] -= LOWER
        laboratory.state.clear()
        laboratory.state.update(kept)
        reference = laboratory.reference
        reference.raised = {key_of(sequences.prompts[row], tokens): place + LOWER for place, tokens in enumerate(group)}
        subject.draw(laboratory)
        reference.raised = {}
        if held is not None:
            with torch.no_grad():
                policy.leaves["token_logprobs"][: len(held)] = held
    second = subject.draw(laboratory, step=step)
    if len(parts_of(second)) != 1 or set(_prompts(first)) & set(_prompts(second)):
        return None
    return second


def _equal(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and torch.equal(before, after)


def _prompts(batch: Any) -> Sequence[bytes]:
    return [prompt.tobytes() for part in parts_of(batch) for prompt in part.sequences.prompts]


def _changes_alone(before: Tensor, after: Tensor, row: int) -> bool:
    """Whether a row's values change differently from those of all other rows, which share a scale and an offset."""
    if (
        before.shape != after.shape
        or not before.is_floating_point()
        or before.ndim == 0
        or len(before) < LEAST
        or len(before) <= row
    ):
        return False
    x, y = before.double().reshape(len(before), -1), after.double().reshape(len(before), -1)
    others = torch.arange(len(x)) != row
    known = torch.stack([x[others].reshape(-1), torch.ones(int(others.sum()) * x.shape[1], dtype=x.dtype)], dim=1)
    known = known * (known[:, :1] != 0)  # zeros, as outside completions, stay 0
    line = torch.linalg.lstsq(known, y[others].reshape(-1, 1), driver="gelsd").solution[:, 0]

    def off(rows: Tensor) -> float:
        expected = torch.where(x[rows] != 0, line[0] * x[rows] + line[1], 0.0)
        return float((y[rows] - expected).abs().max())

    scale = SAME * float(y.abs().max().clamp(min=1e-12))
    return off(others) <= scale < off(~others)
