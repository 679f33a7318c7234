"""Tools for laws of an update: modified gradients, and an optimiser that records its arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlx.check.source import Accumulated, Around, grouped
from rlx.check.subject import Laboratory, Subject
from rlx.errors import RlxError
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Clipping, Gradients, Optimizer


class RecordingOptimizer(Optimizer):
    """Plain gradient descent that records the arguments of its steps."""

    @staticmethod
    def of(laboratory: Laboratory, rate: float) -> RecordingOptimizer:
        """Return an optimiser of a laboratory's policy with this learning rate."""

        def descent(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=rate)

        made = RecordingOptimizer(descent, laboratory.policy.parameters(), schedule=Constant(warmup_steps=0), num_steps=1)
        made.given, made.taken_for, made.source = [], [], None
        made.usual = {"usual", *vars(made)}
        return made

    given: list[tuple[Gradients, Clipping]]
    taken_for: list[int]  # how often gradients were computed before each step
    source: Counted | None  # of the gradients of its steps
    usual: set[str]  # the names of its attributes at the start

    def step(self, gradients: Gradients, clipping: Clipping) -> dict[str, float]:
        """Record the gradients and the clipping, then make the step of the optimiser."""
        self.given.append((gradients, clipping))
        self.taken_for.append(self.source.times if self.source else 0)
        return super().step(gradients, clipping)


class Counted(Around):
    """A source of gradients that counts how often they are computed. parameters: of the policy."""

    def __init__(self, source: Accumulated, parameters: Sequence[Tensor]) -> None:
        super().__init__(source)
        self._parameters = parameters
        self._taken_at: list[tuple[int, ...]] = []

    @property
    def times(self) -> int:
        """How often gradients were computed, at any weights."""
        return len(self._taken_at)

    @property
    def most_at_once(self) -> int:
        """How often gradients were computed at the same weights."""
        return max(Counter(self._taken_at).values(), default=0)

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        self._taken_at.append(tuple(parameter._version for parameter in self._parameters))
        return self._source(by=by)


class Changed(Around):
    """A source of gradients that changes those of its terms. change: term -> gradients, to term -> new gradients."""

    def __init__(self, source: Accumulated, change: Callable[[Mapping[str, Gradients]], Mapping[str, Gradients]]) -> None:
        super().__init__(source)
        self._change = change

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        return grouped(self._change(self._source(by=str)), by)


def scaled(terms: Mapping[str, Gradients], factors: Mapping[str, float]) -> dict[str, Gradients]:
    """Return the gradients of terms, each times the term's factor, 1 if it has none."""
    return {
        name: [None if part is None else factors.get(name, 1.0) * part for part in gradients] for name, gradients in terms.items()
    }


def planted_in(terms: Mapping[str, Gradients], gradients: Mapping[str, Gradients]) -> dict[str, Gradients]:
    """Return the given gradients of terms; a term without a given one has a gradient of 0."""
    some = next(iter(gradients.values()))
    none = [None if part is None else torch.zeros_like(part) for part in some]
    return {name: gradients.get(name) or none for name in terms}


def with_clip(subject: Subject, limit: float | None) -> Subject | None:
    """Return the subject with another max_grad_norm; None if the algorithm allows no other one."""
    try:
        return subject.with_algorithm(replace(subject.algorithm, max_grad_norm=limit))
    except (RlxError, TypeError, ValueError):
        return None


def moved_by(
    subject: Subject,
    rate: float,
    *,
    rows: int | None = None,
    factors: Mapping[str, float] | None = None,
    planted: Callable[[Sequence[Tensor]], Mapping[str, Gradients]] | None = None,
    real: bool = False,
) -> tuple[Tensor, Tensor, RecordingOptimizer]:
    """Return (the policy's change by an update, the gradient of its loss before, both [all parameters], the optimiser).

    rows: how many rows of the batch, None: all. factors: term -> factor of its gradient.
    planted: returns gradients of terms from the policy's parameters, used in place of the real ones; other terms have none.
    real: whether the policy itself, which has many parameters, is used in place of a stand-in.
    """
    laboratory = subject.real(moved=True) if real else subject.stand_in()
    batch = subject.first_update(laboratory)[slice(0, rows)]
    gradient, _ = subject.gradient(laboratory, batch)
    leaves = laboratory.policy.parameters()
    before = [leaf.detach().clone() for leaf in leaves]
    source: Any = subject.accumulate(
        subject.algorithm, laboratory.policy, laboratory.reference, batch, micro_batch=max(1, len(batch))
    )
    optimizer = RecordingOptimizer.of(laboratory, rate)
    optimizer.source = source = Counted(source, leaves)
    if planted:
        source = Changed(source, partial(planted_in, gradients=planted(leaves)))
    elif factors:
        source = Changed(source, partial(scaled, factors=factors))
    subject.algorithm.update_policy(source, optimizer)
    parts = [(leaf.detach() - old).reshape(-1).double() for leaf, old in zip(leaves, before, strict=True)]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]), gradient.double(), optimizer
