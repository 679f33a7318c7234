"""What the law of draws says of steps: a weight that changes with the step keeps its sign, and random numbers are new ones."""

from __future__ import annotations

from typing import Any

from rlx.check.finding import Finding, broken
from rlx.check.law.scale import rows_of
from rlx.check.place import streams_used
from rlx.check.subject import Subject, row_shown

LATER = (10, 100, 1000, 100_000)  # steps
NEAR = 0.02  # of all rows, by which chances that have moved since the last draw move a choice
MANY = 8  # draws that a task holds


def turns_negative(subject: Subject) -> Finding | None:
    """The weights of a term, none of which is negative at first, are not negative at a later step."""
    first = _weights(subject, 0)
    if not first or any(low < 0 for low, _ in first.values()):
        return None
    for step in LATER:
        for name, (low, high) in _weights(subject, step).items():
            if low < 0 >= high and first.get(name, (0.0, 0.0))[1] > 0:
                return broken(
                    f"the weights of the term {name} are positive at step 0 (up to {first[name][1]:.3g}) and negative at step "
                    f"{step} (down to {low:.3g}): there it unlearns what it has taught",
                    number=f"{low:.2g}",
                    where="the weights that draw makes",
                    mend="a schedule ends where it shall: max(0.0, 1 - lab.step / steps), min(1.0, lab.step / steps)",
                )
    return None


def _weights(subject: Subject, step: int) -> dict[str, tuple[float, float]]:
    """Term -> (the smallest, the largest of its weights times its coefficient)."""
    laboratory = subject.stand_in()
    batch = subject.first_update(laboratory, step=step)
    if len(batch) == 0:
        return {}
    found = {}
    for name, term in subject.loss(laboratory, batch).terms.items():
        weights = term.coefficient * term.weights.detach()
        found[name] = (float(weights.min()), float(weights.max())) if weights.numel() else (0.0, 0.0)
    return found


def same_random_numbers(subject: Subject) -> Finding | None:
    """The rows that a draw chooses at random come again in the next one, as the same random numbers choose them."""
    drawn: list[Any] = []
    used = []
    laboratory = subject.stand_in()
    for step in (0, 1):
        used.append(streams_used(lambda step=step: drawn.append(subject.draw(laboratory, step=step))))  # type: ignore[misc]
    if not used[0] or used[0] != used[1]:
        return None
    rows = [rows_of(batch) for batch in drawn]
    most = max(len(subject.small_task.pairs()) if "pairs" in subject.small_task.offers else 0, 0)
    most = max(most, len(subject.small_task.prompts()) if "rewards" in subject.small_task.offers else 0)
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
