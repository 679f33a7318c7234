"""What the law of directions says of names: what a hyperparameter calls a bonus is raised."""

from __future__ import annotations

from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject, row_shown
from rlx.check.variant import plain_fields, variants

BONUS = "bonus"
LEAST = 1e-12  # a slope below this is 0


def bonus_lowers(subject: Subject) -> Finding | None:
    """More of a bonus on the entropy pushes the entropy down at every token."""
    values = dict(plain_fields(subject.algorithm))
    named = [name for name, value in values.items() if BONUS in name.rpartition(".")[2].split("_") and isinstance(value, float)]
    if subject.goes_past or not named:
        return None
    laboratory = subject.stand_in()
    batch = subject.first_update(laboratory)
    if len(batch) == 0:
        return None
    for name in named:
        slopes = {}
        for algorithm in (subject.algorithm, *(other for _, other in variants(subject.algorithm, name))):
            gradient, _ = subject.with_algorithm(algorithm).gradient(laboratory, batch)
            names = laboratory.policy.leaf_names
            if "entropy" not in names:
                continue
            start = sum(len(laboratory.policy.leaves[each]) for each in names[: names.index("entropy")])
            value = dict(plain_fields(algorithm))[name]
            slopes[value] = gradient[start : start + len(laboratory.policy.leaves["entropy"])]
        if len(slopes) < 2:
            continue
        less, more = min(slopes), max(slopes)
        by = slopes[more] - slopes[less]
        if bool((by < -LEAST).any()) or not bool((by > LEAST).any()):
            continue
        return broken(
            f"{name} = {more:g} for {less:g} pushes the entropy down at {int((by > LEAST).sum())} tokens and up at none, "
            "though it is called a bonus",
            number=f"{float(by.max()):+.1e}",
            where="compute_loss",
            example=row_shown(subject, batch, 0),
            mend="a bonus enters the loss with a minus; what shall lower the entropy is a cost, and called so",
        )
    return None
