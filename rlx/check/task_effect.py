"""Hyperparameters that matter on made-up numbers and change nothing on the rows of the task at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm
from rlx.check.law.hyperparameter import LEARNING, SPREADS, journey
from rlx.check.subject import Laboratory, Subject
from rlx.check.variant import variants
from rlx.errors import RlxError
from rlx.seeding import Stream

STEPS = (0, 100_000)
NOISE = (0.2, 0.02)  # how far the policy moves between a draw and its loss, in units of a weight's size
RATE = 0.1  # of plain gradient descent
SAME = 1e-9  # of the largest movement of a weight
FEW = 2  # other values tried of each hyperparameter


def idle_keys(subject: Subject) -> list[str]:
    """Dotted names of the hyperparameters that are alive on made-up numbers and dead on the task's own rows.

    Each is given other values, and the policy itself makes a few updates on rows that the algorithm draws from the task, with the
    task's rewards. A key whose every value ends with the same weights is idle, unless made-up numbers do not show it to matter
    either (an option of what is switched off, say).
    """
    tried: dict[str, list[Algorithm[Any]]] = {}
    for name, changed in variants(subject.algorithm):
        if len(tried.setdefault(name, [])) < FEW:
            tried[name].append(changed)
    names = list(tried)
    for noise in NOISE:
        start = _movement(subject, subject.algorithm, noise)
        if start is None or not any(bool(weights.any()) for weights in start.weights):
            return []  # nothing is learned here at all: no reward, say
        names = [name for name in names if all(_is_same(start, _movement(subject, other, noise)) for other in tried[name])]
    return [name for name in names if any(_matters(subject, algorithm) for algorithm in tried[name])]


@dataclass(frozen=True)
class _Movement:
    """How far each weight moved in each update [all parameters], and the figures that were logged."""

    weights: tuple[Tensor, ...]
    figures: tuple[str, ...]


def _is_same(one: _Movement, other: _Movement | None) -> bool:
    if other is None or one.figures != other.figures or len(one.weights) != len(other.weights):
        return False
    return all(bool((a - b).abs().max() <= SAME * a.abs().max()) for a, b in zip(one.weights, other.weights, strict=True))


def _movement(subject: Subject, algorithm: Algorithm[Any], noise: float) -> _Movement | None:
    """What an algorithm does with the task's rows; None where it refuses these values, or the rows."""
    try:
        moved = list(_journey(subject.with_algorithm(algorithm), noise))
    except (RlxError, ValueError, RuntimeError):
        return None
    return _Movement(tuple(weights for weights, _ in moved), tuple(figures for _, figures in moved))


def _journey(subject: Subject, noise: float) -> Iterator[tuple[Tensor, str]]:
    laboratory = replace(subject.real(moved=True), task=subject.small_task, sampler=subject.sampler)
    for step in STEPS:
        batch = subject.draw(laboratory, step=step)
        _move(laboratory, noise, seed=subject.seed + step)
        for number, part in enumerate(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", step)))):
            if number == 2:
                break
            before = _weights(laboratory)
            source = subject.accumulate(
                subject.algorithm, laboratory.policy, laboratory.reference, part, micro_batch=max(1, len(part))
            )
            done = subject.algorithm.update_policy(source, subject.optimizer(laboratory, rate=RATE))
            logged = [*sorted(getattr(batch, "metrics", {}).items()), *sorted(source.metrics.items()), *sorted(done.items())]
            yield _weights(laboratory) - before, repr([(name, f"{value:.5g}") for name, value in logged])


def _weights(laboratory: Laboratory) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in laboratory.policy.parameters()])


def _move(laboratory: Laboratory, noise: float, *, seed: int) -> None:
    generator = Stream(seed, ("check", "task")).torch()
    with torch.no_grad():
        for parameter in laboratory.policy.parameters():
            step = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise * step * parameter.abs().mean())


def _matters(subject: Subject, changed: Algorithm[Any]) -> bool:
    """Whether made-up numbers show the difference, as the law of hyperparameters does."""
    for spread in SPREADS:
        mine, theirs = (journey(subject.with_algorithm(algorithm), spread) for algorithm in (subject.algorithm, changed))
        if not mine.refused and mine.difference(theirs) == LEARNING:
            return True
    return False
