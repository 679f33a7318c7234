"""Part of the law of equal rewards, on divisions in advantages: they neither round to 0 nor blow up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import keys_of, parts_of
from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject

HUGE = 1e3  # a larger advantage of a reward of 1 among others of 0 was divided by almost 0
TIMES, NEAR = 10.0, 0.1  # factor of rewards; relative tolerance, as an epsilon is added to a deviation
LEVELS = 3  # least number of different advantages; fewer may be labels


def rounded_down(subject: Subject) -> Finding | None:
    """Return a finding if advantages are rounded to whole numbers.

    They are whole, equal at different rewards, and add to -1 or 1 with the advantages of negated rewards. Rounding down or up
    does so to numbers that add to 0; ranks, signs and choices do not.
    """
    if Need.VALUES in subject.needs:
        return None
    usual = _advantages(subject, fine=1.0)
    if usual is None or not _is_whole(usual[1]) or len(set(usual[1].flatten().tolist())) < LEVELS:
        return None
    part, advantages = usual
    turned = _advantages(subject, fine=-1.0)
    if turned is None or keys_of(turned[0].sequences) != keys_of(part.sequences):
        return None
    both = advantages + turned[1]
    signal = (part.rewards != part.rewards[:, :1]).any(dim=1)
    if not bool(signal.any()) or abs(float(both[signal].median())) != 1 or bool((both[signal] != both[signal].median()).any()):
        return None
    for row in torch.nonzero(signal).flatten().tolist():
        for one in range(advantages.shape[1]):
            equal = (advantages[row] == advantages[row, one]) & (part.rewards[row] != part.rewards[row, one])
            if bool(equal.any()):
                other = int(torch.nonzero(equal)[0])
                mean = float(advantages[row].mean())
                return broken(
                    f"every advantage is a whole number: rewards of {float(part.rewards[row, one]):.3g} and "
                    f"{float(part.rewards[row, other]):.3g} in one group both get {float(advantages[row, one]):g}, and the mean "
                    f"of the group is {mean:.2g}, not 0: they are rounded {'down' if float(both[row, 0]) < 0 else 'up'}",
                    number=f"{len(set(advantages.flatten().tolist()))} values",
                    where="draw",
                    example=f"rewards {listed(part.rewards[row])} -> advantages {listed(advantages[row])}",
                    mend="a / b divides; a // b divides and rounds down",
                )
    return None


def blown_up(subject: Subject) -> Finding | None:
    """Return a finding if a reward of 1 among others of 0 gets an advantage that only an epsilon keeps finite."""
    usual = None if Need.VALUES in subject.needs else _advantages(subject, equal_rewards=True, bonus=-0.5)
    texts = () if usual is None else usual[0].texts
    alone = next((text for group in texts for text in group if group.count(text) == 1), None)
    found = None if alone is None else _advantages(subject, equal_rewards=True, bonus=-0.5, rewarded=alone)
    if found is None or (largest := float(found[1].abs().max())) <= HUGE:
        return None
    part, advantages = found
    row = int(advantages.abs().amax(dim=1).argmax())
    equal = bool((part.rewards[row] == part.rewards[row, 0]).all())
    what = "equal rewards of a group give" if equal else "a reward of 1 among others of 0 gives"
    return broken(
        f"{what} an advantage of {largest:.2g}: it is divided by a deviation that is 0 there, but for its epsilon"
        + ", and is not 0 itself" * equal,
        number=f"{largest:.2g}",
        where="draw",
        example=f"rewards {listed(part.rewards[row])} -> advantages {listed(advantages[row])}",
        mend="the deviation of the others is 0 where they are all equal: give it a floor, std.clamp(min=0.1), or take that of "
        "the whole group",
    )


def divided_by_a_square(subject: Subject) -> Finding | None:
    """Return a finding if advantages of rewards that are TIMES as large are smaller in proportion."""
    found = [None if Need.VALUES in subject.needs else _advantages(subject, fine=fine) for fine in (1.0, TIMES)]
    if found[0] is None or found[1] is None or keys_of(found[0][0].sequences) != keys_of(found[1][0].sequences):
        return None
    (part, small), (_, large) = found  # type: ignore[misc]
    signal = small.abs() > NEAR * small.abs().max()
    if not bool(signal.any()) or not bool((large[signal] * TIMES / small[signal] - 1).abs().le(NEAR).all()):
        return None
    row = int(small.abs().amax(dim=1).argmax())
    return broken(
        f"rewards that are {TIMES:g} times as large have advantages of 1/{TIMES:g}: they are divided by a squared deviation",
        number=f"1/{TIMES:g}",
        where="draw",
        example=f"rewards {listed(part.rewards[row])} -> advantages {listed(small[row])}, then {listed(large[row])}",
        mend="divide by the standard deviation, rewards.std(dim=1, keepdim=True), not by the variance",
    )


def _advantages(subject: Subject, **rewards: Any) -> tuple[Any, Tensor] | None:
    """Return (the first part of a draw with advantages of completions, these advantages [P, G]); None if there is none."""
    for part in parts_of(subject.draw(subject.stand_in(spread=0.0, rewards=rewards))):
        found, own = getattr(part, "advantages", None), getattr(part, "rewards", None)
        if isinstance(found, Tensor) and isinstance(own, Tensor) and found.ndim == 2 and found.shape == own.shape:
            return part, found.double()
    return None


def _is_whole(values: Tensor) -> bool:
    return bool(values.numel()) and torch.equal(values, values.round())


def listed(values: Tensor) -> str:
    """Return the first six numbers as text."""
    return ", ".join(f"{value:.3g}" for value in values.flatten().tolist()[:6])
