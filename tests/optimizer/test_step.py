import math
from functools import partial

import pytest
import torch

from rlx.errors import ConfigError, TrainingError
from rlx.optimizer.muon import Muon
from rlx.optimizer.schedule import Constant, Linear
from rlx.optimizer.step import Clipping, Optimizer, ParameterGroups, clip_adaptively, made_with_groups
from rlx.policy.adapter import Lora
from rlx.policy.tiny import build_tiny


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


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 1}
NUMBERS = {"decay_norms_and_biases": False, "embedding_rate": 0.1, "value_head_rate": 10.0}


def policy_with_critic():
    policy = build_tiny(**SHAPE)
    policy.add_value_head()
    return policy


def optimizer_of(policy, make, **settings):
    schedule = Linear(warmup_steps=0, final_factor=0.0)
    groups = ParameterGroups(**settings)
    return Optimizer(make, policy.parameters(), schedule=schedule, num_steps=4, parts=policy.parts(), groups=groups)


def test_the_parts_of_a_policy():
    policy = policy_with_critic()
    names = [name for name, _ in policy.model.named_parameters()] + ["value", "value_bias"]
    parts = dict(zip(names, policy.parts(), strict=True))
    assert parts["model.embed_tokens.weight"] == "embedding"
    assert parts["model.layers.0.mlp.up_proj.weight"] == "matrix"
    assert parts["model.norm.weight"] == "vector"
    assert parts["value"] == parts["value_bias"] == "value_head"
    assert set(build_tiny(**SHAPE, adapter=Lora(rank=2, alpha=4.0)).parts()) == {"matrix"}


def test_without_settings_the_optimizer_is_given_the_parameters_as_they_come():
    policy, given = policy_with_critic(), []

    def make(parameters):
        given.append(parameters)
        return torch.optim.SGD(parameters, lr=1.0)

    optimizer_of(policy, make)
    assert [id(parameter) for parameter in given[0]] == [id(parameter) for parameter in policy.parameters()]


def test_each_part_has_its_rate_and_its_decay_in_every_step():
    policy = policy_with_critic()
    optimizer = optimizer_of(policy, partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5), **NUMBERS)
    optimizer.start_step(2)  # half of the rate
    own = {id(parameter): group for group in optimizer.torch_optimizer.param_groups for parameter in group["params"]}
    rates = {"embedding": 0.1, "value_head": 10.0}
    for parameter, part in zip(policy.parameters(), policy.parts(), strict=True):
        assert own[id(parameter)]["lr"] == pytest.approx(0.005 * rates.get(part, 1.0))
        assert own[id(parameter)]["weight_decay"] == (0.0 if parameter.ndim < 2 else 0.5)
    assert optimizer.learning_rate == pytest.approx(0.005)


def test_gradients_reach_their_parameters_whatever_their_groups():
    moved = {}
    for settings in ({}, NUMBERS):
        policy = policy_with_critic()
        before = [parameter.detach().clone() for parameter in policy.parameters()]
        optimizer = optimizer_of(policy, partial(torch.optim.SGD, lr=1.0), **({} if not settings else {"embedding_rate": 0.1}))
        gradients = [torch.full_like(parameter, 1.0 + place) for place, parameter in enumerate(policy.parameters())]
        optimizer.step(gradients, Clipping())
        moved[len(settings)] = [float((a - b).mean().detach()) for a, b in zip(before, policy.parameters(), strict=True)]
    for place, (plain, grouped, part) in enumerate(zip(moved[0], moved[3], policy.parts(), strict=True)):
        assert plain == pytest.approx(1.0 + place, rel=1e-4)
        assert grouped == pytest.approx(plain * (0.1 if part == "embedding" else 1.0), rel=1e-4)


@pytest.mark.parametrize("make", [partial(torch.optim.AdamW, lr=0.01), partial(Muon, lr=0.01)])
def test_a_state_is_restored_into_its_groups(make):
    def trained(steps, state=None):
        policy = policy_with_critic()
        optimizer = optimizer_of(policy, make, **NUMBERS)
        if state is not None:
            for parameter, value in zip(policy.parameters(), state[0], strict=True):
                parameter.data.copy_(value)
            optimizer.load_state_dict(state[1])
        for step in steps:
            optimizer.start_step(step)
            generator = torch.Generator().manual_seed(step)
            optimizer.step([torch.randn(item.shape, generator=generator) for item in policy.parameters()], Clipping())
        return [parameter.detach().clone() for parameter in policy.parameters()], optimizer.state_dict()

    whole, half = trained(range(4)), trained(range(2))
    again = trained(range(2, 4), half)
    assert all(torch.equal(a, b) for a, b in zip(whole[0], again[0], strict=True))


def test_moments_of_other_shapes_are_refused_by_their_groups():
    policy = policy_with_critic()
    optimizer = optimizer_of(policy, partial(torch.optim.AdamW, lr=0.01), **NUMBERS)
    optimizer.step([torch.ones_like(item) for item in policy.parameters()], Clipping())
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    state["state"][0]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match="exp_avg of parameter 0 is"):
        optimizer.load_state_dict(state)


def test_an_optimizer_without_weight_decay_cannot_spare_it():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, {"lr": lr})

    groups = ParameterGroups(decay_norms_and_biases=False).of([torch.nn.Parameter(torch.ones(2))], ["vector"], by_part=False)
    with pytest.raises(ConfigError, match="decay_norms_and_biases=false: Plain has no weight decay"):
        made_with_groups(Plain, groups)


def test_values_that_torch_refuses_are_the_configs_fault():
    groups = ParameterGroups().of([torch.nn.Parameter(torch.ones(2, 2))], ["matrix"], by_part=False)
    with pytest.raises(ConfigError, match=r"optimizer: torch refuses these values: optimizer\.ns_steps is 200"):
        made_with_groups(partial(Muon, ns_steps=200), groups)
