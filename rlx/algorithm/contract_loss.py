"""The losses within an algorithm, and their own laws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Subject
from rlx.loss.base import Loss, PreferenceLoss
from rlx.loss.laws import check_loss
from rlx.loss.policy_gradient_base import PolicyGradientLoss


def losses_of(owner: Any, path: str = "algorithm") -> Iterator[tuple[str, Loss]]:
    """(where, loss) for every loss in a tree of dataclasses; not those within a loss."""
    if isinstance(owner, Loss):
        yield path, owner
    elif is_dataclass(owner) and not isinstance(owner, type):
        for item in fields(owner):
            yield from losses_of(getattr(owner, item.name), f"{path}.{item.name}")
    elif isinstance(owner, Mapping):
        for key, value in owner.items():
            yield from losses_of(value, f"{path}.{key}")


def losses(subject: Subject) -> Finding:
    """Losses within keep the laws of tensors: weights, split, NaN in padding, order, finite, slopes, direction, clip."""
    found = [
        (path, loss) for path, loss in losses_of(subject.algorithm) if isinstance(loss, (PreferenceLoss, PolicyGradientLoss))
    ]
    if not found:
        return skipped("there is no loss of rlx within")
    count = 0
    for path, loss in found:
        for verdict in check_loss(loss):
            if verdict.law == "constants":  # what comes from reference and batch carries no gradient here: see belongs
                continue
            count += 1
            if verdict.broken is not None:
                wrong, _, mend = verdict.broken.partition("; ")
                return broken(f"law {verdict.law}: {wrong}", where=f"{path} ({type(loss).__name__})", mend=mend)
    return holds(f"{count} laws")
