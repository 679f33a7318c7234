"""A few steps with an algorithm among given numbers, and in what two such journeys differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm
from rlx.algorithm.contract_subject import Subject
from rlx.errors import RlxError
from rlx.seeding import Stream

STEPS = (0, 1, 500)
SAME = 1e-6  # nats; what moves the policy by less moves nothing
RATES = {2.0: 30.0}  # of plain gradient descent, else 3: there a token moves by more than usual clips between two updates
LEARNING, FIGURES, LOSS, NOTHING = "learning", "figures", "loss", ""


@dataclass(frozen=True)
class Journey:
    """What a few steps with an algorithm did.

    policy: after each update; loss: before each; figures: what the loss and its updates log, with their names;
    measured: the figures of batches and of validate;
    refused: what was said where the values are not legal.
    """

    policy: tuple[Tensor, ...]
    loss: tuple[float, ...]
    figures: str
    names: tuple[str, ...]
    measured: str
    refused: str = ""

    @staticmethod
    def refused_by(error: Exception) -> Journey:
        """No step could be made."""
        return Journey((), (), "", (), "", f"{type(error).__name__}: {error}")

    def difference(self, other: Journey) -> str:
        """In what two journeys differ: LEARNING, LOSS alone, FIGURES alone or NOTHING."""
        if self.refused != other.refused or len(self.policy) != len(other.policy):
            return LEARNING
        for mine, theirs in zip(self.policy, other.policy, strict=True):
            if mine.shape != theirs.shape or not bool((mine - theirs).abs().le(SAME).all()):
                return LEARNING
        if any(not abs(mine - theirs) <= SAME for mine, theirs in zip(self.loss, other.loss, strict=True)):
            return LOSS
        if self.names != other.names or self.measured != other.measured:  # an option of what is logged
            return LEARNING
        return FIGURES if self.figures != other.figures else NOTHING


def journey(subject: Subject, spread: float, steps: Sequence[int] = STEPS) -> Journey:
    """A few steps of plain gradient descent in a stand-in laboratory, each with its draw, its updates and its validation."""
    policies: list[Tensor] = []
    losses: list[float] = []
    figures: list[tuple[str, float]] = []
    measured: list[Any] = []
    own_update = type(subject.algorithm).update_policy is not Algorithm.update_policy
    setting, rate = subject.stand_in(spread=spread, agreeing=True), 0.1 if subject.goes_past else RATES.get(spread, 3.0)
    try:
        measured.append(subject.algorithm.moving_reference)  # which the training loop asks
        for step in steps:
            lab = setting.lab(step=step, seed=subject.seed)
            with torch.no_grad():
                batch = subject.algorithm.draw(lab)
            measured += sorted(getattr(batch, "metrics", {}).items())
            for part in _first_updates(subject, batch, step):
                subject.loss(setting, part)
                rows = max(1, len(part))
                source = subject.accumulate(subject.algorithm, setting.policy, setting.reference, part, micro_batch=rows)
                if own_update:  # which may read no more of a gradient than its sign
                    policies.append(subject.gradient(setting, part)[0])
                done = dict(subject.algorithm.update_policy(source, subject.optimizer(setting, rate=rate)))
                policies.append(torch.cat([torch.zeros(0), *(leaf.detach().reshape(-1) for leaf in setting.policy.parameters())]))
                _below_one(setting.policy)
                losses.append(float(source.metrics.get("loss", 0.0)))
                own = {name: value for name, value in source.metrics.items() if name != "loss" and not name.endswith("_loss")}
                figures += [*sorted(own.items()), *sorted(done.items())]
            with torch.no_grad():
                measured += sorted(subject.algorithm.validate(lab).items())
    except (RlxError, ValueError) as error:  # values that are refused are a difference like any other
        return Journey.refused_by(error)
    names, shown = tuple(name for name, _ in figures), repr([f"{value:.5g}" for _, value in figures])
    return Journey(tuple(policies), tuple(losses), shown, names, repr(measured))


def _below_one(policy: Any) -> None:
    """No probability rises above 1, as it never does in a model."""
    leaf = getattr(policy, "leaves", {}).get("token_logprobs")
    if leaf is not None:
        with torch.no_grad():
            leaf.clamp_(max=-1e-3)


def _first_updates(subject: Subject, batch: Any, step: int) -> Iterator[Any]:
    return itertools.islice(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", step))), 3)
