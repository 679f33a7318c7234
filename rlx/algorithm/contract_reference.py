"""The law of what a preference is held to: the reference's log-probabilities of the same completions."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.algorithm.contract_batch import parts_of
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_numbers import key_of
from rlx.algorithm.contract_subject import Setting, Subject, completion_gradients, row_shown

RAISED = 0.05  # nats a token
FLAT = 1e-9
SIDES = ("chosen", "rejected")
MEND = "hold each side to its own: (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)"


def reference(subject: Subject) -> Finding:
    """Raising the reference's log-probabilities of a completion does the opposite of raising the policy's."""
    if Need.REFERENCE not in subject.needs or subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING:
        return skipped("no preference is held to a reference")
    if subject.goes_past:
        return skipped("the loss reads the model itself, whose numbers cannot be set")
    setting = subject.stand_in(spread=0.0)
    batch = subject.first_update(setting)
    pairs = [part for part in parts_of(batch) if part.sequences.group_size == 2 and not hasattr(part, "rewards")]
    if not pairs:
        return skipped("the batch holds no pairs")
    gradient, _ = subject.gradient(setting, batch)
    ours = [_slope(setting, pairs, gradient, side) for side in (0, 1)]
    theirs = [_reference_slope(subject, setting, batch, pairs, side) for side in (0, 1)]
    for side, name in enumerate(SIDES):
        unread = abs(theirs[side]) <= FLAT < abs(theirs[1 - side])
        if abs(ours[side]) <= FLAT or not (unread or ours[side] * theirs[side] > FLAT**2):
            continue
        what = "change nothing, those of the other side do" if unread else "move the loss the same way as the policy's"
        return broken(
            f"the reference's log-probabilities of {name} completions {what}",
            number=f"{theirs[side]:+.1e}",
            where="compute_loss",
            example=row_shown(subject, pairs[0], 0),
            mend=MEND,
        )
    return holds(", ".join(f"{slope:+.1e}" for slope in theirs))


def _slope(setting: Setting, pairs: list[Any], gradient: Tensor, side: int) -> float:
    """Of the loss along the policy's log-probabilities of one side, each token as much as any other."""
    rows = (row for part in pairs for row in completion_gradients(setting, part, gradient))
    return float(sum(row[side].sum() for row in rows))


def _reference_slope(subject: Subject, setting: Setting, batch: Any, pairs: list[Any], side: int) -> float:
    """The same along the reference's, which take no gradient: by differences."""
    rows = [row for part in pairs for row in zip(part.sequences.prompts, part.sequences.completions, strict=True)]
    losses = []
    for raised in (-RAISED, RAISED):
        twin = copy.copy(setting.reference)
        twin.raised = {key_of(prompt, group[side]): raised for prompt, group in rows}
        losses.append(float(subject.algorithm.compute_loss(setting.policy, twin, batch).loss.detach()))
    return (losses[1] - losses[0]) / (2 * RAISED)
