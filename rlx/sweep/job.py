"""A job of a sweep as a worker runs it: one training run in the directory that the plan assigns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from rlx.errors import ConfigError, DataError, ExitCode, RlxError
from rlx.record.directory import is_alive
from rlx.record.run import read_run
from rlx.report.terminal import TrainView
from rlx.sweep.directory import set_aside
from rlx.sweep.pool.worker import LOG, Assignment, Channel, Done
from rlx.sweep.state import FAILED, INTERRUPTED, RUNNING, figures_of, mark_failed
from rlx.training.checkpoint import checkpoint_steps
from rlx.training.run import train
from rlx.training.stop import Stopped

SHOWN = ("train/loss", "eval/score")


@dataclass(frozen=True)
class Training:
    """What a worker needs for one run: the composed config and its origin. folders: of configs, as words of a command.

    ranks: processes that train together.
    """

    cfg: DictConfig
    algorithm: str
    overrides: tuple[str, ...]
    folders: tuple[str, ...] = ()
    ranks: int = 1


class Pruned(Stopped):
    """The search has pruned this run."""

    def __init__(self, step: int) -> None:
        Exception.__init__(self, f"pruned after step {step}")
        self.step, self.signal_name, self.exit_code = step, "PRUNED", ExitCode.OK


class JobView(TrainView):
    """Writes the job's log and reports the run's progress to the sweep."""

    def __init__(self, channel: Channel, num_steps: int, *, wants_answers: bool) -> None:
        super().__init__(Console(highlight=False, emoji=False, force_terminal=False, width=200))
        self._channel, self._steps, self._wants_answers = channel, num_steps, wants_answers
        self._newest: dict[str, float] = {}

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        super().step(step, metrics)
        self._newest |= {name: float(metrics[name]) for name in SHOWN if name in metrics}
        self._channel.progress(step, self._newest)
        if self._wants_answers and step < self._steps and any(name.startswith("eval/") for name in metrics):
            figures = {name: float(value) for name, value in metrics.items() if name.startswith(("eval/", "cost/"))}
            if self._channel.shall_stop(step, figures):
                raise Pruned(step)


def run(assignment: Assignment, channel: Channel) -> Done:
    """Train, or resume from the checkpoint of an interrupted attempt."""
    torch.set_num_threads(1)  # an earlier job may have set its own
    training: Training = assignment.content
    directory = Path(assignment.directory)
    view = JobView(channel, training.cfg.num_steps, wants_answers=assignment.wants_answers)
    options: dict[str, Any] = {
        "algorithm": training.algorithm,
        "command": ["rlx", "train", *training.folders, *training.overrides],
        "overrides": list(training.overrides),
        "directory": directory,
    }
    try:
        if training.ranks > 1:
            return _of_ranks(prepared(training.cfg, directory), training.ranks, options)
        result = train(prepared(training.cfg, directory), **options, view=view)
    except Pruned as pruned:
        return Done("pruned", figures=view._newest, reason=str(pruned))
    except Stopped as stopped:
        return Done("interrupted", reason=str(stopped))
    except RlxError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return Done("failed", reason=str(error))
    return Done("completed", figures=figures_of(result))


def _of_ranks(cfg: DictConfig, ranks: int, options: dict[str, Any]) -> Done:
    """Run a job with several ranks; its progress is in its log and record."""
    from rlx.parallel.launch import STOPPED
    from rlx.sweep.ranks import run_ranks

    code, reason = run_ranks(copy.deepcopy(cfg), ranks, options)
    try:
        record = read_run(options["directory"])
    except DataError:  # they failed before there was one
        return Done("interrupted" if code in STOPPED else "failed", reason=reason or f"its ranks ended with exit code {code}")
    if code == 0 and record.result is not None:
        return Done("completed", figures=figures_of(record.result))
    told = (record.error or {}).get("message") or reason or f"its ranks ended with exit code {code}"
    return Done("interrupted" if code in STOPPED else "failed", reason=str(told))


def _given_up(directory: Path) -> str:
    """The status for a record that says running, if its process may be on a lost machine and the job was reassigned."""
    process = dict(read_run(directory).process)
    if is_alive(process):
        raise ConfigError(f"{directory}: the run is still running (process {process['pid']}); wait for it, or stop it first")
    mark_failed(directory, "its machine was lost")
    return FAILED


def prepared(cfg: DictConfig, directory: Path) -> DictConfig:
    """The config, set to resume if an earlier attempt left a checkpoint; an attempt without one is moved aside."""
    if not (directory / "run.json").exists():
        return cfg
    try:
        status = read_run(directory).status
        if status == RUNNING:
            status = _given_up(directory)
        can_go_on = status in (INTERRUPTED, FAILED) and bool(checkpoint_steps(directory))
    except DataError:
        can_go_on = False
    if not can_go_on:
        set_aside(directory, keep=LOG)
        return cfg
    cfg = copy.deepcopy(cfg)
    cfg.resume = str(directory)
    return cfg
