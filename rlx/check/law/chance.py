"""Part of the law of draws, on random numbers: new at each step, different per seed, the same in every process."""

from __future__ import annotations

import builtins
import math
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlx.check.batch import parts_of, signature, tensors_of
from rlx.check.finding import Finding, broken
from rlx.check.law.scale import rows_of
from rlx.check.place import streams_used, throws_dice
from rlx.check.subject import Subject, row_shown
from rlx.errors import is_users_file

NEAR = 0.02  # largest distance of rows, as a share of all, that slightly changed probabilities of a choice explain
MANY = 8  # least size of a task, in draws
STEPS = (0, 1, 2)
SALT = 0x5BD1E995  # changes hashes, as another process may


def same_random_numbers(subject: Subject) -> Finding | None:
    """Return a finding if the rows that a draw chooses at random are the same ones in the next draw."""
    drawn: list[Any] = []
    used = []
    laboratory = subject.stand_in()
    for step in (0, 1):
        used.append(streams_used(lambda step=step: drawn.append(subject.draw(laboratory, step=step))))  # type: ignore[misc]
    if not used[0] or used[0] != used[1]:
        return None
    rows = [rows_of(batch) for batch in drawn]
    task = subject.small_task
    most = max(len(task.pairs()) if "pairs" in task.offers else 0, len(task.prompts()) if "rewards" in task.offers else 0)
    if (
        not 2 <= len(rows[0]) == len(rows[1])
        or most < MANY * len(rows[0])
        or not all(each.isdigit() for each in rows[0] + rows[1])
    ):
        return None
    places = (sorted(map(int, each)) for each in rows)
    near = sum(abs(one - other) <= NEAR * most for one, other in zip(*places, strict=True)) / len(rows[0])
    if near < 1:
        return None
    return broken(
        f"the rows of step 1, of {most}, are those of step 0 or lie near to them: the same random numbers choose them",
        number=f"{len(rows[0])} rows",
        where="draw",
        example=row_shown(subject, drawn[1], 0),
        mend="lab.rng is the same at every step: what is random comes from lab.rng.child('rows', lab.step)",
    )


def same_values_by_place(subject: Subject) -> Finding | None:
    """Return a finding if random numbers of rows are the same at each step, place by place, though the rows differ."""
    drawn = [_numbers(subject, step) for step in STEPS]
    if len({tuple(rows) for rows, _ in drawn}) < len(STEPS):
        return None
    first = drawn[0][1]
    for name, values in first.items():
        others = [numbers.get(name) for _, numbers in drawn[1:]]
        each = values.double().reshape(len(values), -1)
        if len(each) < 2 or not bool((each != each[0]).any()) or not all(_equal(values, other) for other in others):
            continue
        elsewhere = _numbers(subject, 0, seed=subject.seed + 1)[1].get(name)
        if elsewhere is None or elsewhere.shape != values.shape or _equal(values, elsewhere):
            continue
        return broken(
            f"the {name.removeprefix('batch.')} of steps {', '.join(map(str, STEPS))} are the same numbers at the same "
            "places, though other rows stand there and another seed gives others: the random numbers of every step are the same",
            number=f"{len(STEPS)} steps",
            where="draw",
            mend="lab.rng is the same at every step: what is random comes from lab.rng.child('coin', lab.step)",
        )
    return None


def same_for_every_seed(subject: Subject) -> Finding | None:
    """Return a finding if a draw that chooses at random chooses the same rows for every seed."""
    if not subject.reads_pairs or not throws_dice(lambda: subject.draw(subject.stand_in())):
        return None
    (rows, _), (later, _) = (_numbers(subject, step) for step in STEPS[:2])
    if rows == later or signature(subject.draw(subject.stand_in())) != signature(_drawn(subject, 0, subject.seed + 1)):
        return None
    return broken(
        "draw takes random numbers, and another seed gives the same ones: the runs of several seeds all learn the same rows",
        number="2 seeds",
        where="draw",
        mend="what is random comes from lab.rng, which the seed decides: lab.rng.child('rows', lab.step).numpy()",
    )


def same_in_every_process(subject: Subject) -> Finding | None:
    """Return a finding if a draw depends on the hash of a text, which differs between processes."""
    places: list[str] = []
    usual = builtins.hash

    def salted(value: Any) -> int:
        caller = sys._getframe(1)
        if isinstance(value, (str, bytes)) and is_users_file(caller.f_code.co_filename):
            places.append(f"{caller.f_code.co_filename}:{caller.f_lineno} in {caller.f_code.co_name}")
            return usual(value) ^ SALT
        return usual(value)

    builtins.hash = salted
    try:
        drawn = signature(subject.draw(subject.stand_in()))
    finally:
        builtins.hash = usual
    if not places or drawn == signature(subject.draw(subject.stand_in())):
        return None
    return broken(
        "draw depends on hash(text), which is another number in each process: the same command gives other numbers",
        where=places[0],
        mend="zlib.crc32(text.encode()) is the same everywhere; what is random comes from lab.rng.child(text)",
    )


def _drawn(subject: Subject, step: int, seed: int) -> Any:
    """Return the draw of a step with another seed."""
    twin = replace(subject, seed=seed)
    twin.__dict__.update({name: value for name, value in vars(subject).items() if name not in vars(twin)})
    return twin.draw(twin.stand_in(), step=step)


def _numbers(subject: Subject, step: int, seed: int | None = None) -> tuple[list[bytes], dict[str, Tensor]]:
    """Return (the prompts of a draw in their order, its tensors with one or more values for each row).

    Of a tensor over tokens that is 0 at some, this is where it is: 1 or 0 within completions, NaN outside of them.
    """
    batch = _drawn(subject, step, subject.seed if seed is None else seed)
    parts = parts_of(batch)
    prompts = [prompt.tobytes() for part in parts for prompt in part.sequences.prompts]
    found = {name: values for name, values in tensors_of(batch) if values.ndim and len(values) == len(prompts) and values.numel()}
    mask = parts[0].sequences.completion_mask if len(parts) == 1 else torch.zeros(0)
    for name, values in found.items():
        if values.shape == mask.shape and values.is_floating_point() and 0 < int(values[mask].eq(0).sum()) < int(mask.sum()):
            found[name] = torch.where(mask, values.eq(0).double(), math.nan)
    return prompts, found


def _equal(one: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors are equal, where neither is NaN: at many places at least."""
    if other is None or one.shape != other.shape:
        return False
    both = ~(one.isnan() | other.isnan())
    return bool((one == other)[both].all()) and (bool(both.all()) or int(both.sum()) >= MANY * len(one))
