"""Rewards that went to the wrong completions: a control that says how much an algorithm owes to its reward.

Dimensions: P prompts, G completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlx.seeding import Stream


def with_reward_noise(rewards: Mapping[str, Tensor], share: float, *, rng: Stream) -> dict[str, Tensor]:
    """Name -> [P, G] where a share of the completions have exchanged their rewards, all parts of one together.

    Which ones, and with whom, `rng` decides, over all groups. 0 changes nothing; at 1 a reward says nothing of its completion.
    """
    if share == 0:
        return dict(rewards)
    generator = rng.numpy()
    first = next(iter(rewards.values()))
    chosen = generator.permutation(first.numel())[: round(share * first.numel())]
    places, sources = torch.from_numpy(chosen.copy()), torch.from_numpy(generator.permutation(chosen))
    return {name: _moved(part, places, sources) for name, part in rewards.items()}


def _moved(part: Tensor, places: Tensor, sources: Tensor) -> Tensor:
    flat = part.flatten().clone()
    flat[places] = part.flatten()[sources]
    return flat.reshape(part.shape)
