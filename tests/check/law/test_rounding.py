"""Advantages that are rounded are found by what rewards turned round make of them."""

from dataclasses import dataclass

import torch

from tests.check.checking import failed
from tests.check.misreadings import RoundedDown


@dataclass(frozen=True, kw_only=True)
class RoundedUp(RoundedDown):
    def advantages(self, rewards):
        return torch.ceil((rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-4))


def test_the_way_that_advantages_are_rounded_is_said():
    for kind, way in ((RoundedDown, "down"), (RoundedUp, "up")):
        assert failed(kind(), "alike")["alike"].wrong.endswith(f"they are rounded {way}")
