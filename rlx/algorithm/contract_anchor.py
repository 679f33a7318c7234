"""The law of a reference that a policy is held near to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlx.algorithm.base import AlgorithmType, Need
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Subject, row_shown

DRIFT = 0.5  # nats a token by which the policy likes its completions better than the reference does
FLAT = 1e-6


@dataclass(frozen=True)
class _Found:
    """The loss, its slope along the policy's log-probabilities and along its KL over the vocabulary, and a row to show."""

    loss: float
    slope: float
    kl_slope: float
    shown: str


def anchor(subject: Subject) -> Finding:
    """Drifting away from the reference lowers neither a term that is level there nor, where all rewards are equal, the loss."""
    if (found := _bends_down(subject)) is not None:
        return found
    if not {Need.REWARDS, Need.REFERENCE} <= subject.needs or Need.PAIRS in subject.needs:
        return holds("no term") if Need.REFERENCE in subject.needs else skipped("nothing is held near a reference")
    if subject.goes_past or subject.algorithm.kind is AlgorithmType.PREFERENCE_LEARNING:
        return skipped("the reference is part of a preference, or read by the model itself")
    near, far = _at(subject, 0.0), _at(subject, DRIFT)
    if near is None or far is None:
        return skipped("groups whose rewards are all equal are not learned from")
    rise, slope = far.loss - near.loss, far.slope - near.slope
    mend = "a KL to the reference is added to the loss: + beta * kl, with kl = exp(r) - r - 1 and r = reference - policy"
    if rise < -FLAT and slope <= FLAT:
        return broken(
            f"a policy {DRIFT} nats a token above its reference has a loss lower by {-rise:.2e} than one that equals it",
            number=f"{rise:+.1e}",
            where="compute_loss, or the rewards that draw makes",
            example=far.shown,
            mend=mend,
        )
    if far.kl_slope < -FLAT:
        return broken(
            f"raising the KL to the reference lowers the loss (slope {far.kl_slope:+.2e}, it must not be negative)",
            number=f"{far.kl_slope:+.1e}",
            where="compute_loss",
            example=far.shown,
            mend=mend,
        )
    return holds(f"{rise:+.1e}")


def _bends_down(subject: Subject) -> Finding | None:
    """A term whose slope is 0 where the policy is its reference, and that falls on both sides of it."""
    if Need.REFERENCE not in subject.needs or subject.goes_past:
        return None
    setting = subject.stand_in(spread=0.0, depth=DRIFT)
    batch = subject.first_update(setting)
    if len(batch) == 0:
        return None
    here = subject.loss(setting, batch).terms
    leaf = setting.policy.leaves.get("token_logprobs")
    if leaf is None:
        return None
    before = leaf.detach().clone()
    sides = []
    for drift in (DRIFT, -DRIFT):
        with torch.no_grad():
            leaf.copy_(before + drift)
        sides.append(subject.loss(setting, batch).terms)
    with torch.no_grad():
        leaf.copy_(before)
    for name, term in here.items():
        fall = float(term.total.detach()) - max(float(side[name].total.detach()) for side in sides if name in side)
        if fall <= FLAT or not term.total.requires_grad:
            continue
        (slope,) = torch.autograd.grad(term.total, leaf, allow_unused=True)
        if slope is None or float(slope.abs().max()) <= FLAT:
            return broken(
                f"term {name} falls by {fall:.2e} whichever way the policy leaves its reference: it rewards drift",
                number=f"{-fall:.1e}",
                where=f"terms[{name!r}]",
                example=row_shown(subject, batch, 0),
                mend="a distance to the reference is made small: it enters the loss with a plus",
            )
    return None


def _at(subject: Subject, drift: float) -> _Found | None:
    setting = subject.stand_in(spread=0.0, equal_rewards=True, drift=drift)
    batch = subject.first_update(setting)
    if len(batch) == 0:
        return None
    gradient, figures = subject.gradient(setting, batch)
    names = setting.policy.leaf_names
    parts = dict(zip(names, torch.split(gradient, [len(setting.policy.leaves[name]) for name in names]), strict=True))
    slopes = {name: float(parts[name].sum()) if name in parts else 0.0 for name in ("token_logprobs", "kl_to_reference")}
    return _Found(figures["loss"], slopes["token_logprobs"], slopes["kl_to_reference"], row_shown(subject, batch, 0))
