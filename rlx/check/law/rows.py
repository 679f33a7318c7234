"""Laws of rows: splitting and reordering a batch does not change its loss; steps draw different rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import group_keys, parts_of, permuted
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.law.buffer import replayed, updated_again
from rlx.check.law.chance import same_for_every_seed, same_in_every_process, same_random_numbers, same_values_by_place
from rlx.check.law.feedback import feedback
from rlx.check.law.held_out import reads_held_out
from rlx.check.law.memory import never_written, remembered_by_place, state_of_other_rows
from rlx.check.law.minibatch import group_stands_twice, rows_come_unevenly, same_minibatch, values_of_other_rows
from rlx.check.law.sampled import rewards_of_others
from rlx.check.law.scale import divided_again, rows_of, weights_of_the_draw
from rlx.check.law.schedule import schedules
from rlx.check.law.weight import rarer_weighs_less, weights_of_other_rows
from rlx.check.subject import REAL_TOLERANCE, Laboratory, Subject, completion_gradients, losses_of, row_shown
from rlx.data.preferences import PairBatch

DRAWN_STEPS = (0, 1, 500)  # at the last, a curriculum has advanced
MANY = 8  # steps, which draw more pairs than the first rows of a task
ROUNDED = 1e-5  # relative difference, by rounding to float32, of two equal draws
MEAN_MEND = (
    "weigh every value by weights that draw computed over the whole batch (batch.with_weights(...), loss.weights(mask)) "
    "and let the batch's slices take them along; never take a mean inside compute_loss"
)


def gap(found: Tensor, expected: Tensor, *, floor: float = 1e-12) -> float:
    """Return the largest difference, relative to the largest number, or to `floor` if that number is smaller."""
    if not expected.numel():
        return 0.0
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found - expected).abs().max()) / max(floor, float(expected.abs().max()), float(found.abs().max()) * 1e-3)


def outcome_gap(found: Tensor, other: Mapping[str, float], whole: Tensor, figures: Mapping[str, float]) -> float:
    """Return the larger of the gap between two gradients and the gap between their losses.

    The values of a loss may cancel to 0, so losses are compared relative to the largest entry of the gradient at least.
    """
    floor = max(1e-12, float(whole.abs().max())) if whole.numel() else 1e-12
    return max(gap(found, whole), gap(torch.tensor([other["loss"]]), torch.tensor([figures["loss"]]), floor=floor))


def split(subject: Subject) -> Finding:
    """Splitting a batch into micro-batches of any size gives the loss, metrics and gradient of the whole batch."""
    worst = 0.0
    for laboratory, sizes in ((subject.stand_in(), (1, 2, 3, 5)), (subject.real(moved=True), (1, 3))):
        batch = subject.first_update(laboratory)
        if len(batch) < 2:
            return skipped("a batch of one row cannot be cut")
        batch = batch[slice(0, 6)] if laboratory.tolerance == REAL_TOLERANCE else batch
        whole, figures = subject.gradient(laboratory, batch)
        for size in sizes:
            found, other = subject.gradient(laboratory, batch, micro_batch=size)
            off = outcome_gap(found, other, whole, figures)
            worst = max(worst, off)
            if off > laboratory.tolerance:
                return _split_broken(subject, laboratory, batch, size, off)
            wrong = [
                name for name in figures if abs(other.get(name, float("nan")) - figures[name]) > 1e-5 * max(1, abs(figures[name]))
            ]
            wrong += [name for name in figures if name not in other]
            if finding := _state_broken(subject, laboratory, batch, size):
                return finding
            if wrong:
                return broken(
                    f"the figure {wrong[0]} is {figures[wrong[0]]:.6g} whole and {other.get(wrong[0], math.nan):.6g} "
                    f"in pieces of {size} rows",
                    number=f"{abs(other.get(wrong[0], math.nan) - figures[wrong[0]]):.1e}",
                    where=f"metrics[{wrong[0]!r}]",
                    mend="give metrics as (sum, count) over rows or tokens, mean_of(values, mask), so that they add over pieces",
                )
    return _split_unlike(subject) or passed(f"{worst:.0e}")


def _split_unlike(subject: Subject) -> Finding | None:
    """Test micro-batches on advantages that all differ in size: by chance, all others may pass a threshold, or none."""
    laboratory, batch = subject.stand_in_batch()
    advantages = getattr(batch, "advantages", None)
    if subject.goes_past or not isinstance(advantages, Tensor) or len(batch) < 2 or advantages.shape[:1] != (len(batch),):
        return None
    sizes = torch.arange(1, len(batch) + 1).to(advantages).reshape(-1, *[1] * (advantages.ndim - 1))
    signs = torch.where(advantages < 0, -1.0, 1.0)
    unlike = batch.with_values(advantages=(advantages + signs / len(batch)) * sizes)
    off = gap(subject.gradient(laboratory, unlike, micro_batch=1)[0], subject.gradient(laboratory, unlike)[0])
    return _split_broken(subject, laboratory, unlike, 1, off) if off > laboratory.tolerance else None


def _state_broken(subject: Subject, laboratory: Laboratory, batch: object, size: int) -> Finding | None:
    """Return a finding if the update of a loss's running mean depends on the size of micro-batches."""
    if not subject.states(laboratory).values:
        return None
    records = []
    for micro_batch in (None, size):
        source = subject.source(laboratory, batch, micro_batch=micro_batch)
        source()
        records.append({name: total / max(count, 1) for name, (total, count) in (source.record or {}).items()})
    whole, pieces = records
    for name, mean in whole.items():
        off = abs(pieces[name] - mean) / max(abs(mean), 1e-12)
        if off > max(laboratory.tolerance, 1e-5):
            return broken(
                f"the state {name} takes in {mean:.6g} from the whole batch and {pieces[name]:.6g} from pieces of {size} rows",
                number=f"{off:.0e}",
                where=f"state {name}",
                mend="let it be the mean of values that do not depend on other rows, or write couples_rows=True",
            )
    return None


def _split_broken(subject: Subject, laboratory: Laboratory, batch: object, size: int, off: float) -> Finding:
    rows = next((rows for rows in range(2, len(batch)) if _pair_differs(subject, laboratory, batch[slice(0, rows)])), len(batch))  # type: ignore[arg-type, index]
    first = batch[slice(0, rows)]  # type: ignore[index]
    whole = subject.gradient(laboratory, first)[1]["loss"]
    pieces = subject.gradient(laboratory, first, micro_batch=1)[1]["loss"]
    return broken(
        f"the gradient in pieces of {size} rows differs from that of the whole batch by {off:.1e} of its largest entry",
        number=f"{off:.0e}",
        where="compute_loss",
        example=f"{rows} rows: the loss is {whole:.6g} whole, {pieces:.6g} one row at a time; {row_shown(subject, first, 0)}",
        mend=f"{MEAN_MEND}; a formula that mixes rows says so: couples_rows = True",
    )


def _pair_differs(subject: Subject, laboratory: Laboratory, rows: object) -> bool:
    return gap(subject.gradient(laboratory, rows, micro_batch=1)[0], subject.gradient(laboratory, rows)[0]) > REAL_TOLERANCE


def order(subject: Subject) -> Finding:
    """Reordering the rows gives the same loss and gradient; the order within a group does not affect other groups."""
    laboratory, batch = subject.stand_in_batch()
    if len(batch) < 2:
        return skipped("a batch of one row has one order")
    whole, figures = subject.gradient(laboratory, batch)
    try:
        shuffled = permuted(batch)
        found, other = subject.gradient(laboratory, shuffled)
    except Exception as error:
        if type(batch).__module__.startswith("rlx."):  # its rows can be reordered, so the loss raises
            raise
        return skipped(f"the rows of a {type(batch).__name__} could not be reordered: {type(error).__name__}: {error}")
    off = outcome_gap(found, other, whole, figures)
    if any("rng" in loss.requires for _, loss in losses_of(subject.algorithm)):
        return skipped("the loss draws a random number for each place in the batch")
    if off > laboratory.tolerance:
        return broken(
            f"the rows in another order change the gradient by {off:.1e} of its largest entry",
            number=f"{off:.0e}",
            where="compute_loss",
            example=f"the loss is {figures['loss']:.6g}, reordered {other['loss']:.6g}",
            mend="let nothing depend on a row's place (batch[0], cumulative sums, index-based weights)",
        )
    return _turned(subject) or weights_of_other_rows(subject) or passed(f"{off:.0e}")


def _turned(subject: Subject) -> Finding | None:
    """Return a finding if reversing every second group's completions changes the gradients of other groups."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return None
    (as_drawn, shown, made), (other, _, remade) = (_slopes_of_groups(subject, turned=turned) for turned in (False, True))
    if subject.task.interaction is not None and sorted(map(sorted, as_drawn)) != sorted(map(sorted, other)):
        return None  # the conversations differ, which may change means over the batch
    scale = max((float(slopes.abs().max()) for slopes in as_drawn.values() if len(slopes)), default=0.0)
    scale = max(scale, 1e-12)  # for gradients of 0
    both = [group for group in as_drawn if group in other]
    ahead = sum(float((other[group] * as_drawn[group]).sum()) for group in both)
    factor = ahead / max(1e-300, sum(float(as_drawn[group].square().sum()) for group in both))
    if len(both) > 1 and all(gap(other[group], factor * as_drawn[group], floor=scale) <= ROUNDED for group in both):
        return None  # equal apart from a factor: a random choice of tokens changes their number
    for group in both:
        off = gap(other[group], as_drawn[group], floor=scale)
        if off > ROUNDED:
            return broken(
                f"the order of the completions in other groups changes the gradient of a group by {off:.1e} of its largest entry",
                number=f"{off:.0e}",
                where="draw" if made.get(group) != remade.get(group) else "compute_loss",
                example=shown[group],
                mend="take means and deviations over the completions of a prompt, rewards.mean(dim=1, keepdim=True), or over the "
                "whole batch; dim=0 goes over the prompts",
            )
    return None


def _slopes_of_groups(subject: Subject, *, turned: bool) -> tuple[dict[Any, Tensor], dict[Any, str], dict[Any, str]]:
    """Return three mappings of groups (their keys): to gradients at their tokens, to their text, to their advantages as text."""
    laboratory = subject.stand_in()
    laboratory.sampler = replace(laboratory.sampler, turned=turned)  # type: ignore[call-arg]
    batch = subject.first_update(laboratory)
    slopes: dict[Any, Tensor] = {}
    shown: dict[Any, str] = {}
    made: dict[Any, str] = {}
    if len(batch) == 0:
        return slopes, shown, made
    gradient, _ = subject.gradient(laboratory, batch)
    for part in (part for part in parts_of(batch) if part.sequences.group_size > 1):
        keys = group_keys(part.sequences)
        for row, found in enumerate(completion_gradients(laboratory, part, gradient)):
            slopes[keys[row]], shown[keys[row]] = torch.cat(found), row_shown(subject, part, row)
            if isinstance(advantages := getattr(part, "advantages", None), Tensor):
                made[keys[row]] = str([f"{value:.4g}" for value in advantages[row].flatten().tolist() if value])
    return slopes, shown, made


def draws(subject: Subject) -> Finding:
    """Steps draw different rows if the task has more rows than a step draws; each part of a draw has its own weights."""
    laboratory = subject.stand_in()
    drawn = [rows_of(subject.draw(laboratory, step=step)) for step in DRAWN_STEPS]
    if not drawn[0]:
        return skipped("the batch has no sequences of its own")
    sizes = [len(subject.small_task.pairs())] if subject.reads_pairs else []
    sizes += [len(subject.small_task.prompts())] if Need.REWARDS in subject.needs else []
    if not sizes or len(drawn[0]) >= min(sizes):
        return skipped("a step draws all there is")
    if all(rows == drawn[0] for rows in drawn):
        return broken(
            f"steps {', '.join(map(str, DRAWN_STEPS))} draw the same {len(drawn[0])} rows, and the task has {min(sizes)}",
            number=f"{len(drawn[0])} of {min(sizes)}",
            where="draw",
            example=repr(subject.policy.decode(parts_of(subject.draw(laboratory))[0].sequences.prompts[0])),
            mend="lab.rng is the same at every step: what is random comes from lab.rng.child('rows', lab.step); or take "
            "lab.pairs(...) and roll_out(lab, ...), which go through the task",
        )
    faults = (
        rewards_of_others,
        _few_of_many,
        same_minibatch,
        values_of_other_rows,
        rows_come_unevenly,
        group_stands_twice,
        same_random_numbers,
        same_values_by_place,
        same_for_every_seed,
        same_in_every_process,
        reads_held_out,
        never_written,
        feedback,
        remembered_by_place,
        state_of_other_rows,
        weights_of_the_draw,
        rarer_weighs_less,
    )
    for fault in (*faults, divided_again, schedules, replayed, updated_again):
        if (found := fault(subject)) is not None:
            return found
    return passed(f"{len({row for rows in drawn for row in rows})} of {min(sizes)} in {len(DRAWN_STEPS)} steps")


def _few_of_many(subject: Subject) -> Finding | None:
    """Return a finding if all steps draw pairs from the first rows of the task only."""
    laboratory = subject.stand_in()
    places: set[int] = set()
    size = most = 0
    for step in range(MANY):
        for part in parts_of(subject.draw(laboratory, step=step)):
            if not isinstance(part, PairBatch):
                return None
            places.update(part.rows.tolist())
            size, most = max(size, len(part)), len(part.source)
    if size < 2 or most < MANY * size or max(places) >= 2 * size:
        return None
    return broken(
        f"{MANY} steps draw {len(places)} pairs in all, from the first {max(places) + 1} of {most}: the others are never learned",
        number=f"{len(places)} of {most}",
        where="draw",
        mend="places in a batch are no places in the task: batch.rows[place] is; lab.pairs(...) goes through all pairs",
    )
