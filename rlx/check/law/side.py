"""Part of the law of directions, on hyperparameters named after a side: they affect only that side."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from torch import Tensor

from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject, completion_gradients
from rlx.check.variant import plain_fields, variants
from rlx.data.preferences import PairBatch

ANTONYMS = {  # name of the better side -> name of the worse side
    "chosen": "rejected",
    "desirable": "undesirable",
    "preferred": "dispreferred",
    "positive": "negative",
    "winner": "loser",
    "winning": "losing",
    "win": "lose",
    "good": "bad",
    "better": "worse",
    "best": "worst",
}
WEIGHTS = {"weight", "scale", "coef", "coefficient"}  # words for factors of a side
TIMES = 1.5  # factor of a changed weight
FELT = 1e-9  # relative change, more than rounding


def opposite(name: str) -> str | None:
    """Return the corresponding name of the worse side, chosen_weight -> rejected_weight; None if no better side is named."""
    for better, worse in ANTONYMS.items():
        changed, count = re.subn(rf"(?<![a-z]){better}(?![a-z])", worse, name)
        if count:
            return changed
    return None


def sides_exchanged(subject: Subject) -> Finding | None:
    """Return a finding if each of two numbers named after the sides of a pair affects only the other side's gradient.

    The sides are chosen and rejected completions; in rollouts, completions with positive and with negative advantages.
    """
    if subject.goes_past:
        return None
    for (name, felt), (other, elsewhere) in [*_weights(subject), *_hyperparameters(subject)]:
        if felt == (False, True) and elsewhere in ((True, False), (False, False)):
            what = "changes only the other one" if any(elsewhere) else "changes nothing"
            return broken(
                f"{name} changes nothing about what completions of the side that it is named after are taught, only about those "
                f"of the other one; {other} {what}",
                where="compute_loss",
                mend=f"multiply the side that is preferred by {name}, and the other one by {other}",
            )
    for name, side, felt in _alone(subject):
        if felt == (side == 1, side == 0):
            return broken(
                f"{name} changes nothing about what completions of the side that it is named after are taught, only about those "
                "of the other one",
                where="compute_loss",
                mend=f"multiply the side that is {'preferred' if side == 0 else 'not preferred'} by {name}",
            )
    return None


Felt = tuple[bool, bool]  # whether a change affects the better side, and the worse side
Pair = tuple[tuple[str, Felt], tuple[str, Felt]]


def _weights(subject: Subject) -> list[Pair]:
    """Return the effects of weights that draw made for pairs and named after the sides."""
    if not subject.reads_pairs:
        return []
    laboratory, batch = subject.stand_in_batch()
    names = [(name, opposite(name)) for name in (batch.weights if isinstance(batch, PairBatch) else ())]
    both = [(name, other) for name, other in names if other in batch.weights] if names else []
    if not both or not isinstance(laboratory.policy, StandInPolicy):
        return []
    before = _slopes(subject, laboratory, batch)

    def felt(name: str) -> Felt:
        more = batch.with_weights(**{name: TIMES * batch.weights[name]})
        return _felt(batch, before, _slopes(subject, laboratory, more))

    return [((f"batch.weights[{one!r}]", felt(one)), (f"batch.weights[{two!r}]", felt(two))) for one, two in both if two]


def _hyperparameters(subject: Subject) -> list[Pair]:
    """Return the effects of hyperparameters that are named after the sides."""
    values = {name: value for name, value in plain_fields(subject.algorithm) if isinstance(value, float)}
    both = [(name, other) for name in values if (other := opposite(name)) in values]
    found: list[Pair] = []
    for names in both:
        changed = [next(islice((made for _, made in variants(subject.algorithm, name)), 1), None) for name in names]
        felt = [None if twin is None else _felt_by(subject, twin) for twin in changed]
        if felt[0] is not None and felt[1] is not None and any(felt[1]):  # a value without an effect shows nothing
            found.append(((names[0], felt[0]), (names[1], felt[1])))
    return found


def _alone(subject: Subject) -> list[tuple[str, int, Felt]]:
    """Return (name, side, effect) of weights that are named after one side, where no weight is named after the other."""
    values = {name: value for name, value in plain_fields(subject.algorithm) if isinstance(value, float)}
    found = []
    for name in values:
        words = name.rpartition(".")[2].split("_")
        sides = [side for side, named in enumerate(({*ANTONYMS}, {*ANTONYMS.values()})) for word in words if word in named]
        if (
            len(sides) != 1
            or not WEIGHTS & {*words}
            or opposite(name) in values
            or any(opposite(each) == name for each in values)
        ):
            continue
        changed = next(islice((made for _, made in variants(subject.algorithm, name)), 1), None)
        felt = None if changed is None else _felt_by(subject, changed)
        found += [] if felt is None else [(name, sides[0], felt)]
    return found


def _felt_by(subject: Subject, algorithm: Any) -> Felt | None:
    """Return which sides another algorithm affects by its draw and loss; None if it draws another number of rows."""
    laboratory, batch = subject.stand_in_batch()
    before = _slopes(subject, laboratory, batch)
    twin = subject.with_algorithm(algorithm)
    other = twin.stand_in()
    again = twin.first_update(other)
    if not isinstance(laboratory.policy, StandInPolicy) or len(batch) != len(again):
        return None
    return _felt(batch, before, _slopes(twin, other, again))


def _slopes(subject: Subject, laboratory: Laboratory, batch: Any) -> list[list[Tensor]]:
    """Return for every row of all parts the gradient at the tokens of each completion."""
    gradient, _ = subject.gradient(laboratory, batch)
    return [row for part in parts_of(batch) for row in completion_gradients(laboratory, part, gradient)]


def _felt(batch: Any, before: list[list[Tensor]], after: list[list[Tensor]]) -> Felt:
    felt = [False, False]
    scale = max((float(each.abs().max()) for row in before for each in row if len(each)), default=0.0)
    for sides, *rows in zip(_sides(batch), before, after, strict=True):
        for side, one, two in zip(sides, *rows, strict=True):
            if side is not None and one.shape == two.shape and len(one):
                felt[side] |= float((one - two).abs().max()) > FELT * scale
    return felt[0], felt[1]


def _sides(batch: Any) -> list[list[int | None]]:
    """Return for every row and completion: 0 for the better side, 1 for the worse one, None for neither."""
    found: list[list[int | None]] = []
    for part in parts_of(batch):
        advantages = getattr(part, "advantages", None)
        for row, group in enumerate(part.sequences.completions):
            if isinstance(advantages, Tensor):
                each = [float(advantages[row, column].sum()) for column in range(len(group))]
                found.append([None if value == 0 else int(value < 0) for value in each])
            else:
                found.append([0, 1] if len(group) == 2 else [None] * len(group))
    return found
