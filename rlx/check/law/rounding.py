"""What the law of equal rewards says of advantages that are whole numbers: no division has rounded them down."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import keys_of
from rlx.check.subject import Subject

LEVELS = 3  # that advantages have: fewer may say what is chosen


def rounded_down(subject: Subject) -> Finding | None:
    """Advantages are whole numbers, equal where rewards differ, and add to -1 with those of the rewards turned round.

    That is what rounding down does to numbers which would add to 0; ranks, signs and choices do no such thing.
    """
    if Need.VALUES in subject.needs:
        return None
    usual = _advantages(subject, turned=False)
    if usual is None or not _is_whole(usual[1]) or len(set(usual[1].flatten().tolist())) < LEVELS:
        return None
    part, advantages = usual
    turned = _advantages(subject, turned=True)
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
                    example=f"rewards {_listed(part.rewards[row])} -> advantages {_listed(advantages[row])}",
                    mend="a / b divides; a // b divides and rounds down",
                )
    return None


def _advantages(subject: Subject, *, turned: bool) -> tuple[Any, Tensor] | None:
    """(the first part of a draw that has advantages of completions, those [P, G]), for rewards that all differ."""
    for part in parts_of(subject.draw(subject.stand_in(spread=0.0, rewards={"fine": -1.0 if turned else 1.0}))):
        found, rewards = getattr(part, "advantages", None), getattr(part, "rewards", None)
        if isinstance(found, Tensor) and isinstance(rewards, Tensor) and found.ndim == 2 and found.shape == rewards.shape:
            return part, found.double()
    return None


def _is_whole(values: Tensor) -> bool:
    return bool(values.numel()) and torch.equal(values, values.round())


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values.tolist()[:6])
