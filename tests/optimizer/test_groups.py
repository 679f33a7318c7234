from functools import partial

import pytest
import torch

from rlx.errors import ConfigError
from rlx.optimizer.groups import ParameterGroups, made_with_groups
from rlx.optimizer.muon import Muon
from rlx.optimizer.schedule import Linear
from rlx.optimizer.step import Clipping, Optimizer
from rlx.policy.adapter import Lora
from rlx.policy.tiny import build_tiny

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
