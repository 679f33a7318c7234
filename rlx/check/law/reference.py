"""Laws of the reference: each side of a pair is compared with it, and a penalty pulls the policy towards it, not away."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.check.batch import at, key_of, parts_of
from rlx.check.exact.expectation import is_beta
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.subject import Laboratory, Subject, completion_gradients, losses_of, row_shown
from rlx.check.variant import plain_fields, variants

RAISED = 0.05  # nats a token by which reference log-probabilities change
NUDGED = 1e-3  # nats a token, where slopes are compared
DRIFT = 0.5  # nats a token by which the policy's log-probabilities exceed the reference's
UNREAD = 1e-9  # a smaller slope counts as 0
FLAT = 1e-6
FEW_ROWS = 6  # rows whose slopes are computed singly
ROUNDED = 1e-3  # change of an advantage: if all rewards are 0, whitening amplifies rounding errors to this size
AVERAGED = 0.02  # relative error of a difference over NUDGED nats a token, at most
SIDES = ("chosen", "rejected")
MEND = "hold each side to its own: (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)"


def reference(subject: Subject) -> Finding:
    """Raising the reference's log-probabilities of a completion does the opposite of raising the policy's."""
    if Need.REFERENCE not in subject.needs or subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING:
        return skipped("no preference is held to a reference")
    if subject.goes_past:
        return skipped("the loss reads the model itself, whose numbers cannot be set")
    laboratory, batch = subject.stand_in_batch(spread=0.0)
    pairs = [part for part in parts_of(batch) if part.sequences.group_size == 2 and not hasattr(part, "rewards")]
    if not pairs:
        return skipped("the batch holds no pairs")
    gradient, _ = subject.gradient(laboratory, batch)
    ours = [_slope(laboratory, pairs, gradient, side) for side in (0, 1)]
    theirs = [_reference_slope(subject, laboratory, batch, pairs, side) for side in (0, 1)]
    for side, name in enumerate(SIDES):
        unread = abs(theirs[side]) <= UNREAD < abs(theirs[1 - side])
        if abs(ours[side]) <= UNREAD or not (unread or ours[side] * theirs[side] > UNREAD**2):
            continue
        if _is_in_a_constant(subject, laboratory, batch, pairs, side, ours[side], theirs[side]):
            continue
        what = "change nothing, those of the other side do" if unread else "move the loss the same way as the policy's"
        return broken(
            f"the reference's log-probabilities of {name} completions {what}",
            number=f"{theirs[side]:+.1e}",
            where="compute_loss",
            example=row_shown(subject, pairs[0], 0),
            mend=MEND,
        )
    losses = [loss for _, loss in losses_of(subject.algorithm)]
    if losses and all(loss.needs_reference for loss in losses) and max(map(abs, theirs)) <= UNREAD < max(map(abs, ours)):
        return broken(
            "neither side's log-probabilities of the reference change the loss, which says that it needs them",
            number="0",
            where="compute_loss",
            example=row_shown(subject, pairs[0], 0),
            mend=f"{MEND}; a loss without a reference reads policy_margin, chosen_logprob, ...",
        )
    return (
        _averaged(subject, laboratory, batch, pairs, gradient)
        or _beta_on_one(subject, laboratory, batch, pairs, ours)
        or passed(", ".join(f"{slope:+.1e}" for slope in theirs))
    )


def _slope(laboratory: Laboratory, pairs: list[Any], gradient: Tensor, side: int) -> float:
    """Return the slope of the loss along the policy's log-probabilities of one side, the same for each token."""
    rows = (row for part in pairs for row in completion_gradients(laboratory, part, gradient))
    return float(sum(row[side].sum() for row in rows))


def _reference_slope(
    subject: Subject, laboratory: Laboratory, batch: Any, pairs: list[Any], side: int, *, by: float = RAISED
) -> float:
    """Return the same slope along the reference's log-probabilities, as a difference quotient from -by to +by."""
    rows = [row for part in pairs for row in zip(part.sequences.prompts, part.sequences.completions, strict=True)]
    losses = []
    for raised in (-by, by):
        twin = copy.copy(laboratory.reference)
        twin.raised = {key_of(prompt, group[side]): raised for prompt, group in rows}
        losses.append(float(subject.algorithm.compute_loss(laboratory.policy, twin, batch).loss.detach()))
    return (losses[1] - losses[0]) / (2 * by)


def _is_in_a_constant(
    subject: Subject, laboratory: Laboratory, batch: Any, pairs: list[Any], side: int, ours: float, theirs: float
) -> bool:
    """Whether the reference is subtracted wherever the loss reads the policy, or where it holds that constant.

    A weight or a target may be made of the margin, and held constant.
    """
    leaf, losses = laboratory.policy.leaves["token_logprobs"], []
    places = torch.cat([g[side] for part in pairs for g in completion_gradients(laboratory, part, torch.arange(len(leaf)))])
    for by in (-NUDGED, 0.0, NUDGED):
        with at(leaf, leaf.detach()[places] + by, places):
            losses.append(float(subject.loss(laboratory, batch).loss.detach()))
    moves = (losses[2] - losses[0]) / (2 * NUDGED)  # with constants
    bends = abs(losses[2] - 2 * losses[1] + losses[0]) > AVERAGED * abs(losses[2] - losses[0])  # as a hinge does
    return min(abs(moves - ours + theirs), math.inf if bends else abs(moves + theirs)) < AVERAGED * abs(theirs)


def _averaged(subject: Subject, laboratory: Laboratory, batch: Any, pairs: list[Any], gradient: Tensor) -> Finding | None:
    """Return a finding if one of a chosen completion's two log-probabilities is a sum over its tokens, the other a mean."""
    shares: list[float] = []
    lengths: list[int] = []
    for part in pairs:
        for row, group in enumerate(completion_gradients(laboratory, part, gradient)):
            if len(shares) == FEW_ROWS or len(group[0]) < 2:
                continue
            own = float(group[0].sum())
            theirs = _reference_slope(subject, laboratory, batch, [part[row : row + 1]], 0, by=NUDGED)
            if abs(own) > UNREAD and abs(theirs) > UNREAD:
                shares.append(-theirs / own)
                lengths.append(len(group[0]))
    if len(set(lengths)) < 2:
        return None
    for what, power in (
        ("reference's is a mean over its tokens, the policy's a sum", -1),
        ("policy's is a mean over its tokens, the reference's a sum", 1),
    ):
        if all(abs(share / length**power - 1) < AVERAGED for share, length in zip(shares, lengths, strict=True)):
            return broken(
                f"of the two log-probabilities of a chosen completion the {what} (their slopes are as {shares[0]:.3g} to 1 at "
                f"{lengths[0]} tokens, {shares[1]:.3g} to 1 at {lengths[1]})",
                number=f"{shares[0]:.3g}",
                where="compute_loss",
                example=row_shown(subject, pairs[0], 0),
                mend="take sums on both sides of a log-ratio, or means: ours.chosen_sum - theirs.chosen_sum",
            )
    return None


def _beta_on_one(subject: Subject, laboratory: Laboratory, batch: Any, pairs: list[Any], ours: list[float]) -> Finding | None:
    """Return a finding if beta multiplies the policy's log-probabilities of both sides, but not the reference's."""
    betas = {name: value for name, value in plain_fields(subject.algorithm) if is_beta(name) and isinstance(value, float)}
    betas = {name: value for name, value in betas.items() if abs(value - 1) > AVERAGED and value > 0}
    if not betas or min(map(abs, ours)) <= UNREAD:
        return None
    shares = [-_reference_slope(subject, laboratory, batch, pairs, side, by=NUDGED) / ours[side] for side in (0, 1)]
    name = next((name for name, beta in betas.items() if all(abs(share * beta - 1) < AVERAGED for share in shares)), None)
    if name is None:
        return None
    return broken(
        f"the reference's log-probabilities count {shares[0]:.3g} times as much as the policy's: {name} = {betas[name]:g} "
        "multiplies the policy's alone, so that a policy which equals its reference has a margin",
        number=f"{shares[0]:.3g}",
        where="compute_loss",
        example=row_shown(subject, pairs[0], 0),
        mend="beta multiplies the difference of both: beta * (policy_margin - reference_margin)",
    )


@dataclass(frozen=True)
class _AtDrift:
    """The loss, its slopes along the policy's log-probabilities and along the KL over the vocabulary, and an example row."""

    loss: float
    slope: float
    kl_slope: float
    shown: str


def anchor(subject: Subject) -> Finding:
    """Moving away from the reference lowers neither a term that is flat there nor, if all rewards are equal, the loss."""
    if (
        found := _bends_down(subject)
        or _drives_away(subject)
        or _follows_something_else(subject)
        or _counted_twice(subject)
        or _times_advantage(subject)
    ) is not None:
        return found
    if not {Need.REWARDS, Need.REFERENCE} <= subject.needs or subject.reads_pairs:
        return passed("no term") if Need.REFERENCE in subject.needs else skipped("nothing is held near a reference")
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
    return passed(f"{rise:+.1e}")


def _follows_something_else(subject: Subject) -> Finding | None:
    """Return a finding if, at rewards of 0, another reference does not change the gradient of a penalty."""
    if not {Need.REWARDS, Need.REFERENCE} <= subject.needs or subject.reads_pairs or subject.goes_past:
        return None
    if subject.algorithm.kind is AlgorithmType.PREFERENCE_LEARNING:
        return None
    losses, gradients = [], []
    for drift in (0.0, DRIFT):
        laboratory, batch = subject.stand_in_batch(drift=drift, rewards={"equal_rewards": True, "bonus": -0.5})
        if len(batch) == 0:
            return None
        gradient, figures = subject.gradient(laboratory, batch)
        leaf = laboratory.policy.leaves.get("token_logprobs")
        gradients.append(gradient[: 0 if leaf is None else len(leaf)])
        losses.append(figures["loss"])
    if not len(gradients[0]) or float(gradients[0].abs().max()) <= FLAT:
        return None
    if float((gradients[0] - gradients[1]).abs().max()) > FLAT * float(gradients[0].abs().max()):
        return None
    shown = row_shown(subject, batch, 0)
    mend = "a penalty that draws to the reference is r ** 2 / 2 (k2) or exp(r) - r - 1 (k3) with r = reference - policy"
    if abs(losses[0] - losses[1]) > FLAT:
        return broken(
            "another reference changes the loss, but no gradient: that of a log-probability alone is 0 on average over what the "
            "policy samples, so that nothing draws it to the reference",
            number=f"{losses[1] - losses[0]:+.1e}",
            where="compute_loss",
            example=shown,
            mend=f"{mend}; k1 = policy - reference belongs into the reward",
        )
    if Need.VALUES in subject.needs:
        return None
    moved = batch.with_values(sampling_logprobs=torch.where(batch.completion_mask, batch.sampling_logprobs - 0.1, 0.0))
    off = float((subject.gradient(laboratory, moved)[0][: len(gradients[1])] - gradients[1]).abs().max())
    if off <= FLAT * float(gradients[1].abs().max()):
        return None
    return broken(
        "where all rewards are 0, the gradient of a penalty is left; another reference does not change it, other sampling "
        "log-probabilities do: it draws the policy to its sampler, not to the reference",
        number=f"{off:.1e}",
        where="compute_loss",
        example=shown,
        mend=f"{mend}, both of reference.token_logprobs(...), not batch.sampling_logprobs",
    )


def _bends_down(subject: Subject) -> Finding | None:
    """Return a finding if a term has slope 0 at policy = reference and falls on both sides."""
    if Need.REFERENCE not in subject.needs or subject.goes_past:
        return None
    laboratory, batch = subject.stand_in_batch(spread=0.0, depth=DRIFT)
    if len(batch) == 0:
        return None
    here = subject.loss(laboratory, batch).terms
    leaf = laboratory.policy.leaves.get("token_logprobs")
    if leaf is None:
        return None
    sides = []
    for drift in (DRIFT, -DRIFT):
        with at(leaf, leaf.detach() + drift):
            sides.append(subject.loss(laboratory, batch).terms)
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


def _drives_away(subject: Subject) -> Finding | None:
    """Return a finding if the KL over the vocabulary is raised wherever it has a gradient."""
    if Need.REFERENCE not in subject.needs or subject.goes_past:
        return None
    laboratory, batch = subject.stand_in_batch()
    if len(batch) == 0:
        return None
    gradient, _ = subject.gradient(laboratory, batch)
    names = laboratory.policy.leaf_names
    parts = zip(names, torch.split(gradient, [len(laboratory.policy.leaves[name]) for name in names]), strict=True)
    slopes = torch.cat([gradient[:0], *(part for name, part in parts if name.startswith("kl_"))])
    if not bool((slopes < -UNREAD).any()) or bool((slopes > UNREAD).any()):
        return None
    return broken(
        f"the KL to the reference is raised at {int((slopes < -UNREAD).sum())} tokens (slope {float(slopes.min()):+.1e}) and "
        "lowered at none: the policy is driven away from its reference",
        number=f"{float(slopes.min()):+.1e}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="a KL enters the loss with a plus; of a difference of two, stop the gradient of the one that would be raised",
    )


def _counted_twice(subject: Subject) -> Finding | None:
    """Return a finding if a penalty's weight acts both on the advantages that draw makes and on the loss of a batch."""
    if not {Need.REWARDS, Need.REFERENCE} <= subject.needs or subject.reads_pairs or subject.goes_past:
        return None
    first = dict(reversed(list(variants(subject.algorithm))))
    for name in (name for name in first if is_beta(name)):
        acts = []
        for spread, rewards in ((0.0, {"equal_rewards": True, "bonus": -0.5}), (DRIFT, {})):
            laboratory = subject.stand_in(spread=spread, rewards=rewards)
            kept = copy.deepcopy(laboratory.state)
            batch = subject.first_update(laboratory)
            laboratory.state.clear()
            laboratory.state.update(kept)  # excludes changes of a coefficient from draw to draw
            other = subject.with_algorithm(first[name]).first_update(laboratory)
            one, two = (getattr(each, "advantages", None) for each in (batch, other))
            if not isinstance(one, Tensor) or not isinstance(two, Tensor) or one.shape != two.shape or not one.numel():
                return None
            drawn = float((one - two).abs().max())
            mine, _ = subject.gradient(laboratory, batch)
            same = other.with_values(advantages=one, returns=getattr(batch, "returns", None))  # a critic's targets follow rewards
            theirs, _ = subject.with_algorithm(first[name]).gradient(laboratory, same)
            acts.append((drawn > FLAT, float((mine - theirs).abs().max()) > FLAT**2))
            if acts == [(True, False)] and drawn > ROUNDED:  # if all agree, a penalty is 0
                return broken(
                    f"where policy, reference and sampler agree and all rewards are 0, another {name} changes advantages by "
                    f"{drawn:.2g}: it weighs what is not 0 there, as a KL is",
                    number=f"{drawn:.1e}",
                    where="draw",
                    example=row_shown(subject, batch, 0),
                    mend="a KL is summed over the tokens of the completion: ((ours - theirs) * mask).sum(dim=-1), both at one "
                    "temperature, whatever stands in the padding",
                )
        if acts == [(False, False), (True, True)]:
            return broken(
                f"{name} weighs the distance to the reference twice: in the advantages of a draw, and in the loss of a batch",
                number="2",
                where="draw and compute_loss",
                example=f"algorithm.{name} = {dict(plain_fields(subject.algorithm)).get(name)!r}",
                mend="take the KL away from the reward or add it to the loss, not both; two penalties have two weights",
            )
    return None


def _times_advantage(subject: Subject) -> Finding | None:
    """Return a finding if a penalty is linear in its weight and its gradient reverses with the sign of all advantages."""
    if not {Need.REWARDS, Need.REFERENCE} <= subject.needs or subject.reads_pairs or subject.goes_past:
        return None
    values = dict(plain_fields(subject.algorithm))
    laboratory, batch = subject.stand_in_batch()
    advantages = getattr(batch, "advantages", None)
    if not isinstance(advantages, Tensor) or len(batch) == 0:
        return None
    turned = batch.with_values(advantages=-advantages)
    for name in (name for name in values if is_beta(name) and isinstance(values[name], float)):
        others = [subject.with_algorithm(other) for _, other in variants(subject.algorithm, name)][:2]
        if len(others) < 2:
            continue
        usual, start = (subject.gradient(laboratory, each)[0] for each in (batch, turned))
        rises, mirrored = [], []
        for other in others:
            by = dict(plain_fields(other.algorithm))[name] - values[name]
            its = other.first_update(laboratory)  # it may have fields that the other weight needs
            found = [other.gradient(laboratory, its.with_values(advantages=sign * advantages))[0] for sign in (1, -1)]
            rises.append((found[0] - usual) / by)
            mirrored.append((found[1] - start) / by)
        scale = float(rises[0].abs().max())
        if scale <= FLAT or max(float(each.abs().max()) for each in (rises[0] - rises[1], mirrored[0] + rises[0])) > FLAT * scale:
            continue
        same = rises[0] * (usual - values[name] * rises[0])  # product with the gradient of the other terms
        if not bool((same > FLAT**2).any()) or not bool((same < -(FLAT**2)).any()):
            continue  # it weights the policy gradient itself
        return broken(
            f"the gradient that {name} weighs turns round where all advantages do: the penalty is multiplied by them, so that "
            "completions with a negative one are driven away from the reference",
            number=f"{scale:.1e}",
            where="compute_loss",
            example=row_shown(subject, batch, 0),
            mend="add the penalty to the objective, outside of the product with the advantage: -ratio * A + beta * kl",
        )
    return None


def _at(subject: Subject, drift: float) -> _AtDrift | None:
    laboratory, batch = subject.stand_in_batch(spread=0.0, drift=drift, rewards={"equal_rewards": True})
    if len(batch) == 0:
        return None
    gradient, figures = subject.gradient(laboratory, batch)
    names = laboratory.policy.leaf_names
    parts = dict(zip(names, torch.split(gradient, [len(laboratory.policy.leaves[name]) for name in names]), strict=True))
    slopes = {name: float(parts[name].sum()) if name in parts else 0.0 for name in ("token_logprobs", "kl_to_reference")}
    return _AtDrift(figures["loss"], slopes["token_logprobs"], slopes["kl_to_reference"], row_shown(subject, batch, 0))
