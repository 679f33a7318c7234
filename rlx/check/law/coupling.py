"""Part of the law of directions, on losses that couple rows: a batch-wide reference level is a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject, completion_gradients, row_shown
from rlx.data.preferences import PairBatch

DRIFTS = (0.5, -0.5)  # nats a token by which the policy's log-probabilities exceed the reference's
SAME = 1e-9  # relative difference of slopes that count as equal
WRONG = (1.0, -1.0)  # signs of the slopes that lower chosen completions and raise rejected ones
FELT = 1e-6  # relative, more than rounding
LEAST = 5  # least number of values, of which one or two may be the reference level
MOST_PIVOTS = 2


def level_is_live(subject: Subject) -> Finding | None:
    """Return a finding if values are relative to a batch mean of log-ratios whose gradient is not stopped.

    Its signs are: a value stays constant when all log-probabilities rise together, but not when only its own do; all others
    change it by the same amount; and the effect of the mean on the loss does not cancel, as in a variance, but lowers chosen or
    raises rejected completions.
    """
    if not subject.algorithm.couples_rows or subject.goes_past:
        return None
    for drift in DRIFTS:
        laboratory, batch = subject.stand_in_batch(drift=drift)
        parts = parts_of(batch)
        if len(parts) != 1 or len(batch) < 3 or not isinstance(laboratory.policy, StandInPolicy):
            return None
        if not isinstance(parts[0], PairBatch):
            return None  # a regression may centre rewards and log-ratios, which is the same as centring only the rewards
        subject.loss(laboratory, batch)  # creates the leaves of every completion
        leaf = laboratory.policy.leaves.get("token_logprobs")
        if leaf is None:
            return None
        for name, term in subject.loss(laboratory, batch).terms.items():
            shape = parts[0].sequences.completion_mask.shape
            if term.values.shape not in (shape[:1], shape[:2]) or not term.values.requires_grad:
                continue
            values, weights = term.values.flatten(), term.weights.detach().flatten().to(term.values)
            slopes = [
                torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for value in values
            ]
            for average in (True, False):  # log-probability of a completion: sum over its tokens, or mean
                table = torch.stack([_of_completions(laboratory, parts[0], slope, average=average) for slope in slopes])
                rows = len(values) == shape[0]
                level = _level(table, weights, rows=rows)
                if rows and (found := _pivot(table, weights)) is not None:
                    row, level = found
                    return broken(
                        "the values of all pairs are measured from the policy's own numbers of one or two of them (a median, a "
                        f"quantile, an extreme), whose gradient is not stopped: all others drive row {row} the wrong way, by "
                        f"{level:.1e} of the largest slope",
                        number=f"{level:.0e}",
                        where=f"terms[{name!r}]",
                        example=row_shown(subject, batch, row),
                        mend="a reference point is a constant: rlx.loss.stop_gradient(x.median()), x.quantile(q).detach()",
                    )
                if level is not None:
                    return broken(
                        "values are measured from the mean log-ratio of the batch, and its gradient is not stopped: a "
                        f"completion moves the values of all others, which adds {level:.1e} of the largest slope to each",
                        number=f"{level:.0e}",
                        where=f"terms[{name!r}]",
                        example=row_shown(subject, batch, 0),
                        mend="a reference point is a constant: rlx.loss.stop_gradient(x), x.detach(), or state= (rlx guide loss)",
                    )
    return None


def _of_completions(laboratory: Laboratory, part: Any, slope: Tensor, *, average: bool) -> Tensor:
    """Return [P, G] the slope along each completion's log-probability, a sum over its tokens (average) or their mean."""
    rows = completion_gradients(laboratory, part, slope)
    return torch.stack([torch.stack([each.sum() / (max(1, len(each)) if average else 1) for each in group]) for group in rows])


def _level(table: Tensor, weights: Tensor, *, rows: bool) -> float | None:
    """Return what a live mean adds to each completion's slope, relative to the largest slope; None if there is no live mean.

    table: [values, P, G], the slopes of each value. rows: whether there is one value a row, or one a completion.
    """
    size = table.shape[2]
    sides = range(size) if rows else [slice(None)]
    added = torch.zeros(len(sides), dtype=table.dtype)
    measured = torch.zeros(len(sides), dtype=torch.bool)  # sides whose own completion changes its value beyond the mean
    is_moved = False
    for number, (slopes, weight) in enumerate(zip(table, weights, strict=True)):
        scale = float(slopes.abs().max())
        own = torch.zeros_like(slopes, dtype=torch.bool)
        own[(number,) if rows else (number // size, number % size)] = True
        others = [slopes[:, side][~own[:, side]] for side in sides]
        if any(float(each.max() - each.min()) > SAME * scale for each in others) or abs(float(slopes.sum())) > FELT * scale:
            return None
        level = torch.stack([each.mean() for each in others])
        mine = torch.stack([slopes[:, side][own[:, side]].sum() for side in sides])
        measured |= (mine - level).abs() > FELT * scale
        is_moved |= abs(float(mine.sum())) > FELT * scale
        added = added + weight * level
    largest = float((weights[:, None, None] * table).sum(dim=0).abs().max())
    live = added.abs() > FELT * largest
    if rows and size == len(WRONG):  # a push in the right direction is part of the margin
        live &= added * added.new_tensor(WRONG) > 0
    if not is_moved or not bool(live.any()) or not bool(measured[live].all()):
        return None  # a live mean of one side may be the margin's other side
    return float(added.abs().max()) / largest


def _pivot(table: Tensor, weights: Tensor) -> tuple[int, float] | None:
    """Return (a row that all other rows push in the wrong direction, by how much relative to the largest slope), or None.

    At most two rows affect the values of others, and those others have gradients of their own. table: [values, P, 2], a value a
    row.
    """
    count = len(table)
    if table.shape[1:] != (count, len(WRONG)) or count < LEAST:
        return None
    others = table * ~torch.eye(count, dtype=torch.bool)[..., None]
    scale = table.abs().amax(dim=(1, 2), keepdim=True)
    looks = (others.abs() > FELT * scale).any(dim=2)  # [values, rows]
    looked_at = looks.any(dim=0)
    pivots = torch.nonzero(looked_at).flatten().tolist()
    if not 0 < len(pivots) <= MOST_PIVOTS or not bool(looks[~looked_at].any(dim=1).all()):
        return None
    if bool((table.sum(dim=(1, 2)).abs() > FELT * scale[:, 0, 0]).any()):
        return None
    added = (weights[:, None, None] * others).sum(dim=0)
    total = (weights[:, None, None] * table).sum(dim=0)
    astray = added * added.new_tensor(WRONG) / total.abs().max().clamp(min=1e-300)
    row = next((row for row in pivots if float(astray[row].max()) > FELT and float(astray[row].min()) > -FELT), None)
    return None if row is None else (row, float(added[row].abs().max() / total.abs().max()))
