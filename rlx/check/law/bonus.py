"""What the law of directions says of names: what is called a bonus is raised, a penalty on lengths lowers long completions."""

from __future__ import annotations

from torch import Tensor

from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject, row_shown
from rlx.check.variant import plain_fields, variants

BONUS = "bonus"
COSTS = {"penalty", "cost", "punishment"}
LEAST = 1e-12  # a slope below this is 0


def bonus_lowers(subject: Subject) -> Finding | None:
    """More of a bonus on the entropy pushes the entropy down at every token, or more of a cost of length favours longer ones."""
    values = dict(plain_fields(subject.algorithm))
    for name, value in values.items():
        words = set(name.rpartition(".")[2].split("_"))
        if "length" in words and words & COSTS and isinstance(value, float) and (found := _favours_length(subject, name)):
            return found
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


def _favours_length(subject: Subject, name: str) -> Finding | None:
    """With more of a cost of length, the longer completions of every group have higher advantages, held against the shorter."""
    drawn = {}
    for algorithm in (subject.algorithm, *(other for _, other in variants(subject.algorithm, name))):
        twin = subject.with_algorithm(algorithm)
        batch = twin.draw(subject.stand_in(spread=0.0, rewards={"equal_rewards": True}))
        advantages, lengths = getattr(batch, "advantages", None), batch.sequences.completion_lengths.double()
        if not isinstance(advantages, Tensor) or advantages.shape != lengths.shape:
            return None
        drawn[dict(plain_fields(algorithm))[name]] = advantages.double()
    less, more = min(drawn), max(drawn)
    apart = lengths - lengths.mean(dim=1, keepdim=True)
    along = ((drawn[more] - drawn[less]) * apart).sum(dim=1)[apart.abs().amax(dim=1) > 0]
    if less == more or not len(along) or float(along.min()) <= LEAST:
        return None
    return broken(
        f"{name} = {more:g} for {less:g} raises the advantages of longer completions over those of shorter ones in all "
        f"{len(along)} groups, though it is called a cost",
        number=f"{float(along.min()):+.1e}",
        where="draw",
        example=row_shown(subject, batch, 0),
        mend="a cost of length is subtracted from the reward: rewards - length_penalty * lengths",
    )
