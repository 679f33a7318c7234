"""The law of giving tokens up: a clip stops what has gone far enough, not what has gone astray.

Dimensions: B sequences, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlx.loss.base import Loss
from rlx.loss.law_case import case_of
from rlx.loss.policy_gradient_base import PolicyGradientLoss

MOVES = (0.25, 0.5)  # nats a token between the policy and its sampler: beyond usual clips, short of a dual one
FAR = 0.9  # nats, where every usual clip has set in
NEAR = 1e-6  # on either side of an end that a loss names, in nats
TOKENS = 3  # few: a smooth weight of the ratio of a whole sequence does not fall to 0
LOWER = 2.0  # nats by which every token is made less likely, so that a likelier sampler is still one


@dataclass(frozen=True)
class Given:
    """What a loss does with tokens: alive, bool [B, T], those with a gradient, however small; counted, those with a value."""

    alive: Tensor
    counted: Tensor


def clip(loss: Loss) -> str | None:
    """Tokens are given up once they have gone the right way, where the loss says so, never before for going the wrong way."""
    if not isinstance(loss, PolicyGradientLoss):
        return None
    loss = replace(loss, beta=0.0, modifiers={})
    return _astray(loss) or _elsewhere(loss)


def _astray(loss: PolicyGradientLoss) -> str | None:
    start, far, before = _given(loss, 0.0), _given(loss, FAR), _given(loss, 0.0)
    for move in MOVES:
        wrong = _given(loss, -move)
        lost = start.alive & ~wrong.alive
        if bool((lost & far.alive).any()):
            return (
                f"tokens that went {move:g} nats the wrong way are given up, while those that went {FAR:g} nats the right way "
                "go on learning; the clipped objective is the smaller of the two: -torch.minimum(ratio * A, clipped_ratio * A)"
            )
        if bool((lost & wrong.counted & before.alive).any()):  # a dual clip sets in later than the one it doubles
            return (
                f"tokens that went {move:g} nats the wrong way are counted but learn nothing; bound the objective from above "
                "alone: -torch.minimum(ratio * A, clipped_ratio * A), not -clipped_ratio * A"
            )
        before = _given(loss, move)
    return None


def _elsewhere(loss: PolicyGradientLoss) -> str | None:
    """Where a loss that names ends of its ratio gives tokens up, it does so there."""
    for name, end, sign in zip(("lower", "upper"), loss.clip_ends() or (), (-1, 1), strict=False):
        if end <= 0:
            continue
        distance = sign * math.log(end)
        far, inside, beyond = (_given(loss, distance + more) for more in (FAR, -NEAR, NEAR))
        mine = _signs(loss) == sign
        given_up = _given(loss, 0.0).alive & ~far.alive & mine
        if bool((given_up & ~inside.alive).any()) or bool((given_up & beyond.alive).any()):
            return f"tokens are not given up at the ratio {end:g}, which the loss names as its {name} end; are the ends swapped?"
    return None


def _signs(loss: PolicyGradientLoss) -> Tensor:
    """[B, 1] the way that a token should go."""
    return torch.sign(case_of(loss, tokens=TOKENS).tensors["advantages"])[:, None]


def _given(loss: PolicyGradientLoss, distance: float) -> Given:
    """What becomes of tokens that the policy has moved by `distance` nats in the way that their advantages say."""
    case = case_of(loss, tokens=TOKENS)
    mask = case.tensors["completion_mask"]
    policy = torch.where(mask, case.tensors["token_logprobs"] - LOWER, 0.0)
    before = torch.where(mask, policy - distance * _signs(loss), 0.0)
    moved = {"token_logprobs": policy, "sampling_logprobs": before, "proximal_logprobs": before, "reference_logprobs": policy}
    case = case.with_tensors(**moved)
    _, gradients = case.gradients()
    return Given(gradients["token_logprobs"] != 0, case.evaluate(case.tensors).detach() != 0)
