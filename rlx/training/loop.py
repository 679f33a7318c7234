"""The training loop, the same for every algorithm: draw, update, evaluate, checkpoint."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from rlx.algorithm.base import Algorithm, Lab, require_batch, require_figures
from rlx.errors import TrainingError
from rlx.loss.state import LossStates, without_state
from rlx.optimizer.step import NonFiniteGradientError, Optimizer
from rlx.parallel.ranks import ALONE, Ranks
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.record.recorder import Recorder
from rlx.rollout.sampler import Sampler
from rlx.rollout.split import split_statistics
from rlx.seeding import Stream
from rlx.task.base import Task
from rlx.task.environment import require_free
from rlx.training.ahead import DrawAhead, Drawn
from rlx.training.checkpoint import TrainerState, prune_checkpoints, save_checkpoint, trainer_tensors, weights_of
from rlx.training.evaluate import Evaluation, Evaluator
from rlx.training.gradients import AccumulatedGradients
from rlx.training.stop import Stop, Stopped

if TYPE_CHECKING:
    from rlx.training.memory import MemoryPlan


class ProgressView(Protocol):
    """Shows steps and evaluations of a run."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class TrainingPlan:
    """How long the loop runs, and when it evaluates and checkpoints, in steps; max_seconds in seconds of training.

    halves: halve micro-batches when memory runs out.
    """

    seed: int
    num_steps: int
    eval_every: int | None
    micro_batch: int | None
    halves: bool
    stop_at_score: float | None
    max_seconds: float | None
    checkpoint_every: int | None
    keep_last: int
    keep_best: bool

    def evaluates_at(self, step: int) -> bool:
        """Whether to evaluate: before training, every `eval_every` steps, and at the end."""
        return step in (0, self.num_steps) or (self.eval_every is not None and step % self.eval_every == 0)

    def checkpoints_at(self, step: int) -> bool:
        """Whether to checkpoint: every `checkpoint_every` steps and at the end."""
        return step == self.num_steps or (self.checkpoint_every is not None and step % self.checkpoint_every == 0)


@dataclass
class Loop:
    """The objects of a run. `run` continues from `progress`. The reference may move; the evaluator's reference does not.

    ranks: the processes that train and decide together.
    states: the running means of the algorithm's losses. memory: the memory that the run needs.
    ahead: makes draws one step before their updates; None if each is made in its own step.
    """

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
    ranks: Ranks = ALONE
    states: LossStates = field(default_factory=lambda: LossStates({}, {}))
    memory: MemoryPlan | None = None
    ahead: DrawAhead | None = None
    _clock: dict[str, float] = field(default_factory=dict)
    _mark: float = 0.0
    _is_late: bool = False  # whether max_seconds have passed: checked once per step, by all ranks together

    def run(self) -> dict[str, float]:
        """Train to the end of the plan; returns the metrics of the last evaluation. Raises Stopped after a signal."""
        if self.progress.step > 0:
            self.states.restore(self.progress.loss_state)
        self.progress.loss_state = self.states.values
        with self.sampler.running(self.recorder.directory, self.policy), self.states.bound():
            return self._run()

    def _run(self) -> dict[str, float]:
        self._mark = time.monotonic()
        self._look_at_clock()
        metrics: dict[str, float] = {}
        if self.progress.step == 0 or self._finished(metrics):  # resumed after its last step: this is logged already
            metrics = self._evaluate()
            if self.progress.step == 0:
                self.recorder.log(0, metrics)
        self.stop.begin()  # until here a signal ends the run at once, as there is nothing to save
        if early := self._signal():
            raise Stopped(self.progress.step, early)
        while not self._finished(metrics):
            step = self.progress.step
            line = self._step(step)
            self.progress.step = step = step + 1
            moving = self.algorithm.moving_reference
            if moving is not None and moving.due(step):
                self.reference.follow(self.policy, moving.mix)
            self._look_at_clock()
            if self.plan.evaluates_at(step) or self.plan.num_steps == step or self._is_late:
                metrics = self._evaluate()
                line |= metrics
            line |= {f"time/{name}_seconds": seconds for name, seconds in self._clock.items()}
            self._clock.clear()
            self.recorder.log(step, line)
            self.view.step(step, line)
            is_best = self.plan.keep_best and self.progress.best_step == step
            signal_number = self._signal()
            if self.plan.checkpoints_at(step) or is_best or signal_number or self._finished(metrics):
                self._checkpoint()
            if signal_number and not self._finished(metrics):  # a finished run has nothing to resume
                raise Stopped(step, signal_number)
        return metrics

    def cut_into(self, micro_batch: int | None) -> None:
        """Use micro-batches of this many rows for updates and evaluations from now on."""
        self.plan = replace(self.plan, micro_batch=micro_batch)
        self.evaluator = replace(self.evaluator, micro_batch=micro_batch)

    def _signal(self) -> int:
        """The number of the signal that any rank has received; 0 if none."""
        return self.ranks.agree(self.stop.signal_number or 0)[0]

    def _look_at_clock(self) -> None:
        late = self.plan.max_seconds is not None and self._seconds() >= self.plan.max_seconds
        self._is_late = bool(self.ranks.agree(late)[0])

    def _finished(self, metrics: Mapping[str, float]) -> bool:
        reached = self.plan.stop_at_score is not None and metrics.get("eval/score", -math.inf) >= self.plan.stop_at_score
        return self.progress.step >= self.plan.num_steps or reached or (self._is_late and self.progress.step > 0)

    def _seconds(self) -> float:
        now = time.monotonic()
        self.progress.seconds += now - self._mark
        self._mark = now
        return self.progress.seconds

    def _step(self, step: int) -> dict[str, float]:
        """One draw and its updates. Metrics are means over the updates; losses are measured before each update."""
        root = Stream(self.plan.seed)
        self.optimizer.start_step(step)
        with self._timed("draw"), torch.no_grad():
            drawn = self._drawn(step) if self.ahead is None else self._drawn_ahead(self.ahead, step)
        batch = drawn.batch
        self._count("tokens_sampled", getattr(batch, "tokens_sampled", 0))
        figures: dict[str, list[float]] = {name: [value] for name, value in {**batch.metrics, **drawn.figures}.items()}
        with self._timed("update"), self.ranks.watched("an update"):
            for part in self.algorithm.updates(batch, root.child("updates", step)):
                require_batch(part, by=self.algorithm)
                if part is not batch:
                    self._require_alike(part, "updates")
                gradients = AccumulatedGradients(
                    self.algorithm,
                    self.policy,
                    self.reference,
                    part,
                    micro_batch=self.plan.micro_batch,
                    ranks=self.ranks,
                    halves=self.plan.halves,
                    states=self.states,
                )
                try:
                    metrics = self.algorithm.update_policy(gradients, self.optimizer)
                except NonFiniteGradientError as error:
                    raise gradients.non_finite_rows(error) from error
                if gradients.micro_batch != self.plan.micro_batch:
                    self.cut_into(gradients.micro_batch)
                require_figures(metrics, by=self.algorithm)
                require_free(getattr(batch, "environment_figures", ()), {**gradients.metrics, **metrics}, of="an update")
                for name, value in {**gradients.metrics, **self.states.figures(), **metrics}.items():
                    figures.setdefault(name, []).append(value)
                self.states.learn(gradients.record or {})
                self._count("tokens_trained", sum(part.row_tokens))
                self._count("updates", 1)
        if self.ahead is not None:
            with self._timed("draw"):
                self.ahead.wait()
        line = {f"train/{name}": sum(values) / len(values) for name, values in figures.items()}
        if self.plan.halves and self.plan.micro_batch is not None:
            line["cost/micro_batch"] = float(self.plan.micro_batch)
        return line | {f"cost/{name}": total for name, total in self.progress.totals.items()}

    @contextmanager
    def _lab(self, step: int) -> Iterator[Lab]:
        """The Lab for `draw` and `validate`. With several ranks each computes its part of the statistics."""
        lab = Lab(self.task, self.policy, self.reference, self.sampler, step, Stream(self.plan.seed), self.progress.state)
        with split_statistics(self.policy, self.ranks), split_statistics(self.reference, self.ranks):
            yield lab

    def _drawn(self, step: int) -> Drawn:
        """The batch of a step, the same on every rank."""

        def draw() -> Drawn:
            return self._draw(step, self.policy, self.reference, version=self._updates)

        drawn = self.ranks.together("the batch of a step", draw)
        self._require_alike(drawn.batch, "draw")
        return drawn

    def _require_alike(self, batch: Any, method: str) -> None:
        """Raise TrainingError on every rank if a method returned different batches on different ranks."""
        if self.ranks.world == 1:
            return
        from rlx.parallel.alike import contents, difference

        everywhere = self.ranks.exchange("the rows of a step", lambda: contents(batch))
        for rank, found in enumerate(everywhere):
            if place := difference(everywhere[0], found):
                raise TrainingError(
                    f"{method} of {type(self.algorithm).__name__} gave rank {rank} another batch than rank 0 (its {place}); take "
                    "random numbers from lab.rng and rewards from the task, which are the same on every rank"
                )

    def _drawn_ahead(self, ahead: DrawAhead, step: int) -> Drawn:
        """The batch of a step, drawn with the previous step's weights; starts drawing the next one with the current weights."""

        def draw(number: int) -> Drawn:
            with without_state("a draw made ahead of its updates cannot read what depends on them; call it in compute_loss"):
                return self._draw(number, ahead.policy, ahead.reference, version=ahead.version)

        drawn = ahead.take()
        if drawn is None:  # the first step of the run, or the first after a resume
            if step == 0:
                ahead.follow(self.policy, version=self._updates, state={})
            drawn = draw(step)
        ahead.follow(self.policy, version=self._updates, state=self.progress.state)
        if step + 1 < self.plan.num_steps:
            ahead.begin(lambda: draw(step + 1))
        with self._lab(step) as lab:
            return replace(drawn, batch=self.algorithm.renewed(lab, drawn.batch))

    def _draw(self, step: int, policy: Policy, reference: Reference, *, version: int) -> Drawn:
        """Draw the batch of a step with these weights. version: the number of updates that they have had."""
        with torch.no_grad():
            self.sampler.refresh(policy, version=version)
            with self._lab(step) as lab:
                batch = self.algorithm.draw(replace(lab, policy=policy, reference=reference))
            self.sampler.rest()
        require_batch(batch, by=self.algorithm)
        return Drawn(batch, self.sampler.figures())

    @property
    def _updates(self) -> int:
        """The number of updates so far."""
        return int(self.progress.totals.get("updates", 0))

    def _count(self, name: str, amount: float) -> None:
        self.progress.totals[name] = self.progress.totals.get(name, 0.0) + amount

    def _evaluate(self) -> dict[str, float]:
        step = self.progress.step
        with self._timed("evaluation"), torch.no_grad():
            # use rank 0's metrics on all ranks, since scores decide when a run ends
            evaluation, extra = self.ranks.exchange("an evaluation", lambda: self._measured(step))[0]
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
        self.recorder.answers(step, evaluation.answers, digest=evaluation.digest, completions=evaluation.completions)
        self.view.evaluated(step, metrics)
        return metrics

    def _measured(self, step: int) -> tuple[Evaluation, dict[str, float]]:
        """The evaluation, with the metrics that the algorithm adds."""
        evaluation = self.evaluator(self.policy)
        with self._lab(step) as lab:
            return evaluation, self.algorithm.validate(lab)

    def _checkpoint(self) -> None:
        with self._timed("checkpoint"):
            self._seconds()
            gathered = self.gathered()
            if gathered is None and self.ranks.world > 1:
                require_equal_weights(self.policy, self.ranks)
            self.ranks.from_first("a checkpoint", lambda: self._save(gathered))

    def gathered(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """If weights are sharded: all weights and trainer tensors on rank 0, empty on other ranks. None if not sharded.

        All ranks must call it at the same time.
        """
        if self.ranks.lockstep is None:
            return None
        from rlx.parallel.sharded import gathered

        tensors = trainer_tensors(self.policy, self.optimizer, self.reference)
        return gathered(weights_of(self.policy), self.ranks), gathered(tensors, self.ranks)

    def _save(self, gathered: tuple[dict[str, Any], dict[str, Any]] | None = None) -> None:
        self.recorder.sync()
        save_checkpoint(
            self.recorder.directory,
            policy=self.policy,
            optimizer=self.optimizer,
            progress=self.progress,
            reference=self.reference,
            ahead=self.ahead,
            gathered=gathered,
        )
        best = self.progress.best_step if self.plan.keep_best else None
        prune_checkpoints(self.recorder.directory, keep_last=self.plan.keep_last, best_step=best)

    @contextmanager
    def _timed(self, name: str) -> Any:
        start = time.monotonic()
        yield
        self._clock[name] = self._clock.get(name, 0.0) + time.monotonic() - start


def require_equal_weights(policy: Policy, ranks: Ranks) -> None:
    """Raise TrainingError unless the trained weights of all ranks are bitwise equal."""

    def digest() -> str:
        found = hashlib.blake2b(digest_size=16)
        for parameter in policy.parameters():
            found.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    digests = ranks.exchange("the comparison of weights", digest)
    other = next((rank for rank, found in enumerate(digests) if found != digests[0]), None)
    if other is not None:
        raise TrainingError(
            f"the weights of rank {other} are not those of rank 0, though both made the same updates; ranks must run on "
            "processors of one kind with the same packages and the same number of threads"
        )
