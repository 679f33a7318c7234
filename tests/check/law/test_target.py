"""What a margin is asked for: a target that lowers it is named, and other shapes of a loss are not."""

import pytest
import torch
import torch.nn.functional as F

from rlx.loss import preference_loss, stop_gradient
from tests.check.checking import failed, with_loss


@preference_loss
def target_is_given(mean_policy_margin, *, beta=2.0, gamma=1.0):
    return -F.logsigmoid(beta * mean_policy_margin + gamma)


@preference_loss
def target_is_asked_for(mean_policy_margin, *, beta=2.0, gamma=1.0):
    return -F.logsigmoid(beta * mean_policy_margin - gamma)


@preference_loss
def focal(margin, *, beta=0.1, gamma=2.0):
    """A gamma that is no target: it lowers the loss of pairs that are ranked correctly."""
    right = torch.sigmoid(beta * margin)
    return -stop_gradient((1 - right) ** gamma) * F.logsigmoid(beta * margin)


@preference_loss
def the_ranked_count_more(margin, *, beta=0.1, power=2.0):
    """A weight that is a constant, so that the loss rises with the margin at first, and its gradient does not."""
    right = torch.sigmoid(beta * margin)
    return -stop_gradient(right**power) * torch.log(right)


@preference_loss
def half_of_beta(margin, *, beta=0.1):
    return (margin - 1 / 2 * beta) ** 2


@preference_loss
def held_square(margin, *, beta=0.1):
    """A logistic loss and the square of the margin: a larger beta asks for more, and the square is not about it."""
    return -F.logsigmoid(beta * margin) + 0.01 * margin**2


def odds_ratio(chosen, rejected, sign):
    """The mean negative log-likelihood of the chosen, and a tenth of the logistic loss of the log odds."""
    chosen, rejected = chosen.clamp(max=-1e-6), rejected.clamp(max=-1e-6)
    rest = torch.log(-torch.expm1(chosen)) - torch.log(-torch.expm1(rejected))
    return -chosen - 0.1 * F.logsigmoid(chosen - rejected + sign * rest)


@preference_loss
def odds_with_a_plus(mean_chosen_logprob, mean_rejected_logprob):
    return odds_ratio(mean_chosen_logprob, mean_rejected_logprob, 1)


@preference_loss
def odds_with_a_minus(mean_chosen_logprob, mean_rejected_logprob):
    return odds_ratio(mean_chosen_logprob, mean_rejected_logprob, -1)


FAULTY = [
    (with_loss(target_is_given()), "the larger the target, the less is asked of a margin"),
    (with_loss(half_of_beta()), "the margin that the square is about rises with loss.beta"),
    (with_loss(odds_with_a_plus()), "preferring the rejected ones lowers the loss"),
]
SOUND = [target_is_asked_for, focal, held_square, odds_with_a_minus, the_ranked_count_more]


@pytest.mark.parametrize(("algorithm", "said"), FAULTY)
def test_a_slip_is_named(algorithm, said):
    assert said in failed(algorithm, "direction")["direction"].wrong


@pytest.mark.parametrize("loss", SOUND)
def test_a_loss_as_it_is_meant_is_not_accused(loss):
    assert failed(with_loss(loss()), "direction", "reference") == {}
