"""Laws of weights from draw: a pair's weight depends on its row alone, and a side's weights are normalised by its own count."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Lab, Need
from rlx.check.batch import draw_of, key_of, parts_of, tensors_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject, row_shown
from rlx.data.preferences import PairBatch

# increases, of one chosen completion, of its token log-probabilities (policy, reference) and of its score:
OURS, THEIRS, SCORE = 1.0, 0.37, 0.2
SIZES = (0.05, 1.0)  # factors of these increases: small, to keep the order of rows; large, for weights by rank
SAME = 1e-4  # relative difference of weights that are equal apart from rounding
CLASS_DRAWS = 8
LEAST = 3  # rows: the changed one, and two that show the common change


class _ScoredLab(Lab):
    """A Lab in which the chosen completion of one pair has a higher score. raised: its row in the task; by: the increase."""

    raised: int = -1
    by: float = 0.0

    def pairs(self, pairs_per_step: int) -> PairBatch:
        found = super().pairs(pairs_per_step)
        if found.scores is None or self.raised < 0:
            return found
        more = torch.from_numpy(found.rows == self.raised)[:, None] * found.scores.new_tensor([self.by, 0.0])
        return replace(found, scores=found.scores + more)


def weights_of_other_rows(subject: Subject) -> Finding | None:
    """Return a finding if log-probabilities or scores of one pair change the weight of another pair, and not its own.

    A scale common to all rows may change: weights may add up to 1.
    """
    if not subject.reads_pairs or Need.REWARDS in subject.needs or subject.goes_past or subject.warm_up:
        return None
    laboratory = subject.stand_in()
    usual = _drawn(subject, laboratory, None)
    if not isinstance(usual, PairBatch) or len(usual) < LEAST or not isinstance(laboratory.policy, StandInPolicy):
        return None
    before = {name: weights for name, weights in tensors_of(usual.weights) if _differ(weights, len(usual))}
    astray: dict[str, list[tuple[int, int]]] = {name: [] for name in before}
    own: set[str] = set()  # weights that change with their own row
    for size, row in itertools.product(SIZES, range(len(usual)) if before else ()):
        moved = _drawn(subject, laboratory, (usual, row, size))
        after = dict(tensors_of(moved.weights)) if moved.rows.tolist() == usual.rows.tolist() else {}
        for name in before.keys() & after.keys():
            changed = _changed(before[name], after[name])
            if row in changed:
                own.add(name)
            elif changed:
                astray[name].append((row, changed[0]))
    for name, found in astray.items():
        rows = {row for row, _ in found}
        if len(rows) < 2 or (name in own and 2 * len(rows) <= len(usual)):
            continue
        row, other = found[0]
        return broken(
            f"the {name.removeprefix('batch.')} of row {other} changes with what policy, reference or scores say of row {row}, "
            f"and that of row {row} itself does not ({len(rows)} of {len(usual)} rows are like it): rows have those of others",
            number=f"{len(rows)} of {len(usual)} rows",
            where="draw",
            example=row_shown(subject, usual, row),
            mend="a tensor that is sorted, rolled or turned has lost its rows: leave it as it is, or take the rows of the batch "
            "in the same order",
        )
    return None


def _drawn(subject: Subject, laboratory: Laboratory, changed: tuple[PairBatch, int, float] | None) -> Any:
    """Return the draw of a laboratory in which one row's chosen completion is likelier; the laboratory does not change."""
    policy, reference = laboratory.policy, laboratory.reference
    lab = _ScoredLab(**vars(replace(laboratory, state=dict(laboratory.state)).lab(seed=subject.seed)))
    leaf = held = None
    if changed is not None:
        batch, row, size = changed
        key = key_of(batch.sequences.prompts[row], batch.sequences.completions[row][0])
        object.__setattr__(lab, "raised", int(batch.rows[row]))
        object.__setattr__(lab, "by", size * SCORE)
        reference.raised = {key: size * THEIRS}
        leaf, place = policy.leaves.get("token_logprobs"), policy.places.get("token_logprobs", {}).get(key)
        if leaf is not None and place is not None:
            held = leaf.detach().clone()
            with torch.no_grad():
                leaf[place] -= size * OURS
    with torch.no_grad():
        found = draw_of(subject.algorithm, lab)
        reference.raised = {} if changed is not None else getattr(reference, "raised", {})
        if leaf is not None and held is not None:
            leaf[: len(held)] = held
    return found


def _differ(weights: Tensor, rows: int) -> bool:
    """Whether a tensor holds finite numbers of rows that are not all equal."""
    if weights.ndim == 0 or len(weights) != rows or not weights.is_floating_point() or not bool(torch.isfinite(weights).all()):
        return False
    each = weights.reshape(rows, -1).double().sum(dim=1)
    return float(each.max() - each.min()) > SAME * float(each.abs().max())


def _changed(before: Tensor, after: Tensor) -> list[int]:
    """Return the rows whose weights change by another factor than the one that most rows share."""
    if before.shape != after.shape:
        return []
    x, y = before.double().reshape(len(before), -1), after.double().reshape(len(before), -1)
    there = x != 0
    factor = (y[there] / x[there]).median() if bool(there.any()) else x.new_tensor(1.0)
    off = (y - factor * x).abs().amax(dim=1)
    return torch.nonzero(off > SAME * float(y.abs().max())).flatten().tolist()


def rarer_weighs_less(subject: Subject) -> Finding | None:
    """Return a finding if, of completions with positive and negative advantages, the rarer ones have less weight each."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return None
    # (term, whether weights of 0 count) -> (number with positive advantages, with negative ones, ratio of their weights)
    found: dict[tuple[str, bool], list[tuple[int, int, float]]] = {}
    for step in range(CLASS_DRAWS):
        laboratory, batch = subject.stand_in_batch(step=step)
        advantages = getattr(batch, "advantages", None)
        if len(parts_of(batch)) != 1 or not isinstance(advantages, Tensor) or advantages.ndim != 2:
            return None
        for name, term in subject.loss(laboratory, batch).terms.items():
            for idle, counted in _of_sides(term.weights, advantages):
                found.setdefault((name, idle), []).append(counted)
        found = {key: counts for key, counts in found.items() if all(abs(share * b / a - 1) <= SAME for a, b, share in counts)}
        if not found:
            return None
    for (name, _), counts in found.items():
        unlike = [(a, b, share) for a, b, share in counts if a != b]
        if len({(a, b) for a, b, _ in unlike}) < 2:
            continue
        more, less, share = max(unlike, key=lambda counted: abs(counted[0] - counted[1]))
        return broken(
            f"where {more} completions are praised and {less} blamed, a praised one weighs {share:.3g} times as much in term "
            f"{name} as a blamed one, in proportion to both numbers: each side is divided by the number of the other",
            number=f"{share:.3g}",
            where="the weights that draw makes",
            example=row_shown(subject, batch, 0),
            mend="both sides count the same where each is divided by its own number: good / good.sum(), bad / bad.sum()",
        )
    return None


def _of_sides(weights: Tensor, advantages: Tensor) -> list[tuple[bool, tuple[int, int, float]]]:
    """Return (positive, negative, ratio of their weights): numbers of all completions, and of those with a weight.

    The list is empty if weights within a side differ, or a side has none.
    """
    if weights.shape[:2] != advantages.shape:
        return []
    each = weights.detach().double().reshape(*advantages.shape, -1).sum(dim=-1)
    sides = (advantages > 0, advantages < 0)
    praised, blamed = (each[(each > 0) & side] for side in sides)
    if not len(praised) or not len(blamed) or any(float(side.max() / side.min()) > 1 + SAME for side in (praised, blamed)):
        return []
    share = float(praised[0] / blamed[0])
    return [(True, (int(sides[0].sum()), int(sides[1].sum()), share)), (False, (len(praised), len(blamed), share))]
