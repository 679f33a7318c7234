"""The law that old log-probabilities are those of the token itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_rows import gap
from rlx.algorithm.contract_subject import Subject, completion_gradients, reads_logprobs, row_shown

SHIFT = 0.05  # nats by which a token's log-probabilities are moved, at most
EQUAL, OTHER = 1e-5, 1e-3  # gradients nearer than the first are the same; further apart than the second they are not


def alignment(subject: Subject) -> Finding:
    """The log-probability of a token is compared with the sampler's of that token, not of its neighbour."""
    if Need.REWARDS not in subject.needs or subject.goes_past:
        return skipped("no completions are sampled, or the loss reads the model itself")
    setting = subject.stand_in(spread=0.1)
    batch = subject.first_update(setting)
    sampled = getattr(batch, "sampling_logprobs", None)
    if sampled is None or len(batch) == 0 or sampled.shape != batch.completion_mask.shape:
        return skipped("the batch holds no sampling log-probabilities of its own")
    before, _ = subject.gradient(setting, batch)
    if not reads_logprobs(setting):
        return skipped("the loss does not read token log-probabilities through the policy")
    leaf = setting.policy.leaves["token_logprobs"]
    shift = SHIFT * torch.rand(len(leaf), generator=torch.Generator().manual_seed(0), dtype=leaf.dtype)
    inner, moves = _laid_out(setting, batch, shift, sampled)
    with torch.no_grad():
        leaf.add_(shift)
    after = [subject.gradient(setting, batch.with_values(sampling_logprobs=sampled + move))[0] for move in moves]
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
    return holds(f"{own:.0e}") if own < EQUAL else skipped("the loss reads more than differences of log-probabilities")


def _laid_out(setting: Any, batch: Any, shift: Tensor, like: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(bool [N], the leaves of tokens that are neither first nor last; moves of the sampling log-probabilities, as `like`).

    With a move every token's sampling log-probability shifts as does the policy's of the token itself, of the one before, of the
    one after.
    """
    inner = torch.zeros(len(shift), dtype=torch.bool)
    moves = [torch.zeros_like(like) for _ in range(3)]
    for row, group in enumerate(completion_gradients(setting, batch, torch.arange(len(shift)))):
        for side, places in enumerate(group):
            inner[places[1:-1]] = True
            mine, length = shift[places].to(like), len(places)
            moves[0][row, side, :length] = mine
            if length > 1:
                moves[1][row, side, : length - 1] = mine[1:]  # what the next token is compared with
                moves[2][row, side, 1:length] = mine[:-1]
    return inner, moves
