"""Compares two losses or advantages on batches of one or a few tokens, groups of two rewards, and random ones, in float64.

Dimensions: B rows, P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.check.law.loss import Case, case_of
from rlx.check.same_as.comparison import EXACT, Agreement, common_factor, ends_of_clip, numbers, relative_gap, side_of_clip
from rlx.errors import ConfigError
from rlx.loss.advantage.completion import Advantage
from rlx.loss.advantage.token import TokenAdvantage
from rlx.loss.base import Loss
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.loss.preference.base import PreferenceLoss
from rlx.seeding import Stream

LOG_RATIOS = (0.0, 0.05, -0.05, 0.15, -0.15, 0.25, -0.25, 0.6, -0.6, 1.5, -1.5, 3.0, -3.0)  # nats a token
VISIBLE = 1e-3  # relative difference that four places show
GAPS = (0.5, -0.5, 0.0)  # nats a token between policy and reference


@dataclass(frozen=True, eq=False)
class _Point:
    """A small batch with the results of both sides: the loss of each row [B], and the gradients at the leaves."""

    case: Case
    rows: tuple[Tensor, Tensor]
    gradients: tuple[Tensor, Tensor]

    @property
    def off(self) -> float:
        """The larger of the relative differences of losses and gradients."""
        return max(relative_gap(*self.rows), relative_gap(*self.gradients))


def compare_losses(mine: Loss, other: Loss, *, name: str) -> Agreement:
    """Compare two losses. Raises ConfigError unless both are of preferences, or of policy gradients. name: of the other one."""
    bases = (PreferenceLoss, PolicyGradientLoss)
    if not any(isinstance(mine, base) and isinstance(other, base) for base in bases):
        kinds = f"{type(mine).__name__} and {type(other).__name__}"
        raise ConfigError(f"same_as: {kinds} are not both losses of preferences, or both of policy gradients")
    worst, count = 0.0, 0
    differing: list[_Point] = []
    agreeing: list[_Point] = []
    for case in _cases(mine, other):
        point = _point(case, mine, other)
        count += 1
        worst = max(worst, point.off)
        (differing if point.off > EXACT else agreeing).append(point)
    tried = f"{count} batches of random and chosen tensors, from one token up"
    if not differing:
        return Agreement(True, tried, worst)
    point = differing[0]  # cases are sorted by size
    what, (ours, theirs) = ("gradient", point.gradients) if relative_gap(*point.rows) <= EXACT else ("loss", point.rows)
    sides = [pair for each in (*differing, *agreeing) for pair in (each.rows, each.gradients)]
    factor = common_factor(_joined(sides), EXACT)
    place = int((ours - theirs).abs().flatten().nan_to_num(float("inf")).argmax())
    first = f"the {what} is {float(ours.flatten()[place]):.6g}, that of {name} {float(theirs.flatten()[place]):.6g}"
    if factor is not None:
        first += f": {factor:.6g} times as much everywhere"
    regions = [_region(each, mine, other) for each in differing], [_region(each, mine, other) for each in agreeing]
    alike = sorted(set(regions[1]) - set(regions[0]) - {""})
    return Agreement(
        False,
        tried,
        worst,
        first=first,
        where=_region(point, mine, other) or f"{len(point.case)} rows",
        example=_shown(point.case),
        equal="; ".join(alike),
    )


def _joined(sides: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([ours.flatten() for ours, _ in sides]), torch.cat([theirs.flatten() for _, theirs in sides])


def _point(case: Case, mine: Loss, other: Loss) -> _Point:
    rows, gradients = [], []
    for loss, each in ((mine, case), (other, case_of(other))):
        own = replace(each, loss=loss, tensors=case.tensors)
        values = own.weights * own.evaluate(own.tensors).detach()
        rows.append(values.reshape(len(values), -1).sum(dim=1))
        found = own.gradients()[1]
        gradients.append(torch.cat([found[name].flatten() for name in case.leaves if name in found]))
    return _Point(case, (rows[0], rows[1]), (gradients[0], gradients[1]))


def _cases(mine: Loss, other: Loss) -> Iterator[Case]:
    """Yield batches for both losses, the smallest first."""
    wide = _all_tensors(mine, other)
    if isinstance(mine, PolicyGradientLoss):
        yield from _one_token(wide)
        for lengths in ((2,), (1, 2), (3, 1)):
            for seed in range(6):
                yield _few_tokens(wide, lengths, seed)
    else:
        for tokens, seed, spread in itertools.product((1, 2, 3), range(4), (0.0, 0.3, 2.0)):
            case = _all_tensors(mine, other, rows=4, tokens=tokens, seed=seed, spread=spread)
            for row in (1, 2, 0):  # the first has no empty side
                yield replace(case, tensors={name: _rounded(tensor)[row : row + 1] for name, tensor in case.tensors.items()})
    for seed, spread in itertools.product(range(6), (0.0, 0.05, 0.5, 2.0)):
        yield _all_tensors(mine, other, seed=seed, spread=spread)


def _all_tensors(mine: Loss, other: Loss, **settings: Any) -> Case:
    """Return a batch with the tensors that either loss reads."""
    cases = [case_of(loss, **settings) for loss in (mine, other)]
    leaves = tuple(dict.fromkeys((*cases[0].leaves, *cases[1].leaves)))
    return replace(cases[0], tensors={**cases[1].tensors, **cases[0].tensors}, leaves=leaves)


def _rounded(tensor: Tensor) -> Tensor:
    return (tensor * 10).round() / 10 if tensor.is_floating_point() else tensor


def _one_token(case: Case) -> Iterator[Case]:
    """Yield completions of one token: all sides of a clip, both signs of the advantage, both sides of the reference."""
    for gap, advantage, log_ratio in itertools.product(GAPS, (1.0, -1.0), LOG_RATIOS):
        yield _of_numbers(case, [[log_ratio]], [advantage], gap)


def _few_tokens(case: Case, lengths: Sequence[int], seed: int) -> Case:
    rng = Stream(seed, ("same_as", *lengths)).numpy()
    ratios = [[round(float(value), 1) for value in rng.normal(0, 0.5, length)] for length in lengths]
    return _of_numbers(case, ratios, [round(float(value), 1) for value in rng.normal(0, 1, len(lengths))], 0.3)


def _of_numbers(case: Case, log_ratios: list[list[float]], advantages: list[float], gap: float) -> Case:
    width = max(map(len, log_ratios))
    mask = torch.tensor([[place < len(row) for place in range(width)] for row in log_ratios])
    moved = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in log_ratios], dtype=torch.float64)
    own = torch.where(mask, torch.full(mask.shape, -3.5, dtype=torch.float64), 0.0)
    before = own - moved
    tensors = {
        "token_logprobs": own,
        "completion_mask": mask,
        "sampling_logprobs": before,
        "proximal_logprobs": before,
        "reference_logprobs": torch.where(mask, own - gap, 0.0),
        "entropy": torch.where(mask, 0.7, 0.0).double(),
        "vocabulary_kl": torch.where(mask, 0.3, 0.0).double(),
        "advantages": torch.tensor(advantages, dtype=torch.float64),
    }
    return replace(case, tensors=tensors)


def _region(point: _Point, mine: Loss, other: Loss) -> str:
    """Describe the sign of the advantage and side of the clip of one token, or the sign of the margin of one pair."""
    tensors = point.case.tensors
    if "advantages" in tensors:
        if tensors["token_logprobs"].numel() != 1:
            return ""
        ratio = float((tensors["token_logprobs"] - tensors["sampling_logprobs"]).exp())
        return side_of_clip(float(tensors["advantages"]), ratio, ends_of_clip(mine, other))
    if len(point.case) != 1:
        return ""
    sums = {name: float(tensors[f"{name}.chosen"].sum() - tensors[f"{name}.rejected"].sum()) for name in ("policy", "reference")}
    margin = sums["policy"] - sums["reference"]
    lengths = [int(tensors[f"policy.{side}_mask"].sum()) for side in ("chosen", "rejected")]
    sign = "0" if abs(margin) < 1e-9 else "above 0" if margin > 0 else "below 0"
    return f"margin {sign}, lengths {'equal' if lengths[0] == lengths[1] else 'unequal'}"


def _shown(case: Case) -> str:
    """Return the tensors of a small batch as text."""
    pairs = ("policy.chosen", "policy.rejected", "reference.chosen", "reference.rejected")
    rollouts = ("token_logprobs", "sampling_logprobs", "reference_logprobs", "advantages")
    return ", ".join(f"{name} {numbers(case.tensors[name])}" for name in (pairs if "policy.chosen" in case.tensors else rollouts))


# Compares two advantages on groups of two rewards, larger groups and random rewards, in float64.


def compare_advantages(mine: Advantage | TokenAdvantage, other: Advantage | TokenAdvantage, *, name: str) -> Agreement:
    """Compare two advantages. Raises ConfigError unless both are of completions, or of tokens. name: of the other one."""
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
        worst, sides = max(worst, off), [*sides, (ours, theirs)]
        if off > EXACT:
            differing.append((given, ours, theirs))
    tried = f"{len(inputs)} batches of chosen and random rewards"
    if not differing:
        return Agreement(True, tried, worst)
    visible = (each for each in differing if relative_gap(each[1], each[2]) > VISIBLE)
    given, ours, theirs = next(visible, differing[0])
    factor = common_factor(_joined(sides), EXACT)
    first = f"the advantages are {numbers(ours)}, those of {name} {numbers(theirs)}"
    first += "" if factor is None else f": {factor:.6g} times as much everywhere"
    sign = "rewards all equal" if bool((given[0][0] == given[0][0].flatten()[0]).all()) else "rewards that differ"
    alike = f"{len(inputs) - len(differing)} of {len(inputs)} batches"
    return Agreement(False, tried, worst, first, where=sign, example=f"rewards {numbers(given[0][0])}", equal=alike)


def _reward_groups(*advantages: Any) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    """Yield rewards [P, G], the smallest groups first, with lengths [P, G] and greedy rewards [P]."""
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
    """Yield rewards at tokens [B, T] with their mask, the smallest first, and values [B, T]."""
    for rows, tokens, seed in itertools.product((1, 2, 4), (1, 2, 5), range(4)):
        rng = Stream(seed, ("same_as", "tokens", rows, tokens)).torch()
        lengths = torch.randint(1, tokens + 1, (rows, 1), generator=rng)
        mask = torch.arange(tokens) < lengths
        rewards, values = (
            torch.where(mask, torch.randn(rows, tokens, generator=rng, dtype=torch.float64), 0.0) for _ in range(2)
        )
        yield (rewards, mask), {"values": values}
