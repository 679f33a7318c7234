"""Trains a policy with an algorithm and writes the record of the run; with -m, a sweep."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlx.config.schema import RunConfig
from rlx.errors import ConfigError, DataError, TrainingError
from rlx.record.files import follow_latest

if TYPE_CHECKING:
    from rlx.config.compose import Composed
    from rlx.parallel.launch import Outcome
    from rlx.record.run import AlgorithmResult
    from rlx.report.terminal import TrainView


SCHEMA = RunConfig
AUTO = "auto"  # a value of resume: the run of this command, if there is one


def narrow(composed: Composed) -> Composed:
    """Replace the config by the run's own under resume or rerun, with the allowed overrides; `ranks` becomes a number.

    A policy.path that is a `latest` is replaced by the run that it points to, because it will soon point to the new run.
    """
    composed = _with_run_of_latest(composed)
    if composed.config.resume == AUTO and composed.config.rerun is None:
        composed = _with_own_run(composed)
    elif composed.config.resume is not None or composed.config.rerun is not None:
        composed = _with_recorded_config(composed)
    return with_number(composed)


def _with_run_of_latest(composed: Composed) -> Composed:
    """The config, and the words for later commands, with a `latest` in policy.path replaced by the run that it points to."""
    path = composed.config.policy.get("path")
    if not isinstance(path, str) or Path(path).name != "latest":
        return composed
    cfg = composed.config.copy()
    cfg.policy.path = str(follow_latest(Path(path).expanduser()))
    words = {f"policy.path={path}": f"policy.path={cfg.policy.path}"}
    overrides, command = (tuple(words.get(word, word) for word in some) for some in (composed.overrides, composed.command))
    return replace(composed, config=cfg, overrides=overrides, command=command)


def _with_recorded_config(composed: Composed) -> Composed:
    """The config of the run that resume or rerun names. Raises ConfigError unless the command names the code that it calls."""
    from rlx.config.recorded import asked_run, continued
    from rlx.record.directory import require_own_files
    from rlx.record.run import read_run
    from rlx.record.trust import command_for, require_named, trusted_targets

    record, verb = read_run(asked_run(composed.config)), "rerun" if composed.config.resume is None else "resume"
    composed = replace(composed, allowed=composed.allowed | trusted_targets(record))
    require_named(record, composed.allowed, verb)
    if verb == "resume":
        require_own_files(record.directory)
    command = command_for(record, verb)
    return continued(composed, record.config, record.directory, algorithm=record.algorithm, command=command)


def _with_own_run(composed: Composed) -> Composed:
    """The same command, with the directory of its own run to resume; without one it begins a run.

    The config is the recorded one, except for what may differ in a resumed run: places, loggers, checkpoints.
    """
    from rlx.config.recorded import recorded_config
    from rlx.record.unfinished import own_run

    cfg = composed.config.copy()
    values = recorded_config(cfg)
    record = own_run(values, output_dir=Path(values["output_dir"]).expanduser(), directory=composed.directory)
    if record is None:
        cfg.resume = None
        return replace(composed, config=cfg)
    cfg.resume = str(record.directory)
    state = {"completed": str(record.directory)} if record.status == "completed" else {}
    return replace(composed, config=cfg, directory=record.directory, values={**composed.values, **state})


def run(composed: Composed) -> int:
    """One run of the composed config; returns the exit code."""
    from rlx.record.run import read_run
    from rlx.record.trust import command_for

    if starts_ranks(composed) and "completed" not in composed.values:
        return launched(composed).said()
    if sys.stderr.isatty() and is_first():  # importing torch takes seconds
        print("loading torch, the task and the policy ...", file=sys.stderr, flush=True)
    from rlx.training.stop import Stopped

    if composed.config.plan:
        from rlx.experiment import set_threads
        from rlx.training.memory import plan_text

        set_threads(composed.config.threads)
        print(plan_text(composed.config))
        return 0
    try:
        trained(composed)
    except Stopped as stopped:
        resumed = "run it again"
        if stopped.directory is not None:
            resumed = f"resume with: {command_for(read_run(stopped.directory))}"
        if is_first():
            print(f"rlx: {stopped}; {resumed}", file=sys.stderr)
        return stopped.exit_code
    return 0


def trained(composed: Composed, view: TrainView | None = None) -> AlgorithmResult:
    """The result of the run, or of the completed run that `resume=auto` found. view: shows progress; None: as a command does."""
    if "completed" in composed.values:
        return _completed(Path(composed.values["completed"]), view)

    if starts_ranks(composed):
        return result_of_ranks(composed)
    from rlx.training.run import train

    return train(
        composed.config,
        algorithm=composed.algorithm,
        command=list(composed.command),
        overrides=list(composed.overrides),
        directory=composed.directory,
        view=view,
    )


def _completed(run: Path, view: TrainView | None) -> AlgorithmResult:
    """The result of a run that is already completed."""
    from rlx.record.files import relative
    from rlx.record.run import read_run
    from rlx.report.terminal import TrainView

    result = read_run(run).result
    if result is None:
        raise DataError(f"{run} has the status completed but no result; the record was damaged")
    score = result.performance_metrics.get("eval/score")
    shown = "" if score is None else f", score {score:.4g}"
    (view or TrainView()).note(f"{relative(run)} is the run of this command and is completed{shown}; nothing is left to do")
    return result


# Several ranks: how many there are, and how they are started.


def with_number(composed: Composed) -> Composed:
    """The same command with `ranks` as a number: as many as torchrun has started, else as many as the config asks for.

    Raises ConfigError for a value that is not a number of ranks, and for one that differs from what torchrun has started.
    """
    asked = composed.config.ranks
    given = any(override.startswith("ranks=") for override in composed.overrides)
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if started > 1:
        from rlx.parallel.launch import ranks_of_environment

        started = ranks_of_environment()
    if asked != "auto" and (not isinstance(asked, int) or isinstance(asked, bool) or asked < 1):
        raise ConfigError(f"ranks={asked}: it must be a number of processes, at least 1, or auto for one per GPU")
    if given and started > 1 and asked not in (1, started, "auto"):
        raise ConfigError(f"ranks={asked}, and {started} ranks were started; leave out ranks where another launcher starts them")
    if started > 1:
        composed.config.ranks = started
    elif asked == "auto":
        from rlx.sweep.pool.resources import gpus

        composed.config.ranks = max(1, len(gpus()))
    return composed


def is_first() -> bool:
    """Whether this process prints for the run."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def starts_ranks(composed: Composed) -> bool:
    """Whether this process only starts the ranks of the run."""
    return bool(composed.config.ranks > 1 and "RANK" not in os.environ)


def launched(composed: Composed) -> Outcome:
    """Run the same command line as several ranks."""
    from rlx.parallel.launch import launch

    cfg = composed.config
    return launch(composed.command[1:], ranks=cfg.ranks, timeout=cfg.parallel.timeout, threads=cfg.threads)


def result_of_ranks(composed: Composed) -> AlgorithmResult:
    """The result of a run with several ranks, read from its record. Raises TrainingError if they failed."""
    from rlx.record.run import read_run

    outcome = launched(composed)
    result = None if outcome.directory is None or outcome.code else read_run(outcome.directory).result
    if result is None:
        where = "" if outcome.directory is None else f"; {outcome.directory / 'run.json'} says more"
        said = outcome.message or f"the ranks of this run ended with exit code {outcome.code}{where}"
        raise TrainingError(*said.splitlines())
    return result
