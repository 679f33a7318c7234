"""The law of giving tokens up: a clip stops what has gone far enough the right way, not what has gone astray."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.algorithm.contract_batch import parts_of
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Setting, Subject, completion_gradients, reads_logprobs, row_shown
from rlx.loss.law_clip import FAR, MOVES

DEPTH = 1.5  # nats by which all log-probabilities are lower, so that those which rise stay below 0
MEND = "the clipped objective is the smaller of the two: -torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A)"


@dataclass(frozen=True)
class _Tokens:
    """All tokens of a batch, in the order of the stand-in policy's leaves.

    slopes: float64 [N] of the loss; counted: bool [N], those that add to a term's value.
    """

    slopes: Tensor
    counted: Tensor


def clip(subject: Subject) -> Finding:
    """Tokens that went the right way may be given up (clipped), those that went the wrong way not before them."""
    if Need.REWARDS not in subject.needs or subject.algorithm.kind is AlgorithmType.PREFERENCE_LEARNING:
        return skipped("no rewarded completions are given up")
    setting = subject.stand_in(spread=0.0, depth=DEPTH)
    batch = subject.first_update(setting)
    if len(batch):
        subject.loss(setting, batch)  # now every token has its leaf
    if not reads_logprobs(setting):
        return skipped("the loss does not read token log-probabilities through the policy")
    start = _moved(subject, setting, batch, 0.0)
    rises, learning = start.slopes < 0, start.slopes != 0  # the loss falls as a token becomes likelier
    ways = [[_moved(subject, setting, batch, way * move) for move in (*MOVES, FAR)] for way in (1, -1)]
    up, down = ([tokens.slopes for tokens in way] for way in ways)
    right = [torch.where(rises, raised, lowered) for raised, lowered in zip(up, down, strict=True)]
    for place, move in enumerate(MOVES):
        lost = learning & (torch.where(rises, down[place], up[place]) == 0)
        counted = torch.where(rises, ways[1][place].counted, ways[0][place].counted)
        before = right[place - 1] != 0 if place else learning  # a dual clip sets in later than the one it doubles
        for tokens, what in (
            (lost & (right[-1] != 0), f"are given up, while those that went {FAR:g} nats the right way go on learning"),
            (lost & counted & before, "count in the loss, but nothing draws them back"),
        ):
            if bool(tokens.any()):
                return broken(
                    f"tokens that went {move:g} nats the wrong way {what}",
                    number=f"{int(tokens.sum())} tokens",
                    where="compute_loss",
                    example=_shown(subject, setting, batch, tokens),
                    mend=MEND,
                )
    return holds(f"{int((learning & (right[-1] == 0)).sum())} of {int(learning.sum())} tokens given up")


def _moved(subject: Subject, setting: Setting, batch: Any, distance: float) -> _Tokens:
    """The tokens once the policy has made each likelier by `distance` nats than it was when sampled, its reference too."""
    leaf = setting.policy.leaves["token_logprobs"]
    reference = copy.copy(setting.reference)
    reference.numbers = replace(reference.numbers, drift=-distance)
    setting = replace(setting, reference=reference)
    if (kept := getattr(batch, "reference_logprobs", None)) is not None:
        batch = batch.with_values(reference_logprobs=torch.where(batch.completion_mask, kept + distance, 0.0))
    before = leaf.detach().clone()
    with torch.no_grad():
        leaf.add_(distance)
    gradient, _ = subject.gradient(setting, batch)
    counted = _counted(subject, setting, batch, len(leaf))
    with torch.no_grad():
        leaf.copy_(before)
    return _Tokens(gradient[: len(leaf)], counted)


def _counted(subject: Subject, setting: Setting, batch: Any, size: int) -> Tensor:
    """bool [N]: tokens where a term that has a value a token, or a completion, is not 0."""
    found = torch.zeros(size, dtype=torch.bool)
    terms = subject.loss(setting, batch).terms.values()
    for part in parts_of(batch):
        mask = part.sequences.completion_mask
        places = completion_gradients(setting, part, torch.arange(size))
        for values in (term.values.detach() for term in terms):
            each = values[..., None].expand(mask.shape) if values.shape == mask.shape[:-1] else values
            if each.shape != mask.shape:
                continue
            for row, group in enumerate(places):
                for column, place in enumerate(group):
                    found[place] |= each[row, column, : len(place)] != 0
    return found


def _shown(subject: Subject, setting: Setting, batch: Any, tokens: Tensor) -> str:
    """The first row that holds one of the tokens."""
    for part in parts_of(batch):
        for row, group in enumerate(completion_gradients(setting, part, tokens)):
            if any(bool(place.any()) for place in group):
                return row_shown(subject, part, row)
    return ""
