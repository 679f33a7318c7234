"""Measures how fast an algorithm trains: `python -m rlx.workbench.bench REQUEST ANSWER` reads a config and writes figures.

Each measurement runs in its own process, so that the peak memory is that of one algorithm and no cache is warm.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlx.errors import ExitCode, RlxError
from rlx.experiment import assemble, set_threads
from rlx.optimizer.step import Gradients
from rlx.parallel.ranks import ALONE, Ranks
from rlx.policy.precision import matmul_peak
from rlx.training.build import build_loop
from rlx.training.loop import Loop
from rlx.training.summary import peak_memory

PHASES = ("draw", "forward", "backward", "step")
PATIENCE = 10  # the token budget is abandoned after this many budgets of seconds
PROFILED_STEPS = 2
Spread = dict[str, Any]  # median, low, high; None if a round did not get there


class Clock:
    """Seconds by phase. Time in a nested phase counts for the inner phase only, so no second counts twice."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._inner = [0.0]  # for each open phase, the time of the phases inside it

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            passed = self._now() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + passed - self._inner.pop()
            self._inner[-1] += passed

    def take(self) -> dict[str, float]:
        """The seconds so far; resets the clock."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class _Timed:
    """Wraps an object, of which a subclass times some methods."""

    def __init__(self, own: Any, clock: Clock) -> None:
        self._own, self._clock = own, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


class TimedAlgorithm(_Timed):
    """Times an algorithm's draw, forward, backward and step. completions: the number of completions drawn so far."""

    completions = 0

    def draw(self, lab: Any) -> Any:
        """The algorithm's draw. In a separate thread it is not timed; the time that the run waits for it is."""
        with self._clock("draw") if threading.current_thread() is threading.main_thread() else nullcontext():
            batch = self._own.draw(lab)
        self.completions += count_completions(batch)
        return batch

    def compute_loss(self, policy: Any, reference: Any, batch: Any) -> Any:
        """The result of the algorithm's own compute_loss."""
        with self._clock("forward"):
            return self._own.compute_loss(policy, reference, batch)

    def update_policy(self, gradients: Any, optimizer: Any) -> Mapping[str, float]:
        """The algorithm's update. The calls of `gradients` are timed as the backward pass, without the forward passes in them."""
        metrics: Mapping[str, float] = self._own.update_policy(_TimedGradients(gradients, self._clock), optimizer)
        return metrics


class TimedOptimizer(_Timed):
    """An optimiser whose step is timed."""

    def step(self, gradients: Gradients, clipping: Any) -> dict[str, float]:
        """Make the step of the optimizer that is measured."""
        with self._clock("step"):
            metrics: dict[str, float] = self._own.step(gradients, clipping)
            return metrics


class _TimedGradients(_Timed):
    """A timed source of gradients."""

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        with self._clock("backward"):
            found: Mapping[str, Gradients] = self._own(by)
            return found


def count_completions(batch: Any) -> int:
    """The number of completions of a batch; of all its parts for a mixture's batch."""
    parts = getattr(batch, "parts", None)
    if parts is not None:
        return sum(count_completions(part) for part in parts.values())
    sequences = getattr(batch, "sequences", None)
    return len(batch) if sequences is None else len(sequences) * sequences.group_size


@dataclass(frozen=True)
class Budget:
    """How long an algorithm is measured.

    tokens, seconds: the budgets after which the score is taken. warmup_steps: first steps, not counted for speed. trace: the file
    of a profile, or None.
    """

    tokens: int
    seconds: float
    warmup_steps: int
    trace: str | None = None


def measure(cfg: DictConfig, budget: Budget, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train until both budgets are spent; returns speeds, phases, scores, memory and the share of the matmul peak.

    cfg: a config of rlx train. Speeds are over the steps after the warm-up; scores count every step. ranks: the ranks of the run;
    with several, the share of time in communication (including waiting) replaces the share of the peak.
    """
    set_threads(cfg.threads)
    experiment = assemble(cfg)
    experiment.sampler.prepare(experiment.policy)
    loop = build_loop(cfg, experiment, None, None, None, ranks)  # type: ignore[arg-type]  # no record, view or signal here
    clock = Clock()
    algorithm = TimedAlgorithm(loop.algorithm, clock)
    loop.algorithm, loop.optimizer = algorithm, TimedOptimizer(loop.optimizer, clock)  # type: ignore[assignment]
    if loop.ahead is not None:
        loop.ahead.wait = clock("draw")(loop.ahead.wait)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as place, loop.sampler.running(Path(place), loop.policy):
        return _measured(loop, clock, algorithm, budget)


def _measured(loop: Loop, clock: Clock, algorithm: TimedAlgorithm, budget: Budget) -> dict[str, Any]:
    found = {"score_before": _score(loop, clock)[0], **_train(loop, clock, algorithm, budget)}
    found["peak_memory_bytes"] = peak_memory()
    number = loop.ranks.world
    found["devices"] = number if loop.policy.device.type == "cuda" else number * torch.get_num_threads()
    if loop.ranks.world > 1:
        return found | {"matmul_peak": None, "matmul_share": None}
    found |= _share_of_peak(loop, found, loop.policy)
    if budget.trace is not None:
        found["trace"] = _profile(loop, Path(budget.trace))
    return found


def _train(loop: Loop, clock: Clock, algorithm: TimedAlgorithm, budget: Budget) -> dict[str, Any]:
    """Steps, their phases, and the scores at the budgets."""
    scores: dict[str, float | None] = {"score_at_tokens": None, "score_at_seconds": None}
    phases = dict.fromkeys((*PHASES, "other"), 0.0)
    seconds = warm_seconds = communication = 0.0
    warm: dict[str, float] = {}
    evaluations: list[float] = []
    while True:
        if loop.progress.step == budget.warmup_steps:
            warm, warm_seconds, phases = _counts(loop, algorithm), seconds, dict.fromkeys(phases, 0.0)
            communication = 0.0
        exchanged = loop.ranks.seconds
        start = time.perf_counter()
        loop._step(loop.progress.step)
        passed = time.perf_counter() - start
        communication += loop.ranks.seconds - exchanged
        passed = loop.ranks.from_first("the time of a step", partial(float, passed))  # all ranks end after the same step
        loop.progress.step += 1
        seconds += passed
        spent = clock.take()
        for phase in PHASES:
            phases[phase] += spent.get(phase, 0.0)
        phases["other"] += passed - sum(spent.get(phase, 0.0) for phase in PHASES)
        reached = {"score_at_tokens": _tokens(loop) >= budget.tokens, "score_at_seconds": seconds >= budget.seconds}
        new = [name for name, there in reached.items() if there and scores[name] is None]
        if new:
            score, took = _score(loop, clock)
            scores |= dict.fromkeys(new, score)
            evaluations.append(took)
        is_measured = loop.progress.step > budget.warmup_steps and scores["score_at_seconds"] is not None
        if is_measured and (scores["score_at_tokens"] is not None or seconds >= PATIENCE * max(budget.seconds, 1.0)):
            break
    total = _counts(loop, algorithm)
    done = {name: total[name] - warm.get(name, 0.0) for name in total}
    timed = seconds - warm_seconds
    return {
        **scores,
        "steps": loop.progress.step,
        "seconds": seconds,
        "tokens": _tokens(loop),
        "steps_per_second": done["steps"] / timed,
        "tokens_per_second": done["tokens"] / timed,
        "completions_per_second": done["completions"] / timed,
        "phase_milliseconds": {phase: 1e3 * spent / done["steps"] for phase, spent in phases.items()},
        "evaluation_seconds": sum(evaluations) / len(evaluations),
        "communication_share": communication / timed,
    }


def _tokens(loop: Loop) -> float:
    """Tokens sampled and trained so far."""
    return loop.progress.totals.get("tokens_sampled", 0.0) + loop.progress.totals.get("tokens_trained", 0.0)


def _counts(loop: Loop, algorithm: TimedAlgorithm) -> dict[str, float]:
    return {"steps": loop.progress.step, "tokens": _tokens(loop), "completions": algorithm.completions}


def _score(loop: Loop, clock: Clock) -> tuple[float, float]:
    """The task's score, and the seconds that measuring it took."""
    start = time.perf_counter()
    score = loop.evaluator(loop.policy).metrics["score"]
    clock.take()
    return score, time.perf_counter() - start


def onednn_operations() -> dict[Any, Any]:
    """Tells FlopCounterMode how to count oneDNN's product, which it does not know: 2 M I O operations for [M, I] and [O, I]."""

    def operations(left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * left[0] * left[1] * right[0]

    product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return {} if product is None else {product: operations}


def _share_of_peak(loop: Loop, found: Mapping[str, Any], policy: Any) -> dict[str, Any]:
    """Floating-point operations per second of the matrix products of one more step, divided by the peak of a single product."""
    if policy.device.type != "cpu":
        return {"matmul_peak": None, "matmul_share": None}
    from torch.utils.flop_counter import FlopCounterMode

    before, counter = _tokens(loop), FlopCounterMode(display=False, custom_mapping=onednn_operations())
    with counter:
        loop._step(loop.progress.step)
    loop.progress.step += 1
    tokens = _tokens(loop) - before
    peak = matmul_peak(policy.forward_settings.autocast or policy.dtype)
    rate = counter.get_total_flops() / tokens * found["tokens_per_second"] if tokens else 0.0
    return {"matmul_peak": peak, "matmul_share": rate / peak}


def _profile(loop: Loop, file: Path) -> str:
    """A few more steps under torch's profiler, written as a trace; returns the file."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=kinds, record_shapes=True) as profiler:
        for _ in range(PROFILED_STEPS):
            loop._step(loop.progress.step)
            loop.progress.step += 1
    file.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(file))
    return str(file)


def spread_of(values: Sequence[float | None]) -> Spread:
    """Median, smallest and largest; all None if a round has no value, because a median of the others would mislead."""
    if not values or any(value is None for value in values):
        return {"median": None, "low": None, "high": None}
    present = [float(value) for value in values if value is not None]
    return {"median": statistics.median(present), "low": min(present), "high": max(present)}


def summarised(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one algorithm's rounds, each as a spread; phases by name."""
    first = rounds[0]
    figures: dict[str, Any] = {}
    for name, value in first.items():
        if isinstance(value, Mapping):
            figures[name] = {key: spread_of([one[name][key] for one in rounds]) for key in value}
        elif not isinstance(value, str):
            figures[name] = spread_of([one[name] for one in rounds])
    return figures


def measure_request(asked: Path, answer: Path) -> None:
    """Read a request {config, budget} from a file, measure, and write the figures, or the error, to another file."""
    request = json.loads(asked.read_text())
    cfg, ranks = OmegaConf.create(request["config"]), ALONE
    found: dict[str, Any]
    try:
        import transformers

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if cfg.ranks > 1:
            from rlx.parallel.distributed import join

            ranks = join(cfg.ranks, timeout=cfg.parallel.timeout, device=cfg.device)
        found = measure(cfg, Budget(**request["budget"]), ranks)
    except RlxError as error:
        found = {"error": str(error), "exit_code": error.exit_code}
    ranks.end(None)
    if ranks.is_first:
        answer.write_text(json.dumps(found))


def main(asked: str, answer: str) -> None:
    """The entry point of `python -m rlx.workbench.bench`. It ends at once, because a group of ranks could abort later."""
    code = ExitCode.OK
    try:
        measure_request(Path(asked), Path(answer))
    except Exception:  # a bug: shown, and the process must end
        traceback.print_exc()
        code = ExitCode.FAILED
    from rlx.parallel.distributed import end_process  # not before, because the memory of its modules would be measured

    end_process(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
