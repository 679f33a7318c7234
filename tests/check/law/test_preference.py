"""The law of directions, of pairs: what is said of a side that goes astray, and of a penalty on both sides."""

import pytest
import torch

from rlx.algorithm import LossOutput, Term
from rlx.loss.weight import token_mean
from tests.check.checking import failed
from tests.check.faulty import Preferences
from tests.check.oversights import LikelihoodOfTheRejected


def test_the_term_that_goes_astray_is_named():
    found = failed(LikelihoodOfTheRejected(), "direction")["direction"]
    assert found.wrong.startswith("rejected completions are made likelier by the term nll, which reads that side")
    assert "terms['nll']" in found.where


class EachSideATerm(Preferences):
    """DPO, and a penalty on the log-probabilities of the pair's tokens, a term for each side."""

    coefficient = 0.05

    def draw(self, lab):
        batch = super().draw(lab)
        weights = {"chosen": batch.chosen_mask, "rejected": batch.rejected_mask}
        return batch.with_weights(**{side: token_mean.formula(mask) for side, mask in weights.items()})

    def compute_loss(self, policy, reference, batch):
        output, ours = super().compute_loss(policy, reference, batch), policy.pair_logprobs(batch)
        more = {
            "chosen": Term(ours.chosen, batch.weights["chosen"], self.coefficient),
            "rejected": Term(ours.rejected, batch.weights["rejected"], 0.05),
        }
        return LossOutput({**output.terms, **more}, output.metrics)


class LikelihoodTurned(EachSideATerm):
    """A likelihood of the chosen completions with the wrong sign, beside an unlikelihood of the rejected ones."""

    coefficient = 0.2


class EntropyOfLogits(EachSideATerm):
    """The entropy is computed by hand of the policy's logits."""

    def draw(self, lab):
        batch = Preferences.draw(self, lab)
        return batch.with_weights(both=token_mean.formula(batch.sequences.completion_mask))

    def compute_loss(self, policy, reference, batch):
        output = Preferences.compute_loss(self, policy, reference, batch)
        logprobs = torch.log_softmax(policy.completion_logits(policy.layout(batch.sequences)), dim=-1)
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
        weights = batch.weights["both"][batch.sequences.completion_mask]
        return LossOutput({**output.terms, "entropy": Term(-entropy, weights, 0.05)}, output.metrics)


class ProbabilityOfEachSide(Preferences):
    """A penalty on the geometric mean of each side's probabilities: what a side gets depends on how likely it is."""

    turned = 1

    def compute_loss(self, policy, reference, batch):
        output, ours = super().compute_loss(policy, reference, batch), policy.pair_logprobs(batch)
        weights = batch.weights["preference"]
        chosen = (ours.chosen_sum / batch.chosen_mask.sum(dim=-1).clamp(min=1)).exp()
        rejected = (ours.rejected_sum / batch.rejected_mask.sum(dim=-1).clamp(min=1)).exp()
        more = {"chosen": Term(chosen, weights, 0.01), "rejected": Term(rejected**self.turned, weights, 0.01)}
        return LossOutput({**output.terms, **more}, output.metrics)


class AnotherOfTheRejected(ProbabilityOfEachSide):
    """The rejected side is lowered by something else: nothing is done to both alike."""

    turned = 3


@pytest.mark.parametrize("kind", [EachSideATerm, EntropyOfLogits, ProbabilityOfEachSide])
def test_a_penalty_on_confidence_is_not_accused(kind):
    assert failed(kind()) == {}


def test_a_term_that_is_turned_is_named():
    assert "made less likely by the term chosen" in failed(LikelihoodTurned(), "direction")["direction"].wrong
    assert "made less likely by the term chosen" in failed(AnotherOfTheRejected(), "direction")["direction"].wrong
