"""What the law of draws says of schedules: a weight that changes with the step keeps its sign, and ends somewhere."""

from __future__ import annotations

from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject

LATER = (10, 100, 1000, 100_000)  # steps
GROWN = 30.0  # times as large, from the step before the last to the last one: in proportion to the step it is 100 times


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


def grows_without_end(subject: Subject) -> Finding | None:
    """The weights of a term do not grow with the step for ever."""
    before, last = LATER[-2:]
    levels = {step: _weights(subject, step) for step in (before, last)}
    for name, (_, high) in levels[last].items():
        earlier = levels[before].get(name, (0.0, 0.0))[1]
        if earlier > 0 and high > GROWN * earlier:
            return broken(
                f"the weights of the term {name} grow without an end: up to {earlier:.3g} at step {before}, {high:.3g} at step "
                f"{last}",
                number=f"{high:.2g}",
                where="the weights that draw makes",
                mend="a schedule ends where it shall: min(1.0, (lab.step + 1) / steps); max(...) or // never stop it",
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
