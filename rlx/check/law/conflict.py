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
COSINE = 0.5  # of the angle between two gradients that agree; conflicting ones have -COSINE
LENGTHS = ((1.0, 0.4), (0.5, 1.25))  # lengths of the two gradients
SMALLER = 0.1  # factor of both lengths, which must have no effect
SAME = 1e-3  # largest difference of coefficients that count as equal
MOST_PAIRS = 3  # pairs of terms that are tried


@dataclass(frozen=True)
class _Mixed:
    """An update that is a sum of two gradients, each times its coefficient; shorter: the index of the shorter gradient."""

    coefficients: tuple[float, float]
    shorter: int

    def cosine_with_shorter(self, lengths: tuple[float, float], cosine: float) -> float:
        """Return the cosine of the update with the shorter gradient. cosine: of the angle between the two gradients."""
        (one, other), (a, b) = self.coefficients, lengths
        mine, rest = (one, other) if self.shorter == 0 else (other, one)
        short, long = (a, b) if self.shorter == 0 else (b, a)
        norm = math.sqrt((one * a) ** 2 + (other * b) ** 2 + 2 * one * other * a * b * cosine)
        return (mine * short + rest * long * cosine) / max(norm, 1e-300)


def conflict(subject: Subject) -> Finding | None:
    """Return a finding if an update increases a conflict between the gradients of two terms.

    It does so if it moves against one of them, or less along the shorter one than their sum does. An update that is not a
    weighted sum of both (of signs, say) is not judged, nor are which of the two dominates and the length of the update.
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
    """Return the coefficients if they do not depend on which gradient is the shorter one, else None."""
    return found[0].coefficients if _alike(found[0].coefficients, found[1].coefficients) else None


def mixes_otherwise(one: Subject, other: Subject) -> bool:
    """Whether two algorithms make different updates from conflicting gradients of two terms."""
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
    """Return a function that gives two terms gradients of these lengths at this angle; their plane's basis goes to `basis`."""

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
    """Return the update made from two gradients of these lengths at this angle; None if it is not a weighted sum of them."""
    basis: list[Tensor] = []
    moved = moved_by(subject, RATE, planted=_planting(terms, lengths, cosine, basis))[0] / -RATE
    across = float(moved @ basis[1]) / (1 - cosine**2) ** 0.5
    along = float(moved @ basis[0]) - cosine * across
    rest = moved - float(moved @ basis[0]) * basis[0] - float(moved @ basis[1]) * basis[1]
    if float(rest.norm()) > SAME * float(moved.norm()):
        return None
    return _Mixed((along / lengths[0], across / lengths[1]), int(lengths[1] < lengths[0]))
