"""Part of the law of an update, on conflicting gradients: conflicts are reduced, never increased."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import torch
from torch import Tensor

from rlx.check.finding import Finding, broken
from rlx.check.law.step import moved_by, with_clip
from rlx.check.subject import Subject
from rlx.optimizer.step import Gradients

RATE = 1e-3
COSINE = 0.5  # of the angle between two gradients that agree; those which conflict have its negative
LENGTHS = ((1.0, 0.4), (0.5, 1.25))  # of both gradients
SMALLER = 0.1  # times as long both are, where lengths shall not matter
SAME = 1e-3  # difference of two coefficients that are the same
MOST_PAIRS = 3  # of terms


@dataclass(frozen=True)
class _Mixed:
    """An update that is a sum of two gradients, each times a coefficient; shorter: the place of the shorter one."""

    coefficients: tuple[float, float]
    shorter: int

    def cosine_with_shorter(self, lengths: tuple[float, float], cosine: float) -> float:
        """Of the update; cosine: of the angle between both gradients."""
        (one, other), (a, b) = self.coefficients, lengths
        mine, rest = (one, other) if self.shorter == 0 else (other, one)
        short, long = (a, b) if self.shorter == 0 else (b, a)
        norm = math.sqrt((one * a) ** 2 + (other * b) ** 2 + 2 * one * other * a * b * cosine)
        return (mine * short + rest * long * cosine) / max(norm, 1e-300)


def conflict(subject: Subject) -> Finding | None:
    """Two gradients that conflict, of two terms: neither is gone against, nor is it left worse off than in their sum.

    What is no sum of both with a coefficient for each (signs, entries) is not judged; nor is it which of the two has the lead,
    nor how long the whole is.
    """
    laboratory = subject.stand_in()
    names = list(subject.loss(laboratory, subject.first_update(laboratory)).terms)
    if (unclipped := with_clip(subject, None)) is None:
        return None
    for one, other in islice(combinations(names, 2), MOST_PAIRS):
        if (found := _of_two(unclipped, one, other)) is not None:
            return found
    return None


def _of_two(subject: Subject, one: str, other: str) -> Finding | None:
    agreeing = [_mixed(subject, (one, other), lengths, COSINE) for lengths in LENGTHS]
    opposed = [_mixed(subject, (one, other), lengths, -COSINE) for lengths in LENGTHS]
    agree, conflicting = [each for each in agreeing if each], [each for each in opposed if each]
    if len(agree) != len(LENGTHS) or len(conflicting) != len(LENGTHS):
        return None
    plain = _constant(agree)
    if plain is None:
        against = [each for each in agree if each.coefficients[each.shorter] < -SAME]
        if len(against) < len(LENGTHS) and not (against and _constant(conflicting)):
            return None
        return _said(
            f"where the gradients of {one} and {other} agree (cosine {COSINE:g}), an update goes against the shorter one "
            f"({against[0].coefficients[against[0].shorter]:.2g} times it): agreement is taken away"
        )
    if min(plain) <= SAME or _constant(conflicting) is not None:
        return None
    where = f"where the gradients of {one} and {other} conflict (cosine {-COSINE:g})"
    for each in conflicting:
        for place, name in enumerate((one, other)):
            if each.coefficients[place] < -SAME:
                return _said(
                    f"{where}, an update goes against that of {name} ({each.coefficients[place]:.2g} times it), though it goes "
                    "with both where they agree: a conflict is added to"
                )
    small = _mixed(subject, (one, other), (SMALLER * LENGTHS[0][0], SMALLER * LENGTHS[0][1]), -COSINE)
    if small is not None and not _alike(small.coefficients, conflicting[0].coefficients):
        return _said(
            f"{where} and are both {SMALLER:g} times as long, an update mixes them otherwise ({_shown(small)}, not "
            f"{_shown(conflicting[0])}), though not where they agree: what is taken away is not divided by a squared norm"
        )
    worse = 0
    for each, lengths in zip(conflicting, LENGTHS, strict=True):
        usual = _Mixed(plain, each.shorter).cosine_with_shorter(lengths, -COSINE)
        lengthened = each.coefficients[each.shorter] > plain[each.shorter] + SAME
        worse += lengthened and each.cosine_with_shorter(lengths, -COSINE) < usual - SAME
    if worse < len(LENGTHS):
        return None
    return _said(
        f"{where}, an update goes less with the shorter one than their sum does, whichever it is (coefficients "
        f"{_shown(conflicting[0])}): a conflict is added to"
    )


def _said(wrong: str) -> Finding:
    return broken(
        wrong,
        where="update_policy",
        mend="where a @ b < 0, what lies along the other gradient is taken away: a - (a @ b) / (b @ b) * b; where they agree "
        "both are added as they are",
    )


def _shown(mixed: _Mixed) -> str:
    return " and ".join(f"{value:.3g}" for value in mixed.coefficients)


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= SAME * max(1.0, abs(a)) for a, b in zip(one, other, strict=True))


def _constant(found: Sequence[_Mixed]) -> tuple[float, float] | None:
    """The coefficients, if they do not depend on which gradient is the shorter one."""
    return found[0].coefficients if _alike(found[0].coefficients, found[1].coefficients) else None


def mixes_otherwise(one: Subject, other: Subject) -> bool:
    """Whether two algorithms make another update of the gradients of two terms that conflict."""
    laboratory = one.stand_in()
    names = list(one.loss(laboratory, one.first_update(laboratory)).terms)
    for terms in islice(combinations(names, 2), MOST_PAIRS):
        for lengths in LENGTHS:
            mine, theirs = (moved_by(each, RATE, planted=_planting(terms, lengths, -COSINE, []))[0] for each in (one, other))
            if mine.shape != theirs.shape or float((mine - theirs).norm()) > SAME * float(mine.norm()):
                return True
    return False


def _planting(
    terms: Sequence[str], lengths: tuple[float, float], cosine: float, basis: list[Tensor]
) -> Callable[[Sequence[Tensor]], Mapping[str, Gradients]]:
    """What gives two terms gradients of these lengths at this angle; basis: where their plane is put down."""

    def planted(parameters: Sequence[Tensor]) -> Mapping[str, Gradients]:
        rng = torch.Generator().manual_seed(0)
        for _ in terms:
            found = torch.randn(sum(each.numel() for each in parameters), generator=rng, dtype=torch.float64)
            for known in basis:
                found = found - (found @ known) * known
            basis.append(found / found.norm())
        second = cosine * basis[0] + (1 - cosine**2) ** 0.5 * basis[1]
        sizes = [each.numel() for each in parameters]
        gradients = {}
        for name, length, whole in zip(terms, lengths, (basis[0], second), strict=True):
            pieces = zip((length * whole).split(sizes), parameters, strict=True)
            gradients[name] = [piece.reshape(each.shape).to(each) for piece, each in pieces]
        return gradients

    return planted


def _mixed(subject: Subject, terms: tuple[str, str], lengths: tuple[float, float], cosine: float) -> _Mixed | None:
    """What an update makes of two gradients of these lengths at this angle; None where it is no sum of both."""
    basis: list[Tensor] = []
    moved = moved_by(subject, RATE, planted=_planting(terms, lengths, cosine, basis))[0] / -RATE
    across = float(moved @ basis[1]) / (1 - cosine**2) ** 0.5
    along = float(moved @ basis[0]) - cosine * across
    rest = moved - float(moved @ basis[0]) * basis[0] - float(moved @ basis[1]) * basis[1]
    if float(rest.norm()) > SAME * float(moved.norm()):
        return None
    return _Mixed((along / lengths[0], across / lengths[1]), int(lengths[1] < lengths[0]))
