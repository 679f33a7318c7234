"""The losses within an algorithm keep the laws of losses."""

from dataclasses import dataclass, replace

import torch.nn.functional as F

import rlx
from rlx.fields import within
from rlx.loss.preference.base import PreferenceLoss
from tests.check.checking import failed


@dataclass(frozen=True, kw_only=True)
class ByHand(PreferenceLoss):
    beta: float = within(above=0, default=0.1)

    def values(self, policy, reference):
        margin = policy.chosen_sum - reference.chosen_sum - policy.rejected_sum + reference.rejected_sum
        return -F.logsigmoid(self.beta * margin)


class Upside(ByHand):
    def values(self, policy, reference):
        return -super().values(policy, reference)


def test_a_plain_loss_by_hand_passes():
    assert failed(replace(rlx.load("algorithm", "dpo"), loss=ByHand()), "losses") == {}


def test_a_faulty_loss_is_named_with_its_place():
    found = failed(replace(rlx.load("algorithm", "dpo"), loss=Upside()), "losses")["losses"]
    assert "direction" in found.wrong
    assert found.where == "algorithm.loss (Upside)"
