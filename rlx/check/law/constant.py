"""Part of the law of falling, on constants: a loss value that does not depend on the policy cannot be lowered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.check.batch import at, parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject, completion_gradients, row_shown

MOVES = (0.3, -0.2)  # nats a token by which the policy's log-probabilities of one side of all rows change
SAME = 1e-12  # relative change of a value that counts as none
FELT = 1e-6  # least slope of a row with a gradient, relative to the largest
LEAST = 2  # rows


def never_moves(subject: Subject) -> Finding | None:
    """Return a finding if the loss of rows is the same for every policy though it has a gradient (a log-ratio to itself, say)."""
    laboratory, batch = subject.stand_in_batch()
    parts = parts_of(batch)
    if len(parts) != 1 or len(batch) < LEAST or not isinstance(laboratory.policy, StandInPolicy):
        return None
    gradient, _ = subject.gradient(laboratory, batch)
    leaf = laboratory.policy.leaves.get("token_logprobs")
    if leaf is None:
        return None
    rows = completion_gradients(laboratory, parts[0], gradient)
    places = completion_gradients(laboratory, parts[0], torch.arange(len(leaf)))
    before = _values(subject, laboratory, batch)
    scale = float(gradient.abs().max())
    if before is None or not scale:
        return None
    for side in range(parts[0].sequences.group_size):
        still = torch.tensor([float(group[side].abs().sum()) > FELT * scale for group in rows])
        for move in MOVES:
            mine = torch.cat([group[side] for group in places])
            with at(leaf, leaf.detach()[mine] + move, mine):
                after = _values(subject, laboratory, batch)
            if after is None or after.shape != before.shape:
                return None
            still &= (after - before).abs() <= SAME * before.abs().clamp(min=1.0)
        if int(still.sum()) >= LEAST:
            row = int(still.nonzero()[0])
            return broken(
                f"the loss of {int(still.sum())} of {len(still)} rows is {float(before[row]):.4g} whatever the policy says of "
                "their completions, though it has a gradient: a constant stands there for what it is measured from",
                number=f"{int(still.sum())} of {len(still)} rows",
                where="compute_loss",
                example=row_shown(subject, batch, row),
                mend="a log-ratio is to the reference, theirs = reference.pair_logprobs(batch); less its own detached value it "
                "is 0 for ever, and the same gradient never ends",
            )
    return None


def _values(subject: Subject, laboratory: Laboratory, batch: Any) -> Tensor | None:
    """Return [B] the loss of each row, without its weight; None if a term has no value for each row."""
    total = torch.zeros(len(batch), dtype=torch.float64)
    with torch.no_grad():
        for term in subject.loss(laboratory, batch).terms.values():
            if term.values.ndim == 0 or len(term.values) != len(batch):
                return None
            total = total + term.coefficient * term.values.double().reshape(len(batch), -1).sum(dim=1)
    return total
