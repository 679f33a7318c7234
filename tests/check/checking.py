"""What tests of the contract share: a laboratory of a few thousand weights, and the laws that an algorithm breaks in it."""

from __future__ import annotations

import functools
from dataclasses import replace
from functools import lru_cache

import torch

import rlx
from rlx.algorithm.base import Need
from rlx.check.checker import LAWS, check_algorithm
from rlx.check.subject import Subject
from rlx.loss import PreferenceLoss
from rlx.policy.tiny import build_tiny
from rlx.training.gradients import AccumulatedGradients


@lru_cache(maxsize=1)
def laboratory():
    policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    task = rlx.load("task", "arithmetic", max_operand=20)
    return policy, task, rlx.load("rollout", "transformers"), functools.partial(torch.optim.AdamW, lr=1e-3)


def subject(algorithm) -> Subject:
    policy, task, sampler, optimizer = laboratory()
    if Need.VALUES in algorithm.active_needs:
        policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
        policy.add_value_head()
    return Subject(algorithm, task, policy, sampler, AccumulatedGradients, optimizer)


def failed(algorithm, *laws):
    """Law -> finding, of those that are broken; all laws if none is named."""
    wanted = {name: LAWS[name] for name in laws or LAWS}
    return {verdict.law: verdict.finding for verdict in check_algorithm(subject(algorithm), laws=wanted) if verdict.failed}


@lru_cache
def shipped(name):
    """An algorithm with the settings of its YAML file, composed once in a process."""
    return rlx.load("algorithm", name)


def with_loss(loss):
    """The plainest algorithm that reads a loss."""
    return replace(shipped("dpo" if isinstance(loss, PreferenceLoss) else "custom_grpo"), loss=loss)
