"""The law of closed forms: an algorithm promises only what it computes."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

import rlx
from rlx.algorithm import LossOutput, Need, mean_of
from rlx.algorithm.dpo import Dpo
from rlx.loss import policy_gradient_loss
from tests.check.checking import failed
from tests.check.faulty import Rewards


def test_a_loss_that_is_held_and_not_computed_promises_nothing():
    @dataclass(frozen=True, kw_only=True)
    class Own(Dpo):
        def compute_loss(self, policy, reference, batch):
            ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
            margin = (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)
            return LossOutput.of(-F.logsigmoid(0.02 * margin), torch.full((len(batch),), 1 / len(batch)))

    assert failed(Own(loss=rlx.load("loss", "dpo"), pairs_per_step=8), "closed_forms") == {}


@policy_gradient_loss
def held_by_the_exact_kl(ratio, vocabulary_kl, advantages, *, kl_weight=0.05):
    return -ratio * advantages + kl_weight * vocabulary_kl


def test_an_exact_kl_is_a_made_up_number_of_the_stand_in():
    algorithm = replace(rlx.load("algorithm", "custom_grpo"), loss=held_by_the_exact_kl())
    assert failed(algorithm, "closed_forms") == {}


class ALevelInTheKl(Rewards):
    """A figure called kl that is not 0 where the policy is its reference."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        theirs = reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        output = super().compute_loss(policy, reference, batch)
        return LossOutput(output.terms, {"kl": mean_of((ours - theirs).detach().exp(), batch.loss_mask)})


def test_a_kl_of_log_probabilities_is_0_where_policy_and_reference_agree():
    assert failed(ALevelInTheKl(), "closed_forms")["closed_forms"].wrong.startswith("kl is 1 where policy")
