"""The losses within an algorithm, and their own laws."""

from __future__ import annotations

from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Subject
from rlx.algorithm.contract_within import losses_of
from rlx.loss.base import PreferenceLoss
from rlx.loss.laws import check_loss
from rlx.loss.policy_gradient_base import PolicyGradientLoss


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
