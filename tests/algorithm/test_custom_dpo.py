from dataclasses import replace

import pytest
import torch

import rlx
from rlx.algorithm.regularizer import entropy, squared_log_ratio
from rlx.errors import ConfigError
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Optimizer

pytestmark = pytest.mark.whole


def custom(**changes):
    return rlx.load("algorithm", "custom_dpo", **{"pairs_per_step": 8, **changes})


def test_the_terms_are_preference_likelihood_and_regulariser(lab):
    algorithm = custom(sft_loss_weight=0.5, regularization_weight=2.0)
    batch = algorithm.draw(lab)
    output = algorithm.compute_loss(lab.policy, lab.reference, batch)
    ours = lab.policy.pair_logprobs(batch)
    nll = -(ours.chosen_sum / ours.chosen_length).mean()
    assert output.terms["sft"].total.item() == pytest.approx(0.5 * nll.item())
    alone = custom(preference_loss_weight=0.0, sft_loss_weight=0.0, regularization_weight=1.0)
    regularization = alone.compute_loss(lab.policy, lab.reference, batch).loss.item()
    assert output.terms["regularization"].total.item() == pytest.approx(2 * regularization)
    plain = rlx.load("algorithm", "dpo").compute_loss(lab.policy, lab.reference, batch).loss.item()
    assert output.loss.item() == pytest.approx(plain + 0.5 * nll.item() + 2 * regularization)


@pytest.mark.parametrize(("weight", "term"), [("preference_loss_weight", "preference"), ("sft_loss_weight", "sft")])
def test_a_term_of_weight_zero_is_not_computed_but_the_figures_stay(lab, weight, term):
    algorithm = custom(**{weight: 0.0})
    output = algorithm.compute_loss(lab.policy, lab.reference, algorithm.draw(lab))
    assert term not in output.terms
    assert {"margin", "accuracy", "rewards_chosen", "logprobs_rejected"} <= output.metrics.keys()


@pytest.mark.parametrize("regularizer", [squared_log_ratio(), entropy()], ids=repr)
def test_every_regulariser_moves_the_policy(lab, regularizer):
    weights = {"preference_loss_weight": 0.0, "sft_loss_weight": 0.0, "regularization_weight": 1.0}
    algorithm = replace(custom(), regularizer=regularizer, **weights)
    loss = algorithm.compute_loss(lab.policy, lab.reference, algorithm.draw(lab)).loss
    gradients = torch.autograd.grad(loss, lab.policy.parameters())
    assert sum(gradient.abs().sum().item() for gradient in gradients) > 0


def test_adaptive_clipping_reaches_the_step():
    parameter = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = Optimizer(lambda p: torch.optim.SGD(p, lr=1.0), [parameter], schedule=Constant(warmup_steps=0), num_steps=1)
    algorithm = custom(max_grad_norm=None, adaptive_gradient_clipping=0.1)
    figures = algorithm.update_policy(lambda by=None: {"loss": [torch.tensor([[30.0, 40.0]])]}, optimizer)
    assert algorithm.clipping.adaptive == 0.1
    assert figures["grad_norm"] == pytest.approx(50.0)
    assert figures["grad_norm_clipped"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sft_loss_weight": -0.1}, r"algorithm\.sft_loss_weight=-0\.1"),
        ({"preference_loss_weight": 0.0, "sft_loss_weight": 0.0}, "all weights of custom_dpo are 0"),
        ({"loss.beta": -1.0}, "beta"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        custom(**changes)
