"""Laws of compared log-probabilities: they must be of the same token, and at the sampler's temperature."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import at
from rlx.check.exact.expectation import is_beta, stated_beta
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.law.rows import gap
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Subject, completion_gradients, reads_logprobs, row_shown
from rlx.check.variant import plain_fields, variants

LOGPROB = -0.7  # of every token, at the temperature
SHIFT = 0.05  # nats by which a token's log-probabilities are changed, at most
EQUAL, OTHER = 1e-5, 1e-3  # relative differences of gradients that count as equal, as different
ENOUGH = 4  # tokens that show how a gradient changes
FACTOR = 1.25  # relative to the sampler's temperature


def alignment(subject: Subject) -> Finding:
    """The log-probability of a token is compared with the sampler's for the same token, as policy over sampler."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return skipped("no completions are sampled, or the loss reads the model itself")
    laboratory, batch = subject.stand_in_batch(spread=0.1)
    sampled = getattr(batch, "sampling_logprobs", None)
    if sampled is None or len(batch) == 0 or sampled.shape != batch.completion_mask.shape:
        return skipped("the batch holds no sampling log-probabilities of its own")
    before, _ = subject.gradient(laboratory, batch)
    if not reads_logprobs(laboratory):
        return skipped("the loss does not read token log-probabilities through the policy")
    leaf = laboratory.policy.leaves["token_logprobs"]
    shift = SHIFT * torch.rand(len(leaf), generator=torch.Generator().manual_seed(0), dtype=leaf.dtype)
    inner, moves = _laid_out(laboratory, batch, shift, sampled)
    with torch.no_grad():
        leaf.add_(shift)
    held = getattr(batch, "reference_logprobs", None)
    known = {} if held is None or held.shape != sampled.shape else {"reference_logprobs": held + moves[0].to(held)}
    after = [subject.gradient(laboratory, batch.with_values(sampling_logprobs=sampled + move, **known))[0] for move in moves]
    if (compared := _ratio_to_reference(subject) or _upside_down(subject) or _to_a_mean(subject)) is not None:
        return compared
    own, *neighbours = (gap(found[: len(leaf)][inner], before[: len(leaf)][inner], floor=1e-9) for found in after)
    for place, off in zip(("before", "after"), neighbours, strict=True):
        if off < EQUAL and own > OTHER:
            return broken(
                f"the log-probability of a token is compared with the sampler's of the token {place} it",
                number=f"{off:.0e}",
                where="compute_loss",
                example=row_shown(subject, batch, 0),
                mend="batch.sampling_logprobs[..., t] is of token t, as policy.token_logprobs(...)[..., t] is: roll neither",
            )
    return passed(f"{own:.0e}") if own < EQUAL else skipped("the loss reads more than differences of log-probabilities")


def _ratio_to_reference(subject: Subject) -> Finding | None:
    """Return a finding if, without a penalty, the gradient is proportional to exp(policy - reference), not to the ratio."""
    if Need.REFERENCE not in subject.needs or subject.algorithm.moving_reference is not None:
        return None
    algorithm = subject.algorithm
    for name in [name for name, _ in plain_fields(algorithm) if is_beta(name)]:
        algorithm = min((other for _, other in variants(algorithm, name)), key=stated_beta, default=algorithm)
    if stated_beta(algorithm) > EQUAL:
        return None
    subject = subject.with_algorithm(algorithm)
    slopes = []
    for drift in (0.0, SHIFT, -SHIFT):
        laboratory, batch = subject.stand_in_batch(spread=0.0, drift=drift)
        if len(batch) == 0:
            return None
        gradient, _ = subject.gradient(laboratory, batch)
        slopes.append(gradient[: len(laboratory.policy.leaves["token_logprobs"])] * math.exp(-drift))
    if not bool(slopes[0].any()) or any(each.shape != slopes[0].shape or gap(each, slopes[0]) > EQUAL for each in slopes[1:]):
        return None
    moved = batch.with_values(sampling_logprobs=torch.where(batch.completion_mask, batch.sampling_logprobs - SHIFT, 0.0))
    if not torch.equal(subject.gradient(laboratory, moved)[0], gradient):
        return None
    return broken(
        f"a reference whose log-probabilities are {SHIFT:g} lower has a gradient {math.exp(SHIFT):.4g} times as large, without "
        "any penalty, and the sampling log-probabilities do not matter: the ratio is that of policy and reference",
        number=f"{math.exp(SHIFT):.4g}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="the ratio is to the policy that sampled: exp(policy.token_logprobs(...) - batch.sampling_logprobs)",
    )


def _upside_down(subject: Subject) -> Finding | None:
    """Return a finding if each token is weighted by exp(sampler - policy), the inverse of the ratio.

    Its signs are a weight of 1 where both agree, whatever the log-probabilities are. Another weight that grows with the sampler's
    log-probabilities may be intended: unlikely tokens may have less weight.
    """
    laboratory, batch = subject.stand_in_batch(spread=0.0)
    slopes = []
    for shift in (0.0, SHIFT, -SHIFT):
        moved = torch.where(batch.completion_mask, batch.sampling_logprobs + shift, 0.0)
        gradient, _ = subject.gradient(laboratory, batch.with_values(sampling_logprobs=moved))
        slopes.append(gradient[: len(laboratory.policy.leaves["token_logprobs"])])
    learning = slopes[0] != 0
    start, likelier, unlikelier = (each[learning] for each in slopes)
    if not bool((start > 0).any()) or not bool((start < 0).any()):
        return None  # a regulariser to the sampler may give tokens of one sign more weight
    if any(gap(each, start * math.exp(by)) > EQUAL for each, by in ((likelier, SHIFT), (unlikelier, -SHIFT))):
        return None
    deeper = subject.stand_in(spread=0.0, depth=SHIFT)
    gradient, _ = subject.gradient(deeper, subject.first_update(deeper))
    same = gradient[: len(deeper.policy.leaves["token_logprobs"])]
    if same.shape != learning.shape or gap(same[learning], start) > EQUAL:
        return None
    weight = float((likelier / start).mean())
    return broken(
        f"where the sampler found every token {SHIFT:g} nats likelier than the policy does, each weighs {weight:.3g} times as "
        "much: the importance weight is upside down",
        number=f"{weight:.3g}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="what was sampled too often weighs less: exp(policy - sampling_logprobs), or proximal in the place of policy",
    )


def _to_a_mean(subject: Subject) -> Finding | None:
    """Return a finding if a token's log-probability is compared with the mean of the sampler's over its completion.

    It is shown by shifts that cancel over each completion. Those of the policy multiply a token's gradient by their exponential;
    those of the sampler change nothing, though a shift of all does; a shift of both policy and sampler changes nothing.
    """
    laboratory, batch = subject.stand_in_batch(spread=0.0)
    if len(batch) == 0:
        return None
    subject.gradient(laboratory, batch)  # creates the leaves of every completion
    leaf = laboratory.policy.leaves["token_logprobs"]
    rows = completion_gradients(laboratory, batch, torch.arange(len(leaf)))
    shift = SHIFT * torch.rand(len(leaf), generator=torch.Generator().manual_seed(1), dtype=leaf.dtype)
    moves = torch.zeros_like(batch.sampling_logprobs, dtype=leaf.dtype)
    for row, group in enumerate(rows):
        for side, places in enumerate(group):
            shift[places] -= shift[places].mean() if len(places) else 0.0
            moves[row, side, : len(places)] = shift[places]

    def learned(moved: Tensor) -> Tensor:
        sampled = torch.where(batch.completion_mask, batch.sampling_logprobs + moved, 0.0)
        return subject.gradient(laboratory, batch.with_values(sampling_logprobs=sampled))[0][: len(leaf)]

    start, by_token = learned(0 * moves), learned(moves)
    if not bool(start.any()) or gap(by_token, start) > EQUAL or gap(learned(moves + SHIFT), start) < OTHER:
        return None
    with at(leaf, leaf.detach() + shift):
        after = learned(0 * moves)
    with at(leaf, leaf.detach() + SHIFT):
        together = learned(0 * moves + SHIFT)
    if gap(together, start) > EQUAL:
        return None  # not a ratio but, say, a weight by the token's probability
    learning = (start != 0) & (after != 0)
    if int(learning.sum()) < ENOUGH or gap(after[learning], (start * shift.exp())[learning]) > EQUAL:
        return None
    weights = start * (-leaf.detach()).exp()  # a token's gradient without the ratio to a mean
    groups = (weights[places][learning[places]] for group in rows for places in group)
    if float(shift[learning].abs().max()) < OTHER or any(
        len(each) and gap(each, each[:1].expand_as(each)) > EQUAL for each in groups
    ):
        return None
    return broken(
        "the log-probability of a token is compared with the mean of the sampler's over its completion: ratios are not 1 where "
        "policy and sampler are the same",
        number=f"{int(learning.sum())} tokens",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="take the ratio of a token, exp(policy - sampling_logprobs), or that of the completion, the exp of the mean of "
        "their difference",
    )


def _laid_out(laboratory: Any, batch: Any, shift: Tensor, like: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return (bool [N], the leaves of tokens that are neither first nor last; changes of sampling log-probabilities as `like`).

    The three changes give each token's sampling log-probability the policy's shift of the token itself, of the one before and of
    the one after.
    """
    inner = torch.zeros(len(shift), dtype=torch.bool)
    moves = [torch.zeros_like(like) for _ in range(3)]
    for row, group in enumerate(completion_gradients(laboratory, batch, torch.arange(len(shift)))):
        for side, places in enumerate(group):
            inner[places[1:-1]] = True
            mine, length = shift[places].to(like), len(places)
            moves[0][row, side, :length] = mine
            if length > 1:
                moves[1][row, side, : length - 1] = mine[1:]  # shift of the next token
                moves[2][row, side, 1:length] = mine[:-1]
    return inner, moves


def temperature(subject: Subject) -> Finding:
    """Policy log-probabilities that are compared with the sampler's are computed at the sampler's temperature."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return skipped("no completions are sampled, or the loss reads the model itself")
    laboratory = subject.stand_in()
    hotter = FACTOR * subject.sampler.temperature
    laboratory.sampler = replace(laboratory.sampler, temperature=hotter)
    assert isinstance(laboratory.policy, StandInPolicy)
    laboratory.policy.temperatures.clear()
    batch = subject.first_update(laboratory)
    sampled = getattr(batch, "sampling_logprobs", None)
    if sampled is None or len(batch) == 0:
        return skipped("the batch holds no sampling log-probabilities of its own")
    drawn = set(laboratory.policy.temperatures)
    if getattr(batch, "proximal_logprobs", None) is not None and drawn and hotter not in drawn:
        return broken(
            f"completions are sampled at temperature {hotter:g}, but their proximal log-probabilities are read at "
            f"{_listed_set(drawn)}: ratios are not 1 where nothing has moved",
            number=f"{hotter:g}",
            where="draw",
            example=row_shown(subject, batch, 0),
            mend="lab.policy.token_logprobs(batch.sequences, temperature=batch.temperature)",
        )
    laboratory.policy.temperatures.clear()
    gradient, _ = subject.gradient(laboratory, batch)
    used, theirs = set(laboratory.policy.temperatures), laboratory.reference.temperatures
    moved = batch.with_values(sampling_logprobs=torch.where(batch.completion_mask, sampled - 0.1, 0.0))
    again = [each for each in used for wrong in (hotter**2, 1 / hotter) if math.isclose(each, wrong)]
    if not again and torch.equal(gradient, subject.gradient(laboratory, moved)[0]):
        return skipped("the loss does not compare with the sampling log-probabilities")
    if used == {hotter} and theirs and hotter not in theirs:
        return broken(
            f"the policy is read at the sampler's temperature {hotter:g}, but the reference at {_listed_set(theirs)}: where they "
            "are the same model their KL is not 0",
            number=f"{hotter:g}",
            where="draw or compute_loss",
            example=row_shown(subject, batch, 0),
            mend="reference.token_logprobs(batch.sequences, temperature=batch.temperature)",
        )
    if used == {hotter} and (found := _heated_twice(subject, hotter)) is not None:
        return found
    if not used or hotter in used:
        return passed(f"{hotter:g}")
    return broken(
        f"completions are sampled at temperature {hotter:g}, but the policy is read at {_listed_set(used)}: "
        "ratios are not 1 where nothing has moved",
        number=f"{hotter:g}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="policy.token_logprobs(batch.sequences, temperature=batch.temperature); the reference's likewise",
    )


def _heated_twice(subject: Subject, hotter: float) -> Finding | None:
    """Return a finding if log-probabilities that are already at the temperature are divided by it again.

    Policy, sampler and reference have the same log-probabilities at both temperatures, so the gradient may only change by a power
    of the temperature.
    """
    usual = subject.sampler.temperature
    gradients, batches = [], []
    for heat in (usual, hotter):
        laboratory = subject.stand_in(constant=LOGPROB * heat, constant_of="everybody")
        laboratory.sampler = replace(laboratory.sampler, temperature=heat)
        batches.append(subject.first_update(laboratory))
        gradient = subject.gradient(laboratory, batches[-1])[0]
        gradients.append(gradient[: len(laboratory.policy.leaves["token_logprobs"])])
    before, after = gradients
    sampled = [batch.sampling_logprobs for batch in batches]
    if before.shape != after.shape or sampled[0].shape != sampled[1].shape or not torch.allclose(*sampled):
        return None
    powers = [(hotter / usual) ** power for power in (-2, -1, 0, 1, 2)]
    if not bool(before.any()) or any(gap(after, factor * before, floor=1e-9) <= OTHER for factor in powers):
        return None
    return broken(
        f"at a temperature of {hotter:g} in the place of {usual:g} tokens have other gradients, though policy and sampler say "
        "the same of them: something is divided by the temperature a second time",
        number=f"{hotter:g}",
        where="compute_loss, or draw",
        example=row_shown(subject, batches[0], 0),
        mend="sampling_logprobs and policy.token_logprobs(..., temperature=batch.temperature) are at the temperature already",
    )


def _listed_set(values: set[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
