"""The law of the objective: what it sees of a penalty, and where it does not apply."""

from dataclasses import replace

import pytest

import rlx
from rlx.algorithm import LossOutput, Term
from rlx.check.checker import LAWS, check_algorithm
from rlx.check.finding import NOT_APPLICABLE
from tests.check.checking import failed, subject
from tests.check.faulty import (
    AscendsOnRewards,
    Demonstrations,
    DrawnToTheSampler,
    KlThatIsZeroOnAverage,
    Rewards,
    WrongSignOfTheAdvantage,
)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (KlThatIsZeroOnAverage, "what is left of it is noise"),
        (DrawnToTheSampler, "pulls to the sampler"),
        (WrongSignOfTheAdvantage, "goes against the gradient of the expected reward"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_on_average_is_named(kind, said):
    assert said in failed(kind(), "objective")["objective"].wrong


def test_a_shipped_loss_with_k1_and_its_plain_gradient_is_named():
    grpo = rlx.load("algorithm", "grpo")
    plain = replace(grpo.loss, beta=0.1, kl_estimator="k1", kl_gradient="plain")
    assert "noise" in failed(replace(grpo, loss=plain), "objective")["objective"].wrong
    right = replace(grpo.loss, beta=0.1, kl_estimator="k1", kl_gradient="importance_weighted")
    assert failed(replace(grpo, loss=right), "objective") == {}


def test_it_is_about_losses_and_policy_gradients_alone():
    assert failed(AscendsOnRewards(), "objective") == {}  # the loss is right, the update is not: see the law update
    (verdict,) = check_algorithm(subject(Demonstrations()), laws={"objective": LAWS["objective"]})
    assert verdict.finding.status == NOT_APPLICABLE


class ExponentialOfAdvantages(Rewards):
    """Likelihoods weighed by the exponential of advantages (arXiv:1910.00177): where these are 0 everything is imitated."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return LossOutput({"policy": Term(-(batch.advantages[..., None] / 0.05).exp() * ours, batch.weights)})


@pytest.mark.parametrize("seed", [0, 5])  # with the second, all rewards that it looks at are equal
def test_weights_by_the_exponential_of_advantages_are_no_noise(seed):
    checked = replace(subject(ExponentialOfAdvantages()), seed=seed)
    (verdict,) = check_algorithm(checked, laws={"objective": LAWS["objective"]})
    assert not verdict.failed, verdict
