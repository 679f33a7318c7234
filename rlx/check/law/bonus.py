"""Part of the law of directions, on names: a bonus is increased, and a penalty lowers the completions that it names."""

from __future__ import annotations

from torch import Tensor

from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject, row_shown
from rlx.check.variant import plain_fields, variants

COSTS = {"penalty", "cost", "punishment"}
# words for completions that were truncated
CUT_OFF = {"end", "eos", "truncated", "truncation", "overlong", "unfinished", "cutoff", "cut"}
LEAST = 1e-12  # a smaller slope counts as 0


def is_bonus(name: str) -> bool:
    """Whether a hyperparameter is named as a bonus, or as an entropy coefficient, which PPO implementations add."""
    words = set(name.rpartition(".")[2].split("_"))
    return "bonus" in words or bool(words & {"entropy", "ent"} and words & {"coef", "coeff"})


def bonus_lowers(subject: Subject) -> Finding | None:
    """Return a finding if a bonus on the entropy lowers it at every token, or a cost favours the completions that it names.

    A cost is named after lengths or truncated completions.
    """
    values = dict(plain_fields(subject.algorithm))
    for name, value in values.items():
        words = set(name.rpartition(".")[2].split("_"))
        of_length = "length" in words
        costs = words & COSTS and (of_length or words & CUT_OFF) and isinstance(value, float)
        if costs and (found := _favours(subject, name, of_length=of_length)):
            return found
    named = [name for name, value in values.items() if is_bonus(name) and isinstance(value, float)]
    if subject.goes_past or not named:
        return None
    laboratory, batch = subject.stand_in_batch()
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
            "though that is the name of a bonus",
            number=f"{float(by.max()):+.1e}",
            where="compute_loss",
            example=row_shown(subject, batch, 0),
            mend="a bonus enters the loss with a minus; what shall lower the entropy is a cost, and called so: entropy_cost",
        )
    return None


def _favours(subject: Subject, name: str, *, of_length: bool) -> Finding | None:
    """Return a finding if more of a cost raises the advantages of longer, or unfinished, completions in every group."""
    drawn = {}
    for algorithm in (subject.algorithm, *(other for _, other in variants(subject.algorithm, name))):
        twin = subject.with_algorithm(algorithm)
        batch = twin.draw(subject.stand_in(spread=0.0, rewards={"equal_rewards": True}))
        advantages, finished = getattr(batch, "advantages", None), getattr(batch, "finished", None)
        if not isinstance(advantages, Tensor) or not isinstance(finished, Tensor) or advantages.shape != finished.shape:
            return None
        drawn[dict(plain_fields(algorithm))[name]] = advantages.double()
    less, more = min(drawn), max(drawn)
    costly = batch.sequences.completion_lengths.double() if of_length else 1 - batch.finished.double()
    apart = costly - costly.mean(dim=1, keepdim=True)
    along = ((drawn[more] - drawn[less]) * apart).sum(dim=1)[apart.abs().amax(dim=1) > 0]
    if less == more or not len(along) or float(along.min()) <= LEAST:
        return None
    what, others = ("longer", "shorter") if of_length else ("unfinished", "finished")
    short, measure = name.rpartition(".")[2], "lengths" if of_length else "~finished"
    return broken(
        f"{name} = {more:g} for {less:g} raises the advantages of {what} completions over those of {others} ones in all "
        f"{len(along)} groups, though it is called a cost",
        number=f"{float(along.min()):+.1e}",
        where="draw",
        example=row_shown(subject, batch, 0),
        mend=f"a cost is subtracted from the reward: rewards - {short} * {measure}",
    )
