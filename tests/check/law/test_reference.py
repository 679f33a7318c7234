"""Laws of the reference accuse no shipped preference loss."""

import pytest
import torch
import torch.nn.functional as F

import rlx
from rlx.algorithm.base import Need
from rlx.algorithm.custom_grpo import CustomGrpo
from rlx.loss import preference_loss
from tests.check.checking import failed, with_loss
from tests.loss.catalogue import PREFERENCE, load

NEEDS_SCORES = {name for name in PREFERENCE if "scores" in load(name).requires}  # which pairs of sums do not have


@pytest.mark.parametrize("name", sorted(set(PREFERENCE) - NEEDS_SCORES))
def test_no_shipped_loss_is_accused(name):
    assert failed(with_loss(load(name)), "reference", "anchor") == {}


@preference_loss
def takes_chosen_from_itself(policy_margin, reference, *, beta=0.1):
    return -F.logsigmoid(beta * (policy_margin - (reference.chosen_sum - reference.chosen_sum)))


def test_a_loss_whose_reference_cancels_is_named():
    found = failed(with_loss(takes_chosen_from_itself()), "reference")
    assert "neither side's log-probabilities of the reference change the loss" in found["reference"].wrong


class AdaptiveKlInTheReward(CustomGrpo):
    """A KL in the reward, whose coefficient follows a target from draw to draw (arXiv:1909.08593); the loss may add its own."""

    @property
    def active_needs(self):
        return super().active_needs | {Need.REFERENCE}

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        drift = ((batch.sampling_logprobs - theirs) * batch.loss_mask).sum(dim=-1)
        coefficient = lab.state.get("coefficient", torch.tensor(0.1))
        lab.state["coefficient"] = coefficient * (1 + 0.1 * (drift.mean() / 0.1 - 1).clamp(-0.2, 0.2))
        return batch.with_values(advantages=self.advantage(batch.rewards - coefficient * drift))


def test_a_coefficient_that_follows_a_target_is_not_accused():
    assert failed(AdaptiveKlInTheReward(**vars(rlx.load("algorithm", "grpo"))), "anchor") == {}


@preference_loss
def holds_the_kl_of_one_side(margin, chosen_vocabulary_kl, rejected_vocabulary_kl, *, beta=0.1, alpha=0.5, holds_chosen=True):
    chosen, rejected = chosen_vocabulary_kl.sum(dim=1), rejected_vocabulary_kl.sum(dim=1)
    apart = rejected - chosen.detach() if holds_chosen else rejected.detach() - chosen
    return -F.logsigmoid(beta * (margin - alpha * apart))


def test_a_kl_that_is_raised_everywhere_is_named():
    found = failed(with_loss(holds_the_kl_of_one_side(holds_chosen=False)), "anchor")
    assert "driven away from its reference" in found["anchor"].wrong
    assert failed(with_loss(holds_the_kl_of_one_side()), "anchor") == {}
