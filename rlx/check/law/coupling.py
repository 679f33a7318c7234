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

DRIFTS = (0.5, -0.5)  # nats a token by which the policy likes its completions better than the reference does
SAME = 1e-9  # relative difference of two slopes that are the same
WRONG = (1.0, -1.0)  # the sign of a slope that makes chosen completions less likely, and rejected ones likelier
FELT = 1e-6  # relative: more than rounding
LEAST = 5  # values that are measured from one or two of them
MOST_PIVOTS = 2


def level_is_live(subject: Subject) -> Finding | None:
    """The mean of all log-ratios is what each one is measured from, and carries a gradient: each completion pushes the others.

    Its signs: a value does not change when all log-probabilities rise together, though it does when its own do; all others move
    it by the same amount; and what the level does to the loss does not cancel, as it would in a variance, and pushes chosen
    completions down or rejected ones up.
    """
    if not subject.algorithm.couples_rows or subject.goes_past:
        return None
    for drift in DRIFTS:
        laboratory = subject.stand_in(drift=drift)
        batch = subject.first_update(laboratory)
        parts = parts_of(batch)
        if len(parts) != 1 or len(batch) < 3 or not isinstance(laboratory.policy, StandInPolicy):
            return None
        if not isinstance(parts[0], PairBatch):
            return None  # a regression on rewards may centre both sides: what a live mean adds there centres the rewards
        subject.loss(laboratory, batch)  # now every completion has its leaves
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
            for average in (True, False):  # a completion counts by the sum of its tokens, or by their mean
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
    """[P, G] the slope along the log-probability of each completion, as a sum over its tokens (average) or as their mean."""
    rows = completion_gradients(laboratory, part, slope)
    return torch.stack([torch.stack([each.sum() / (max(1, len(each)) if average else 1) for each in group]) for group in rows])


def _level(table: Tensor, weights: Tensor, *, rows: bool) -> float | None:
    """What a live level adds to the slope of each completion, relative to the largest slope; None where there is none.

    table: [values, P, G], the slopes of each value. rows: is there one value a row, or one a completion?
    """
    size = table.shape[2]
    sides = range(size) if rows else [slice(None)]
    added = torch.zeros(len(sides), dtype=table.dtype)
    measured = torch.zeros(len(sides), dtype=torch.bool)  # sides whose own completion moves a value by more than the level does
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
    if rows and size == len(WRONG):  # a pair's side that all others push as it shall go is held against the other side
        live &= added * added.new_tensor(WRONG) > 0
    if not is_moved or not bool(live.any()) or not bool(measured[live].all()):
        return None  # a mean of one side alone, with all its gradient, is what the other side is held against
    return float(added.abs().max()) / largest


def _pivot(table: Tensor, weights: Tensor) -> tuple[int, float] | None:
    """(a row that the values of all other rows drive the wrong way, by how much relative to the largest slope), if there is one.

    It is one of at most two that others look at, and the others learn by rows of their own. table: [values, P, 2], a value a row.
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
