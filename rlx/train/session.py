"""A run from its objects to its end: whatever happens on the way is written into the record."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from omegaconf import DictConfig

from rlx.errors import ConfigError
from rlx.experiment import Experiment, assemble
from rlx.optimizer.step import Optimizer
from rlx.policy.reference import Reference
from rlx.record.lines import read_metrics
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult
from rlx.report.terminal import TrainView
from rlx.train.checkpoint import checkpoint_steps, export_policy
from rlx.train.diagnosis import Watched, diagnose, tell
from rlx.train.evaluate import Evaluator
from rlx.train.loop import Loop, Plan, View
from rlx.train.nonfinite import NonFiniteLossError
from rlx.train.stop import Stop, Stopped
from rlx.train.summary import closing, opening, result_of

MOST_THREADS = 256


def run_recorded(cfg: DictConfig, recorder: Recorder, view: TrainView, prepare: Callable[[Loop], None]) -> AlgorithmResult:
    """Assemble and run; every way to end is written into the record."""
    stop = Stop()
    loop: Loop | None = None
    try:
        with stop.listening():
            loop = _prepared(cfg, recorder, view, stop, prepare)
            metrics = loop.run()
        if cfg.export.path is not None:
            export_policy(loop.policy, Path(cfg.export.path).expanduser(), dtype=getattr(torch, cfg.export.dtype))
        lines = read_metrics(recorder.directory)
        result = result_of(recorder.record, loop.progress, metrics, lines)
        recorder.finish(result)
        view.finish(closing(recorder.record, result, lines))
        tell(view, diagnose(lines))
        return result
    except Stopped as stopped:
        view.close()
        recorder.interrupt(signal=stopped.signal_name, step=stopped.step)
        stopped.directory = recorder.directory if checkpoint_steps(recorder.directory) else None
        raise
    except KeyboardInterrupt:
        view.close()
        recorder.interrupt(signal="SIGINT")
        raise
    except NonFiniteLossError as error:
        view.close()
        step = loop.progress.step if loop else 0
        where = f"; the examples are in {_keep(recorder.directory, error)}" if error.examples else ""
        named = NonFiniteLossError(f"step {step + 1}: {error}{where}", error.examples)
        recorder.fail(named, step=step + 1)
        raise named from error
    except BaseException as error:
        view.close()
        recorder.fail(error, step=loop.progress.step if loop else 0)
        raise


def _prepared(cfg: DictConfig, recorder: Recorder, view: TrainView, stop: Stop, prepare: Callable[[Loop], None]) -> Loop:
    """The loop at its first step, or where it goes on."""
    transformers.utils.logging.disable_progress_bar()  # one bar is enough
    set_threads(cfg.threads)
    require_writable(cfg.export.path)
    experiment = assemble(cfg)
    data = experiment.task.content_hash()
    recorder.update(threads=torch.get_num_threads(), provenance={**recorder.record.provenance, "data": data})
    experiment.sampler.prepare(experiment.policy)
    loop = build_loop(cfg, experiment, recorder, Watched(view), stop)
    prepare(loop)
    view.start(opening(cfg, experiment, recorder.record), num_steps=cfg.num_steps, step=loop.progress.step)
    return loop


def _keep(directory: Path, error: NonFiniteLossError) -> Path:
    file = directory / "nonfinite_examples.jsonl"
    file.write_text("".join(json.dumps(example, ensure_ascii=False) + "\n" for example in error.examples))
    return file


def build_loop(cfg: DictConfig, experiment: Experiment, recorder: Recorder, view: View, stop: Stop) -> Loop:
    """The loop at its start: the reference is the policy as it is now."""
    policy = experiment.policy
    start = Reference(policy, cache_dir=cfg.cache_dir)  # what every run is measured against
    moves = experiment.algorithm.moving_reference is not None
    return Loop(
        plan=Plan(
            seed=cfg.seed,
            num_steps=cfg.num_steps,
            eval_every=cfg.eval_every,
            micro_batch=cfg.micro_batch,
            stop_at_score=cfg.stop_at_score,
            max_seconds=cfg.max_seconds,
            checkpoint_every=cfg.checkpoint.every,
            keep_last=cfg.checkpoint.keep_last,
            keep_best=cfg.checkpoint.keep_best,
        ),
        task=experiment.task,
        algorithm=experiment.algorithm,
        policy=policy,
        reference=Reference(policy, cache_dir=cfg.cache_dir) if moves else start,
        sampler=experiment.sampler,
        optimizer=Optimizer(
            experiment.make_optimizer, policy.parameters(), schedule=experiment.schedule, num_steps=cfg.num_steps
        ),
        evaluator=Evaluator(
            task=experiment.task, reference=start, sampler=experiment.sampler, micro_batch=cfg.micro_batch, **cfg.evaluation
        ),
        recorder=recorder,
        view=view,
        stop=stop,
    )


def require_writable(path: str | None) -> None:
    """Refuse a place for the final weights before they are made; the folder is there afterwards."""
    if path is None:
        return
    try:
        Path(path).expanduser().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).expanduser()):
            pass
    except OSError as error:
        raise ConfigError(f"export.path={path} cannot be written: {error.strerror}; choose another place") from error


def set_threads(threads: int | None) -> None:
    """Fix torch's CPU threads; None leaves torch's choice."""
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if threads is not None and threads > most:  # torch would end the process without a word
        raise ConfigError(
            f"threads={threads} is more than {most}; this machine has {os.cpu_count()} CPUs, and null lets torch decide"
        )
    if threads is not None:
        torch.set_num_threads(threads)
