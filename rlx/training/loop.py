"""The training loop, equal for every algorithm: draw, update, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from rlx.algorithm.base import Algorithm, Lab, require_batch, require_figures
from rlx.errors import TrainingError
from rlx.optimizer.step import NonFiniteGradientError, Optimizer
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.record.recorder import Recorder
from rlx.rollout.sampler import Sampler
from rlx.seeding import Stream
from rlx.task.base import Task
from rlx.training.checkpoint import TrainerState, prune_checkpoints, save_checkpoint
from rlx.training.evaluate import Evaluator
from rlx.training.gradients import AccumulatedGradients
from rlx.training.stop import Stop


class ProgressView(Protocol):
    """Shows steps and evaluations of a run."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class TrainingPlan:
    """How long the loop runs, and when it evaluates and checkpoints, in steps; max_seconds in seconds of training."""

    seed: int
    num_steps: int
    eval_every: int | None
    micro_batch: int | None
    stop_at_score: float | None
    max_seconds: float | None
    checkpoint_every: int | None
    keep_last: int
    keep_best: bool

    def evaluates_at(self, step: int) -> bool:
        """Before training, every `eval_every` steps, and at the end."""
        return step in (0, self.num_steps) or (self.eval_every is not None and step % self.eval_every == 0)

    def checkpoints_at(self, step: int) -> bool:
        """Every `checkpoint_every` steps and at the end."""
        return step == self.num_steps or (self.checkpoint_every is not None and step % self.checkpoint_every == 0)


@dataclass
class Loop:
    """The objects of a run. `run` continues from `progress`. The reference may move; that of the evaluator does not."""

    plan: TrainingPlan
    task: Task
    algorithm: Algorithm[Any]
    policy: Policy
    reference: Reference
    sampler: Sampler
    optimizer: Optimizer
    evaluator: Evaluator
    recorder: Recorder
    view: ProgressView
    stop: Stop
    progress: TrainerState = field(default_factory=TrainerState)
    _clock: dict[str, float] = field(default_factory=dict)
    _mark: float = 0.0

    def run(self) -> dict[str, float]:
        """Train to the end of the plan; returns the metrics of the last evaluation. Raises Stopped after a signal."""
        self._mark = time.monotonic()
        metrics: dict[str, float] = {}
        if self.progress.step == 0 or self._finished(metrics):  # resumed after its last step: evaluated again, logged already
            metrics = self._evaluate()
            if self.progress.step == 0:
                self.recorder.log(0, metrics)
        self.stop.begin()  # before this, a signal ends the run at once, since there is nothing to save
        while not self._finished(metrics):
            step = self.progress.step
            line = self._step(step)
            self.progress.step = step = step + 1
            moving = self.algorithm.moving_reference
            if moving is not None and moving.due(step):
                self.reference.follow(self.policy, moving.mix)
            ends = self.plan.num_steps == step or self._out_of_time()
            if self.plan.evaluates_at(step) or ends:
                metrics = self._evaluate()
                line |= metrics
            line |= {f"time/{name}_seconds": seconds for name, seconds in self._clock.items()}
            self._clock.clear()
            self.recorder.log(step, line)
            self.view.step(step, line)
            is_best = self.plan.keep_best and self.progress.best_step == step
            if self.plan.checkpoints_at(step) or is_best or self.stop.requested or self._finished(metrics):
                self._checkpoint()
            if not self._finished(metrics):  # a finished run has nothing to resume
                self.stop.check(step)
        return metrics

    def _finished(self, metrics: Mapping[str, float]) -> bool:
        reached = self.plan.stop_at_score is not None and metrics.get("eval/score", -1.0) >= self.plan.stop_at_score
        return self.progress.step >= self.plan.num_steps or reached or (self._out_of_time() and self.progress.step > 0)

    def _out_of_time(self) -> bool:
        return self.plan.max_seconds is not None and self._seconds() >= self.plan.max_seconds

    def _seconds(self) -> float:
        now = time.monotonic()
        self.progress.seconds += now - self._mark
        self._mark = now
        return self.progress.seconds

    def _step(self, step: int) -> dict[str, float]:
        """One draw and its updates. Metrics are means over the updates; losses are those before each update."""
        root = Stream(self.plan.seed)
        self.optimizer.start_step(step)
        lab = Lab(self.task, self.policy, self.reference, self.sampler, step, root, self.progress.state)
        with self._timed("draw"), torch.no_grad():
            batch = self.algorithm.draw(lab)
        require_batch(batch, by=self.algorithm)
        self._count("tokens_sampled", getattr(batch, "tokens_sampled", 0))
        figures: dict[str, list[float]] = {name: [value] for name, value in batch.metrics.items()}
        with self._timed("update"):
            for part in self.algorithm.updates(batch, root.child("updates", step)):
                require_batch(part, by=self.algorithm)
                gradients = AccumulatedGradients(
                    self.algorithm, self.policy, self.reference, part, micro_batch=self.plan.micro_batch
                )
                try:
                    metrics = self.algorithm.update_policy(gradients, self.optimizer)
                except NonFiniteGradientError as error:
                    raise gradients.non_finite_rows(error) from error
                require_figures(metrics, by=self.algorithm)
                for name, value in {**gradients.metrics, **metrics}.items():
                    figures.setdefault(name, []).append(value)
                self._count("tokens_trained", sum(part.row_tokens))
                self._count("updates", 1)
        line = {f"train/{name}": sum(values) / len(values) for name, values in figures.items()}
        return line | {f"cost/{name}": total for name, total in self.progress.totals.items()}

    def _count(self, name: str, amount: float) -> None:
        self.progress.totals[name] = self.progress.totals.get(name, 0.0) + amount

    def _evaluate(self) -> dict[str, float]:
        step = self.progress.step
        with self._timed("evaluation"):
            evaluation = self.evaluator(self.policy)
            lab = Lab(self.task, self.policy, self.reference, self.sampler, step, Stream(self.plan.seed), self.progress.state)
            with torch.no_grad():
                extra = self.algorithm.validate(lab)
        taken = sorted(extra.keys() & evaluation.metrics.keys())
        if taken:
            raise TrainingError(
                f"{type(self.algorithm).__name__}.validate returns {', '.join(taken)}, which rlx measures; give another name"
            )
        metrics = {f"eval/{name}": value for name, value in {**evaluation.metrics, **extra}.items()}
        score = metrics["eval/score"]
        if self.progress.best_score is None or score > self.progress.best_score:
            self.progress.best_score, self.progress.best_step = score, step
        self.recorder.samples(step, evaluation.samples)
        self.recorder.answers(step, evaluation.answers)
        self.view.evaluated(step, metrics)
        return metrics

    def _checkpoint(self) -> None:
        with self._timed("checkpoint"):
            self._seconds()
            self.recorder.sync()
            save_checkpoint(
                self.recorder.directory,
                policy=self.policy,
                optimizer=self.optimizer,
                progress=self.progress,
                reference=self.reference,
            )
            best = self.progress.best_step if self.plan.keep_best else None
            prune_checkpoints(self.recorder.directory, keep_last=self.plan.keep_last, best_step=best)

    @contextmanager
    def _timed(self, name: str) -> Any:
        start = time.monotonic()
        yield
        self._clock[name] = self._clock.get(name, 0.0) + time.monotonic() - start
