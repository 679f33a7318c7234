"""Two advantages, on groups of two rewards, on larger ones and on random rewards, all in float64.

Dimensions: B rows, P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlx.check.same_as.comparison import EXACT, Comparison, common_factor, numbers, relative_gap
from rlx.errors import ConfigError
from rlx.loss.advantage.completion import Advantage
from rlx.loss.advantage.token import TokenAdvantage
from rlx.seeding import Stream


def advantages(mine: Advantage | TokenAdvantage, other: Advantage | TokenAdvantage, *, name: str) -> Comparison:
    if isinstance(mine, Advantage) is not isinstance(other, Advantage):
        kinds = f"{type(mine).__name__} and {type(other).__name__}"
        raise ConfigError(f"same_as: of {kinds}, one is an advantage of completions and the other one of tokens")
    inputs = list(_reward_groups(mine, other) if isinstance(mine, Advantage) else _token_rewards())
    worst = 0.0
    differing: list[tuple[Any, Tensor, Tensor]] = []
    sides: list[tuple[Tensor, Tensor]] = []
    for given in inputs:
        ours, theirs = (each(*given[0], **{k: v for k, v in given[1].items() if k in each.requires}) for each in (mine, other))
        off = relative_gap(ours, theirs)
        worst, sides = max(worst, off), [*sides, (ours.flatten(), theirs.flatten())]
        if off > EXACT:
            differing.append((given, ours, theirs))
    tried = f"{len(inputs)} batches of chosen and random rewards"
    if not differing:
        return Comparison(True, tried, worst)
    given, ours, theirs = differing[0]
    factor = common_factor((torch.cat([ours for ours, _ in sides]), torch.cat([theirs for _, theirs in sides])), EXACT)
    first = f"the advantages are {numbers(ours)}, those of {name} {numbers(theirs)}"
    first += "" if factor is None else f": {factor:.6g} times as much everywhere"
    sign = "rewards all equal" if bool((given[0][0] == given[0][0].flatten()[0]).all()) else "rewards that differ"
    alike = f"{len(inputs) - len(differing)} of {len(inputs)} batches"
    return Comparison(False, tried, worst, first, where=sign, example=f"rewards {numbers(given[0][0])}", equal=alike)


def _reward_groups(*advantages: Any) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    """Rewards [P, G], the smallest first, with lengths [P, G] and greedy rewards [P]."""
    least = max(2, *(each.smallest_group for each in advantages))
    for size in (least, least + 1):
        for levels in itertools.product((0.0, 0.5, 1.0), repeat=size):
            yield (torch.tensor([levels], dtype=torch.float64),), _beside(1, size, 0)
    for seed in range(8):
        rng = Stream(seed, ("same_as", "rewards")).torch()
        prompts, size = 2 + seed % 3, least + seed % 4
        rewards = torch.randn(prompts, size, generator=rng, dtype=torch.float64)
        yield (rewards.abs() if seed % 2 else rewards,), _beside(prompts, size, seed)


def _beside(prompts: int, size: int, seed: int) -> dict[str, Tensor]:
    rng = Stream(seed, ("same_as", "lengths")).torch()
    lengths = torch.randint(1, 20, (prompts, size), generator=rng)
    return {"lengths": lengths, "greedy_rewards": torch.rand(prompts, generator=rng, dtype=torch.float64)}


def _token_rewards() -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    """Rewards at tokens [B, T] with their mask, the smallest first, and values [B, T]."""
    for rows, tokens, seed in itertools.product((1, 2, 4), (1, 2, 5), range(4)):
        rng = Stream(seed, ("same_as", "tokens", rows, tokens)).torch()
        lengths = torch.randint(1, tokens + 1, (rows, 1), generator=rng)
        mask = torch.arange(tokens) < lengths
        rewards, values = (
            torch.where(mask, torch.randn(rows, tokens, generator=rng, dtype=torch.float64), 0.0) for _ in range(2)
        )
        yield (rewards, mask), {"values": values}
