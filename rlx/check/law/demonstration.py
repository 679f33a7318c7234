"""Laws of demonstrations: they become more likely, by their log-probabilities or by the logits that predict them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken
from rlx.check.place import first_result
from rlx.check.subject import Subject, row_shown

FLAT = 1e-6  # a smaller slope counts as 0
FEW_ROWS = slice(0, 4)  # rows of a batch for the real model
SOFTMAX = {"softmax", "log_softmax", "cross_entropy"}
SUM_TO_ONE = 1e-4  # tolerance of a sum of probabilities


def of_logits(subject: Subject) -> Finding | None:
    """Return a finding if a loss that reads logits takes their softmax twice, or lowers the logits of demonstrated tokens."""
    laboratory = subject.real(moved=True)
    batch = subject.first_update(laboratory)[FEW_ROWS]
    if place := first_result(lambda: subject.loss(laboratory, batch), _is_softmax_of_probabilities):
        return broken(
            "a softmax, or a cross entropy, which takes one, is given what are probabilities already: they add up to 1. It is "
            "taken twice, so that a token that is certain still costs, and one that is unlikely is hardly learned",
            where=place,
            example=row_shown(subject, batch, 0),
            mend="cross_entropy and log_softmax take logits as the model gives them; of probabilities take the logarithm",
        )
    if subject.algorithm.kind is not AlgorithmType.SUPERVISED or Need.REWARDS in subject.needs:
        return None
    (part, *others) = parts_of(batch)
    if others or part.sequences.group_size != 1:
        return None
    unsure: list[Tensor] = []

    def replaced(_: Any, __: Any, logits: Tensor) -> Tensor:
        """Return random logits in place of the model's: if a token is certain, its logit may rightly be lowered."""
        drawn = torch.randn(logits.shape, generator=torch.Generator().manual_seed(len(unsure)), dtype=logits.dtype)
        unsure.append(drawn.to(logits.device).requires_grad_(logits.requires_grad))
        return unsure[-1]

    handle = laboratory.policy.model.get_output_embeddings().register_forward_hook(replaced)
    try:
        loss = subject.loss(laboratory, batch).loss
    finally:
        handle.remove()
    targets = laboratory.policy.layout(part.sequences).targets
    if not loss.requires_grad or len(unsure) != 1 or unsure[0].numel() != len(targets) * unsure[0].shape[-1]:
        return None
    (slopes,) = torch.autograd.grad(loss, unsure)
    own = slopes.reshape(len(targets), -1).gather(1, targets[:, None])[:, 0]
    lowered = int((own > 0).sum())
    if 2 * lowered <= len(own):
        return None
    return broken(
        f"the loss lowers the logit of {lowered} of {len(own)} tokens of demonstrated completions where it is to be raised",
        number=f"{lowered} of {len(own)} tokens",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="a likelihood enters the loss with a minus; and the logits that predict a token are held against this token, "
        "part.sequences.completion_tokens[part.sequences.completion_mask] for policy.logits(part.sequences), not the one before",
    )


def _is_softmax_of_probabilities(name: str, args: tuple[Any, ...], _: Any) -> bool:
    given = args[0] if name in SOFTMAX and args else None
    if not isinstance(given, Tensor) or not given.requires_grad or given.ndim < 2 or given.shape[-1] < 3:
        return False
    return bool((given >= 0).all()) and bool((given.sum(dim=-1) - 1).abs().lt(SUM_TO_ONE).all())


def demonstrated(subject: Subject, part: Any, slopes: list[Tensor]) -> Finding | str:
    """Test that, in supervised learning, the loss falls when the demonstrated completions become more likely."""
    each = [float(slope.sum()) for slope in slopes]
    if sum(each) < 0:
        return f"{sum(each):.1e}"
    return broken(
        f"raising the demonstrated completions raises the loss (slope {sum(each):+.2e}, it must be negative)",
        number=f"{sum(each):+.1e}",
        where="compute_loss",
        example=row_shown(subject, part, 0),
        mend="a likelihood enters the loss with a minus",
    )


def imitated(subject: Subject, part: Any, slopes: list[Tensor]) -> Finding | str:
    """Test that, in supervised learning from pairs, not all rejected completions become more likely, as chosen ones do."""
    raised = [row for row, slope in enumerate(slopes) if float(slope[1]) < -FLAT and float(slope[0]) < -FLAT]
    if len(raised) < len(slopes) or not raised:
        return f"{sum(float(slope[0]) for slope in slopes):.1e}"
    return broken(
        f"the rejected completions of all {len(raised)} pairs are made likelier, as the chosen ones are (slope "
        f"{float(slopes[0][1]):+.2e}, it must not be negative)",
        number=f"{len(raised)} of {len(slopes)} pairs",
        where="compute_loss, or the batch that draw makes",
        example=row_shown(subject, part, raised[0]),
        mend="lab.pairs(...).chosen_only() holds the completions that are to be imitated",
    )
