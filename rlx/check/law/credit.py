"""The part of the law of credit that needs no critic: what a reward at a token does to the advantages of others."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.subject import Subject
from rlx.loss.advantage.token import TokenAdvantage

LENGTHS = ((6, 4), (5, 2), (3, 6), (6, 5))  # [P, G] tokens of made-up completions
PAID = 3  # the place of the token that is rewarded, with tokens before and after it
EQUAL = 1e-9


def of_rewards(subject: Subject) -> Finding:
    """A reward teaches the tokens before it, and those nearer to it no less than those further away."""
    found = [getattr(subject.algorithm, item.name) for item in fields(subject.algorithm)]
    advantage = next((each for each in found if isinstance(each, TokenAdvantage) and not each.requires), None)
    if advantage is None:
        return skipped("there is no critic, and no advantage of tokens")
    effect = _effect(advantage)
    if effect is None or not bool(effect.abs().gt(EQUAL).any()):
        return skipped("advantages are not linear in the rewards of a completion")
    shown = ", ".join(f"{value:.3g}" for value in effect.tolist())
    example = f"a reward of 1 at token {PAID + 1} of {len(effect)} changes their advantages by {shown}"
    before, after = effect[:PAID], effect[PAID + 1 :]
    if bool(after.abs().gt(EQUAL).any()) and not bool(before.abs().gt(EQUAL).any()):
        return broken(
            "a reward moves the advantages of later tokens, and none of those that led to it",
            where="draw, in its advantage",
            example=example,
            mend="returns are summed from the end: rewards.flip(-1).cumsum(-1).flip(-1), discounted_returns(...)",
        )
    steps = effect[1 : PAID + 1] - effect[:PAID]
    if bool((steps < -EQUAL).all()):
        return broken(
            "a reward teaches a token the more the longer before it the token stands",
            where="draw, in its advantage",
            example=example,
            mend="a discount is a power of the distance to the reward, gamma ** (s - t), not of the place in the completion",
        )
    return passed("1 reward")


def _effect(advantage: TokenAdvantage) -> Tensor | None:
    """[T] by how much a reward in the first completion moves its advantages, beyond what it does to all (whitening).

    None where those of other prompts are moved by more than a level and a scale.
    """
    lengths = torch.tensor(LENGTHS)
    mask = torch.arange(int(lengths.max())) < lengths[..., None]
    rewards = torch.where(mask, torch.randn(mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.0)
    more = rewards.clone()
    more[0, 0, PAID] += 1
    usual, moved = (advantage(each, mask).double() for each in (rewards, more))
    x, y = usual[1:][mask[1:]], moved[1:][mask[1:]]
    spread = x - x.mean()
    scale = float((spread * (y - y.mean())).sum() / (spread * spread).sum().clamp(min=1e-300))
    level = float(y.mean()) - scale * float(x.mean())
    if float((y - scale * x - level).abs().max()) > 1e-6 * max(1.0, float(y.abs().max())):
        return None
    return (moved[0, 0] - scale * usual[0, 0] - level)[mask[0, 0]] / max(scale, 1e-12)
