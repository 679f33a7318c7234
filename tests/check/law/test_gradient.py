import torch
from torch import Tensor

from rlx.check.law.loss import constants, direction, finite_differences
from rlx.loss import PolicyGradientLoss, RolloutLogprobs, stop_gradient


class Declared(PolicyGradientLoss):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return -stop_gradient(rollouts.log_ratio.exp()) * rollouts.advantages * rollouts.token_logprobs


class Undeclared(PolicyGradientLoss):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return -rollouts.log_ratio.exp().detach() * rollouts.advantages * rollouts.token_logprobs


class Inert(PolicyGradientLoss):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return torch.zeros_like(rollouts.token_logprobs)


def test_a_declared_constant_is_held_and_an_undeclared_one_is_found():
    assert finite_differences(Declared()) is None
    assert "write rlx.loss.stop_gradient(x)" in str(finite_differences(Undeclared()))


def test_both_go_the_right_way_and_move_nothing_but_the_policy():
    for loss in (Declared(), Undeclared(), Inert()):
        assert direction(loss) is None
        assert constants(loss) is None
