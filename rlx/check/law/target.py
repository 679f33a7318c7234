"""Part of the law of directions, on targets of a margin: a larger target asks for more, a larger beta for less."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.exact.expectation import is_beta
from rlx.check.finding import Finding, broken
from rlx.check.subject import Subject
from rlx.check.variant import plain_fields, variants

TARGETS = {"margin", "gamma", "target"}  # words in the names of what a margin must exceed
FAR = 1e3  # nats a token by which a policy prefers the rejected completions
LEANINGS = (1.0, 2.0, 4.0)  # nats a token by which it prefers the chosen ones; each is twice the one before
SAME = 1e-2  # relative difference of gradients that count as equal
STRAIGHT = 1e-6
FLAT = 1e-6
# (subject, side that the policy prefers, by how many nats a token) -> (loss, gradient, its sum: chosen less rejected tokens)
Leaning = Callable[[Subject, int, float], tuple[float, Tensor, float]]


def of_targets(subject: Subject, leaning: Leaning) -> Finding | None:
    """Return a finding if a target lowers what is asked of a margin, or if a beta raises the margin that a square is about."""
    values = {name: value for name, value in plain_fields(subject.algorithm) if isinstance(value, float) and value > 0}
    for name, value in values.items():
        if set(name.rpartition(".")[2].split("_")) & TARGETS and (found := _asks_for_less(subject, leaning, name, value)):
            return found
    betas = {name: value for name, value in values.items() if is_beta(name)}
    if Need.REFERENCE not in subject.needs or not betas:
        return None
    usual = _straight(subject, leaning)
    for name, value in betas.items() if usual is not None else ():
        shifts = []
        for _, other in variants(subject.algorithm, name):
            its = _straight(subject.with_algorithm(other), leaning)
            by = dict(plain_fields(other))[name] - value
            if usual is None or its is None or abs(its[1] - usual[1]) > STRAIGHT * usual[1] or not by:
                break
            shifts.append((its[0] - usual[0]) / by)
        else:
            if shifts and all(shift < -FLAT for shift in shifts):
                return broken(
                    f"the margin that the square is about rises with {name}, which holds the policy to its reference: the more "
                    "so, the smaller is the margin that is asked for",
                    number=f"{shifts[0]:+.1e}",
                    where="compute_loss",
                    mend="IPO's target is 1 / (2 * beta), with its brackets: 1 / 2 * beta is beta / 2",
                )
    return None


def _asks_for_less(subject: Subject, leaning: Leaning, name: str, value: float) -> Finding | None:
    """Return a finding if, far behind any target, a larger one lowers the loss and changes no gradient."""
    loss, gradient, _ = leaning(subject, 1, FAR)
    scale = float(gradient.abs().max()) if gradient.numel() else 0.0
    for _, other in variants(subject.algorithm, name):
        by = dict(plain_fields(other))[name] - value
        moved, its, _ = leaning(subject.with_algorithm(other), 1, FAR)
        if not scale or float((its - gradient).abs().max()) > SAME * scale or (moved - loss) / by >= -FLAT:
            return None
    return broken(
        f"where the policy prefers the rejected completions, {name} = {by + value:g} for {value:g} changes the loss by "
        f"{moved - loss:+.3g} and no gradient: the larger the target, the less is asked of a margin",
        number=f"{(moved - loss) / by:+.2g}",
        where="compute_loss",
        mend="a target is taken away from the margin: -log sigmoid(beta * margin - target)",
    )


def _straight(subject: Subject, leaning: Leaning) -> tuple[float, float] | None:
    """Return (slope of the loss along the preference of chosen ones, how it rises with it); None if it is not linear in it."""
    slopes = [leaning(subject, 0, by)[2] for by in LEANINGS]
    rise = slopes[1] - slopes[0]
    if rise <= FLAT or abs(slopes[2] - slopes[1] - 2 * rise) > STRAIGHT * rise:
        return None
    return slopes[0], rise
