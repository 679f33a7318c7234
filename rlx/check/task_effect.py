"""Hyperparameters that have an effect on synthetic numbers but none on the rows of the given task."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm
from rlx.check.batch import keys_of, recast
from rlx.check.law.hyperparameter import Known
from rlx.check.reads import DRAW, GRADIENT, UPDATE, UPDATES
from rlx.check.replay import Parts, Recording, Run
from rlx.check.subject import MOST_PARTS, Laboratory, Subject
from rlx.check.variant import together, variants
from rlx.data.sequences import Sequences
from rlx.errors import RlxError
from rlx.policy.base import Policy
from rlx.policy.statistics import TokenStatistics
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Draw, Sampler
from rlx.seeding import Stream

STEPS = (0, 100_000)
NOISE = (0.2, 0.02)  # standard deviation of the weights' change between a draw and its loss, relative to their mean size
RATE = 0.1  # learning rate of plain gradient descent
SAME = 1e-9  # relative to the largest change of a weight
FEW = 2  # other values tried for each hyperparameter
MOST_UPDATES = 2  # updates made of one draw


def idle_keys(subject: Subject) -> list[str]:
    """Return the dotted names of hyperparameters that have an effect on synthetic numbers but none on the task's rows.

    Each is given other values, with which the policy itself makes a few updates on rows that the algorithm draws from the task,
    with the task's rewards. A key is idle if all of its values lead to the same weights, unless it has no effect on synthetic
    numbers either (an option of a feature that is switched off, say).
    """
    tried: dict[str, list[Algorithm[Any]]] = {}
    for name, changed in variants(subject.algorithm):
        if len(tried.setdefault(name, [])) < FEW:
            tried[name].append(changed)
    names = list(tried)
    bench = _Bench(subject)
    for noise in NOISE:
        start = bench.movement(noise)
        if start is None or not any(update.weights is not None and bool(update.weights.any()) for update in start):
            return []  # nothing is learned here, for want of rewards, say
        if noise == NOISE[0]:  # most hyperparameters have an effect in the first step
            first = [update for update in start if update.step == STEPS[0]]
            names = [name for name in names if bench.ends_alike(first, tried[name][0], noise, steps=STEPS[:1])]
        for place in range(FEW):
            left = [name for name in names if len(tried[name]) > place]
            whole = together(subject.algorithm, left, place)  # if all together change nothing, none does
            if whole is None or not bench.ends_alike(start, whole, noise):
                idle = {name for name in left if bench.ends_alike(start, tried[name][place], noise)}
                names = [name for name in names if name in idle or name not in left]
    known = Known(subject)  # a key with effects at later steps only is a schedule's; few steps are made here
    return [name for name in names if any(known.matters_at_first(subject.algorithm, other) for other in tried[name])]


@dataclass(frozen=True)
class _Update:
    """The change of each weight in an update [all parameters], and the metrics that were logged.

    before: the loss and metrics of the batch before the update. If `weights` is None, the update was not made and only `before`
    is set.
    """

    weights: Tensor | None
    figures: str
    before: str
    step: int

    def is_same(self, other: _Update) -> bool:
        """Whether the values before both updates are equal and, if both were made, also the metrics and weights after them."""
        if self.before != other.before:
            return False
        if self.weights is None or other.weights is None:
            return True
        if self.figures != other.figures:
            return False
        return bool((self.weights - other.weights).abs().max() <= SAME * self.weights.abs().max())

    def equals(self, other: _Update | None) -> bool:
        """Whether another update changed all weights by exactly the same and logged the same metrics."""
        if other is None or self.weights is None or other.weights is None:
            return False
        return torch.equal(self.weights, other.weights) and (self.figures, self.before) == (other.figures, other.before)


def _count(subject: Subject, batch: Any, step: int) -> int:
    """Return how many updates a draw makes."""
    return sum(1 for _ in islice(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", step))), MOST_PARTS))


def _forward(subject: Subject, laboratory: Laboratory, part: Any) -> list[tuple[str, float]]:
    """Return the loss and the metrics of a batch; this reads every attribute of the algorithm that the gradient reads."""
    _ = subject.algorithm.couples_rows
    if len(part) == 0:  # equal rewards, as of a random policy, make no pairs
        return []
    with torch.no_grad():
        output = subject.loss(laboratory, part)
    figures = [(name, float(total / number)) for name, (total, number) in output.metrics.items()]
    return [("loss", float(output.loss)), *figures]


class _Bench:
    """The policy itself, which starts with the same weights for every algorithm that is tried."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._laboratory = subject.real(moved=True)
        self._start = [parameter.detach().clone() for parameter in self._laboratory.policy.parameters()]
        self._samplers = {(step, noise): remembering(subject.sampler) for step in STEPS for noise in NOISE}
        self._samplers |= {(STEPS[0], noise): self._samplers[STEPS[0], NOISE[0]] for noise in NOISE}  # no update yet
        self._noise: dict[int, list[Tensor]] = {}
        self._forwards = _Forwards()
        self._recordings: dict[float, Recording] = {}

    def movement(self, noise: float) -> list[_Update] | None:
        """Return the updates of the algorithm under check on the task's rows; None if it raises an error for them."""
        recording = Recording(self._subject.algorithm)
        try:
            made = [update for update in self._updates(self._subject, noise, Run(into=recording)) if update.weights is not None]
        except (RlxError, ValueError, RuntimeError):
            return None

        def again(twin: Any, run: Run) -> bool:
            updates = self._updates(self._subject.with_algorithm(twin), noise, run)
            return all(
                one.equals(other) for one, other in zip_longest(made, (each for each in updates if each.weights is not None))
            )

        recording.watch(self._subject.algorithm, again)
        self._recordings[noise] = recording
        return made

    def ends_alike(self, start: list[_Update], algorithm: Algorithm[Any], noise: float, *, steps: Sequence[int] = STEPS) -> bool:
        """Whether another algorithm makes the same updates; it stops at the first one that differs."""
        recording = self._recordings[noise]
        if recording.is_untouched_by(algorithm):
            return True
        count, run = 0, Run(like=recording, algorithm=algorithm)
        try:
            for update in self._updates(self._subject.with_algorithm(algorithm), noise, run, steps):
                if count == len(start) or not start[count].is_same(update):
                    return False
                if update.weights is not None:
                    run.require(start[count].equals(update))
                    count += 1
        except (RlxError, ValueError, RuntimeError):  # it refuses these values or rows
            return False
        return count == len(start)

    def _updates(self, subject: Subject, noise: float, run: Run, steps: Sequence[int] = STEPS) -> Iterator[_Update]:
        """Yield each update twice: first only with the loss before it, which is cheap, then as a whole."""
        with torch.no_grad():
            for parameter, value in zip(self._laboratory.policy.parameters(), self._start, strict=True):
                parameter.copy_(value)
        laboratory = subject.warmed(replace(self._laboratory, state={}, loss_state={}))
        laboratory = replace(laboratory, task=subject.small_task)
        weights = f"start {noise}"  # a name for the weights, which are equal for every algorithm before its first update
        for step in steps:
            known = step == STEPS[0] or run.is_known  # else the weights are specific to this algorithm
            laboratory.sampler = self._samplers[step, noise] if known else subject.sampler
            batch = run.phase(DRAW, (step,), laboratory, partial(subject.draw, laboratory, step=step))
            self._move(laboratory, noise, step)
            count = run.phase(UPDATES, (step, "count"), laboratory, partial(_count, subject, batch, step))
            logged = [*sorted(getattr(batch, "metrics", {}).items()), ("updates of a draw", count)]
            parts = Parts(subject.algorithm, batch, Stream(subject.seed, ("updates", step)))
            for number in range(MOST_UPDATES):
                part = run.phase(UPDATES, (step, number), laboratory, partial(parts.at, number))
                if part is None:
                    break
                said = ""
                if weights:
                    policy = self._forwards.of(laboratory.policy, weights)
                    forward = partial(_forward, subject, replace(laboratory, policy=policy), part)
                    measured = run.phase(GRADIENT, ("before", step, number), laboratory, forward)
                    said = repr([(name, f"{value:.5g}") for name, value in [*measured[:1], *logged, *measured[1:]]])
                    yield _Update(None, "", said, step)
                before = _weights(laboratory)
                make = partial(subject.source, laboratory, part)
                look = None if weights else partial(_forward, subject, laboratory, part)
                source = run.source((step, number), laboratory, make, look or (lambda: None))
                weights = ""
                with run.within(UPDATE):
                    done = subject.algorithm.update_policy(source, subject.optimizer(laboratory, rate=RATE))
                subject.states(laboratory).learn(source.record or {})
                figures = [*logged, *sorted(source.metrics.items()), *sorted(done.items())]
                shown = repr([(name, f"{value:.5g}") for name, value in figures])
                yield _Update(_weights(laboratory) - before, shown, said, step)

    def _move(self, laboratory: Laboratory, noise: float, step: int) -> None:
        """Add noise to the policy's weights; it is the same for every algorithm."""
        parameters = laboratory.policy.parameters()
        if step not in self._noise:
            generator = Stream(self._subject.seed + step, ("check", "task")).torch()
            self._noise[step] = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in parameters]
        with torch.no_grad():
            for parameter, move in zip(parameters, self._noise[step], strict=True):
                parameter.add_(move * (noise * parameter.abs().mean()))


class _Forwards:
    """Token statistics of a policy without a gradient, computed once for the same weights and sequences."""

    def __init__(self) -> None:
        self._known: dict[Any, TokenStatistics] = {}

    def of(self, policy: Policy, weights: str) -> Policy:
        """Return the policy with cached token statistics. weights: a name of its current weights."""
        known = self._known

        def token_statistics(self: Any, sequences: Sequences, **settings: Any) -> TokenStatistics:
            key = (weights, tuple(keys_of(sequences)), sequences.width, sequences.learned is None, repr(sorted(settings.items())))
            if key not in known or sequences.learned is not None:
                known[key] = type(policy).token_statistics(self, sequences, **settings)
            return known[key]

        return recast(policy, type(type(policy).__name__, (type(policy),), {"token_statistics": token_statistics}))


def remembering(sampler: Sampler) -> Sampler:
    """Return a sampler that answers a repeated draw with the same completions; it is for a policy whose weights do not change."""
    known: dict[tuple[Any, ...], Completions] = {}
    twin = copy.copy(sampler)

    def complete(policy: Policy, draw: Draw) -> Completions:
        prompts = tuple(prompt.tobytes() for prompt in draw.prompts)
        key = (prompts, draw.group_size, draw.limits.tobytes(), draw.keys.tobytes(), draw.temperature, draw.greedy)
        if key not in known:
            known[key] = sampler.complete(policy, draw)
        return copy.deepcopy(known[key])

    object.__setattr__(twin, "complete", complete)
    return twin


def _weights(laboratory: Laboratory) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in laboratory.policy.parameters()])
