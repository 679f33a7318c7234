"""A laboratory small enough for laws: a policy of a few thousand weights, moved away from its reference."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence

import torch

import rlx
from rlx.algorithm import Lab
from rlx.loss import policy_gradient_loss, preference_loss, running_mean
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Optimizer
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.policy.tiny import build_tiny
from rlx.seeding import Stream


def rewards(prompts: Sequence[object], completions: Sequence[str]) -> list[dict[str, float]]:
    """Between 0 and 1, by the text of the completion."""
    return [{"reward": zlib.crc32(completion.encode()) % 11 / 10} for completion in completions]


@preference_loss(state={"usual": running_mean("margin", start=0.5)})
def kept(margin, usual):
    return -torch.nn.functional.logsigmoid(margin - usual)


@preference_loss(couples_rows=True, state={"usual": running_mean(lambda margin: margin - margin.std(), start=0.5)})
def kept_coupled(margin, usual):
    return -torch.nn.functional.logsigmoid(margin - margin.mean() - usual)


@policy_gradient_loss(state={"usual": running_mean(lambda ratio, advantages: ratio * advantages + 1, start=0.5)})
def kept_tokens(ratio, advantages, usual):
    return -ratio * (advantages - usual)


def laboratory(dtype: torch.dtype) -> Lab:
    policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    policy.model.to(dtype)
    policy.add_value_head()
    reference = Reference(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype))
    task = rlx.load("task", "arithmetic", max_operand=20)
    object.__setattr__(task, "reward_all", rewards)  # an untrained policy gets none of the task's own
    return Lab(task, policy, reference, rlx.load("rollout", "transformers"), step=0, rng=Stream(0), state={})


def optimizer_of(policy: Policy) -> Optimizer:
    """AdamW at a constant rate."""
    return Optimizer(
        functools.partial(torch.optim.AdamW, lr=0.01),
        policy.parameters(),
        schedule=Constant(warmup_steps=0),
        num_steps=10,
        parts=policy.parts(),
    )
