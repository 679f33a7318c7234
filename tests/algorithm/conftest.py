"""A laboratory small enough for laws: a policy of a few thousand weights in float64, moved away from its reference."""

import pytest
import torch

import rlx
from rlx.algorithm import Lab
from rlx.policy.reference import Reference
from rlx.policy.tiny import build_tiny
from rlx.seeding import Stream


@pytest.fixture(scope="module")
def policy_and_reference():
    policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    policy.model.double()
    reference = Reference(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return policy, reference


@pytest.fixture
def lab(policy_and_reference):
    policy, reference = policy_and_reference
    task = rlx.load("task", "arithmetic", max_operand=20)
    return Lab(task, policy, reference, rlx.load("rollout", "transformers"), step=0, rng=Stream(0), state={})
