import math
from functools import partial

import pytest
import torch

from rlx.errors import ConfigError, TrainingError
from rlx.optimizer.schedule import Constant, Linear
from rlx.optimizer.step import Clipping, Optimizer, clip_adaptively


def parameters(*values):
    return [torch.nn.Parameter(torch.tensor(value)) for value in values]


def sgd(params, lr=1.0, schedule=None, num_steps=10):
    return Optimizer(partial(torch.optim.SGD, lr=lr), params, schedule=schedule or Constant(warmup_steps=0), num_steps=num_steps)


def test_a_step_moves_against_the_gradient_by_the_learning_rate():
    params = parameters([1.0, 2.0])
    figures = sgd(params, lr=0.5).step([torch.tensor([2.0, 0.0])], Clipping(max_grad_norm=None))
    assert params[0].tolist() == [0.0, 2.0]
    assert figures == {"grad_norm": 2.0, "grad_norm_clipped": 2.0, "learning_rate": 0.5}


def test_the_norm_is_clipped_over_all_parameters_together():
    params = parameters([0.0], [0.0])
    figures = sgd(params).step([torch.tensor([3.0]), torch.tensor([4.0])], Clipping(max_grad_norm=1.0))
    assert figures["grad_norm"] == pytest.approx(5.0)
    assert figures["grad_norm_clipped"] == pytest.approx(1.0)
    assert [p.item() for p in params] == pytest.approx([-0.6, -0.8], rel=1e-5)


def test_a_norm_below_the_limit_is_left_alone():
    params = parameters([0.0])
    sgd(params).step([torch.tensor([0.5])], Clipping(max_grad_norm=1.0))
    assert params[0].item() == -0.5


def test_the_gradient_is_scaled_before_it_is_clipped():
    params = parameters([0.0])
    figures = sgd(params).step([torch.tensor([4.0])], Clipping(max_grad_norm=10.0, scale=0.5))
    assert figures["grad_norm"] == 2.0
    assert params[0].item() == -2.0


def test_adaptive_clipping_bounds_each_row_by_its_weights():
    (weight,) = parameters([[3.0, 4.0], [0.0, 0.0]])
    (clipped,) = clip_adaptively([weight], [torch.tensor([[6.0, 8.0], [1.0, 0.0]])], 0.1)
    # row 0: |w| = 5, |g| = 10 -> 0.5; row 1: |w| counts as 1e-3 -> 1e-4
    assert torch.allclose(clipped, torch.tensor([[0.3, 0.4], [1e-4, 0.0]]))


def test_adaptive_clipping_treats_a_vector_as_one_unit():
    (gain,) = parameters([3.0, 4.0])
    clipped, absent = clip_adaptively([gain, gain], [torch.tensor([6.0, 8.0]), None], 1.0)
    assert absent is None
    assert torch.allclose(clipped, torch.tensor([3.0, 4.0]))


def test_a_gradient_that_is_not_finite_moves_nothing():
    params = parameters([1.0])
    with pytest.raises(TrainingError, match="norm is nan"):
        sgd(params).step([torch.tensor([math.nan])], Clipping(max_grad_norm=1.0))
    assert params[0].item() == 1.0


def test_parameters_without_a_gradient_stay():
    params = parameters([1.0], [1.0])
    sgd(params).step([torch.tensor([1.0]), None], Clipping(max_grad_norm=1.0))
    assert [p.item() for p in params] == pytest.approx([0.0, 1.0], abs=1e-5)


def test_the_learning_rate_follows_the_schedule():
    optimizer = sgd(parameters([0.0]), lr=2.0, schedule=Linear(warmup_steps=0, final_factor=0.0), num_steps=4)
    rates = []
    for step in range(4):
        optimizer.start_step(step)
        rates.append(optimizer.learning_rate)
    assert rates == pytest.approx([2.0, 1.5, 1.0, 0.5])


def test_values_that_torch_refuses_are_a_config_error():
    with pytest.raises(ConfigError, match="learning rate"):
        sgd(parameters([0.0]), lr=-1.0)


def test_a_loaded_state_goes_on_like_the_unbroken_one():
    gradients = [torch.tensor([float(step + 1)]) for step in range(4)]
    make = partial(torch.optim.AdamW, lr=0.1)
    unbroken = Optimizer(make, parameters([1.0]), schedule=Constant(warmup_steps=0), num_steps=4)
    for gradient in gradients:
        unbroken.step([gradient], Clipping(max_grad_norm=None))
    first = Optimizer(make, parameters([1.0]), schedule=Constant(warmup_steps=0), num_steps=4)
    for gradient in gradients[:2]:
        first.step([gradient], Clipping(max_grad_norm=None))
    second = Optimizer(make, parameters([first.parameters[0].item()]), schedule=Constant(warmup_steps=0), num_steps=4)
    second.load_state_dict(first.state_dict())
    for gradient in gradients[2:]:
        second.step([gradient], Clipping(max_grad_norm=None))
    assert second.parameters[0].item() == unbroken.parameters[0].item()


def test_the_limits_of_a_weighted_gradient_grow_with_its_weight():
    optimizer = sgd(parameters([0.0]))
    clipping = Clipping(max_grad_norm=1.0, adaptive=5.0)
    whole = optimizer.clipped([torch.tensor([4.0])], clipping).gradients[0]
    half = optimizer.clipped([torch.tensor([2.0])], clipping.times(0.5)).gradients[0]
    assert half.item() == pytest.approx(whole.item() / 2)
