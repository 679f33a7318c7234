"""One run from config to record: a new, resumed or repeated run, whose outcome is recorded whatever happens."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import DictConfig, OmegaConf

from rlx.config.recorded import recorded_config
from rlx.errors import ConfigError, DataError
from rlx.experiment import Experiment, assemble, device_name, make, set_threads
from rlx.parallel.ranks import ALONE, Ranks
from rlx.parallel.silent import SilentView, recorder_of_first
from rlx.record.files import read_metrics, relative
from rlx.record.provenance import code_hash, config_hash, verify_record
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, RunRecord, read_run, written_by
from rlx.record.sources import sources
from rlx.record.trust import check_command, command_for, folder_words
from rlx.report.terminal import TrainView
from rlx.training.build import build_loop
from rlx.training.caution import Movement, cautions, require_possible
from rlx.training.checkpoint import (
    checkpoint_path,
    checkpoint_steps,
    export_policy,
    load_checkpoint,
    verified_values,
    verify_logs,
)
from rlx.training.diagnosis import Watched, diagnose, show_diagnoses
from rlx.training.gradients import NonFiniteLossError, is_out_of_memory
from rlx.training.loop import Loop
from rlx.training.memory import AUTO, out_of_memory, planned
from rlx.training.stop import Stop, Stopped
from rlx.training.summary import closing_summary, opening_facts, result_of


def run_recorded(
    cfg: DictConfig, recorder: Recorder, view: TrainView, prepare: Callable[[Loop], None], ranks: Ranks
) -> AlgorithmResult:
    """Assemble and run; write the outcome, including an error or a signal, to the record.

    ranks: the processes that train together; only the first one's recorder and view write and show anything.
    """
    stop = Stop()
    if ranks.world > 1:
        stop.begin()  # a rank that ended at once would leave the others waiting
    loop: Loop | None = None
    try:
        with stop.listening():
            loop = _prepared(cfg, recorder, view, stop, prepare, ranks)
            metrics = loop.run()
        if loop.progress.step == 0:
            view.warn(f"stop_at_score={cfg.stop_at_score:g} was reached before training: no step was made")
        if cfg.export.path is not None:
            _export(cfg, loop)
        lines = read_metrics(recorder.directory) if ranks.is_first else []
        result = result_of(recorder.record, loop.progress, metrics, lines)
        recorder.finish(result)
        view.finish(closing_summary(recorder.record, result, lines))
        show_diagnoses(view, diagnose(lines))
        return result
    except Stopped as stopped:
        view.close()
        recorder.interrupt(signal=stopped.signal_name, step=stopped.step)
        stopped.directory = recorder.directory if checkpoint_steps(recorder.directory) else None
        raise
    except KeyboardInterrupt:
        view.close()
        recorder.interrupt(signal="SIGINT")
        has_checkpoint = bool(checkpoint_steps(recorder.directory))
        view.note(f"ended at once; {f'resume with: {command_for(recorder.record)}' if has_checkpoint else 'run it again'}")
        raise
    except NonFiniteLossError as error:
        view.close()
        step = loop.progress.step if loop else 0
        kept = error.examples and ranks.is_first
        where = f"; the examples are in {_keep(recorder.directory, error)}" if kept else ""
        advice = f"{'lower optimizer.lr, or ' if step else ''}run `{check_command(recorder.record)}`"
        named = NonFiniteLossError(f"step {step + 1}: {error}; {advice}{where}", error.examples)
        recorder.fail(named, step=step + 1)
        raise named from error
    except BaseException as error:
        view.close()
        step = loop.progress.step if loop else 0
        if is_out_of_memory(error):
            short = out_of_memory(error, loop.memory if loop else None)
            recorder.fail(short, step=step)
            raise short from error
        recorder.fail(error, step=step)
        raise


def _export(cfg: DictConfig, loop: Loop) -> None:
    gathered = loop.gathered()
    if loop.ranks.is_first:
        export_policy(
            loop.policy,
            Path(cfg.export.path).expanduser(),
            dtype=getattr(torch, cfg.export.dtype),
            merge=cfg.export.merge,
            weights=None if gathered is None else gathered[0],
        )


def _prepared(
    cfg: DictConfig, recorder: Recorder, view: TrainView, stop: Stop, prepare: Callable[[Loop], None], ranks: Ranks
) -> Loop:
    """The loop at its first step, or at the step from which `prepare` makes it continue."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one bar is enough
    set_threads(cfg.threads)
    require_writable(cfg.export.path)
    experiment = ranks.together("the start of a run", lambda: _assembled(cfg))
    data = experiment.task.content_hash()
    origin = {**recorder.record.provenance, "data": data, "device": device_name(experiment.policy.device)}
    recorder.update(threads=torch.get_num_threads(), provenance=origin)
    movement = Movement(experiment.policy.parameters(), cfg.scheduler.get("warmup_steps", 0))
    loop = build_loop(cfg, experiment, recorder, Watched(view, movement.said), stop, ranks)
    movement.parameters = loop.optimizer.parameters
    ranks.together("the checkpoint", lambda: prepare(loop))
    movement.begin()
    facts = opening_facts(cfg, experiment, recorder.record)
    if ranks.world == 1:
        loop.memory, facts["memory"] = planned(cfg, experiment)
        if loop.plan.halves and loop.memory is not None:
            loop.cut_into(loop.memory.micro_batch)
    view.start(facts, num_steps=cfg.num_steps, step=loop.progress.step)
    for caution in cautions(cfg, experiment):
        view.warn(caution)
    return loop


def _assembled(cfg: DictConfig) -> Experiment:
    """The objects of the run, after checking its values, before anything is recorded."""
    experiment = assemble(cfg)
    require_possible(cfg, experiment)
    experiment.sampler.prepare(experiment.policy)
    return experiment


def _keep(directory: Path, error: NonFiniteLossError) -> Path:
    file = directory / "nonfinite_examples.jsonl"
    file.write_text("".join(json.dumps(example, ensure_ascii=False) + "\n" for example in error.examples))
    return file


def require_writable(path: str | None) -> None:
    """Create the directory for the final weights before training. Raises ConfigError if it is not writable."""
    if path is None:
        return
    try:
        Path(path).expanduser().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).expanduser()):
            pass
    except OSError as error:
        raise ConfigError(f"export.path={path} cannot be written: {error.strerror}; choose another directory") from error


def train(
    cfg: DictConfig,
    *,
    algorithm: str,
    command: Sequence[str],
    overrides: Sequence[str],
    directory: Path | None = None,
    view: TrainView | None = None,
) -> AlgorithmResult:
    """Run a checked config: a new run, or the run that its `resume` or `rerun` names.

    algorithm: the name by which it was chosen. directory: of the record, if the caller chooses one.
    Raises RlxError with status failed in the record, or Stopped with status interrupted, and a checkpoint if a step was made.
    """
    view = view or TrainView()
    ranks = ALONE
    if cfg.plan:
        raise ConfigError("plan=true shows what one run needs, and trains nothing; leave out -m")
    if cfg.ranks != 1 and cfg.micro_batch == AUTO:
        raise ConfigError(
            "micro_batch=auto works only in a single process; with ranks give a number (plan=true helps to find it)"
        )
    if cfg.ranks != 1:
        from rlx.parallel.distributed import join

        ranks = join(cfg.ranks, timeout=cfg.parallel.timeout, device=cfg.device)
        view = view if ranks.is_first else SilentView()
    with _ended_together(ranks):
        if cfg.resume is not None:
            return _resume(cfg, Path(cfg.resume).expanduser(), command, view, ranks)
        if cfg.rerun is not None:
            return _rerun(cfg, Path(cfg.rerun).expanduser(), command, directory, view, ranks)
        return _new(cfg, algorithm, command, overrides, directory, view, ranks)


@contextmanager
def _ended_together(ranks: Ranks) -> Iterator[None]:
    """Keep every rank alive until rank 0 has written the record, unless it fails alone."""
    try:
        yield
    except BaseException as error:
        ranks.end(error)
        raise
    ranks.end(None)


def _new(
    cfg: DictConfig,
    algorithm: str,
    command: Sequence[str],
    overrides: Sequence[str],
    directory: Path | None,
    view: TrainView,
    ranks: Ranks,
) -> AlgorithmResult:
    def create() -> Recorder:
        return Recorder.create(
            directory,
            output_dir=cfg.output_dir,
            verb="train",
            command=command,
            config=recorded_config(cfg),
            config_yaml=OmegaConf.to_yaml(cfg),
            overrides=overrides,
            algorithm=algorithm,
            task=cfg.task.name,
            seed=cfg.seed,
            loggers=_loggers(cfg),
            warn=view.warn,
        )

    return run_recorded(cfg, recorder_of_first(create, ranks), view, lambda _: None, ranks)


def _resume(cfg: DictConfig, run: Path, command: Sequence[str], view: TrainView, ranks: Ranks) -> AlgorithmResult:
    """Continue a run from its last checkpoint. Raises an RlxError if there is none, or if data or code changed."""
    before = ranks.from_first("the record", lambda: read_run(run))
    steps = checkpoint_steps(before.directory)
    if before.status == "completed" and cfg.num_steps <= before.config["num_steps"]:
        raise ConfigError(f"{run} is completed; to make it longer say num_steps=N with N above {before.config['num_steps']}")
    if before.status == "running":
        raise ConfigError(f"{run} is still running ({written_by(before)}); wait for it, or stop it first")
    if not steps:
        command = shlex.join(word for word in before.command if not word.startswith("hydra.run.dir="))  # that directory exists
        raise ConfigError(f"{run} has no checkpoint to resume from; run its command again: {command}")
    verify_record(before)
    latest = checkpoint_path(before.directory, steps[-1])
    verify_logs(before.directory, verified_values(latest))
    config = recorded_config(cfg)
    _require_unchanged_code(before, config, cfg.allow_changed)

    def reopen() -> Recorder:
        return Recorder.reopen(
            before.directory,
            steps[-1],
            command=command,
            loggers=_loggers(cfg),
            warn=view.warn,
            config=config,
            config_hash=config_hash(config, sources(config)),
        )

    recorder = recorder_of_first(reopen, ranks)

    def load(loop: Loop) -> None:
        _require_unchanged_data(before, recorder.record, cfg.allow_changed)
        loop.progress = load_checkpoint(
            latest, policy=loop.policy, optimizer=loop.optimizer, reference=loop.reference, ahead=loop.ahead
        )
        view.note(f"resumed at step {loop.progress.step} of {cfg.num_steps}")

    if cfg.threads is None:
        set_threads(before.threads)
    return run_recorded(cfg, recorder, view, load, ranks)


def _rerun(
    cfg: DictConfig, run: Path, command: Sequence[str], directory: Path | None, view: TrainView, ranks: Ranks
) -> AlgorithmResult:
    """Run the config of a run again, and report whether the metrics are bitwise equal."""
    before = read_run(run)
    verify_record(before)
    run = before.directory.absolute()  # the given path may be `latest`, which will point to the new run
    if cfg.threads is None:
        set_threads(before.threads)
    folders = folder_words(before.command)  # the folders that hold what the overrides choose, for reading the command again
    result = _new(cfg, before.algorithm, [*command, *folders], before.overrides, directory, view, ranks)
    if not ranks.is_first:
        return result
    old, new = ([reproducible(line) for line in read_metrics(place)] for place in (run, result.metadata["directory"]))
    shown = relative(run)
    differing = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
    if differing:
        a, b = differing[0]
        name = next(name for name in {**a, **b} if a.get(name) != b.get(name))
        view.warn(f"the metrics differ from {shown} from step {b['step']} on: {name} was {a.get(name)} and is {b.get(name)}")
    elif len(old) != len(new):
        agree = "those that both have agree" if old else "there is nothing to hold them against"
        view.warn(f"{shown} has {len(old)} lines of metrics and this run {len(new)}; {agree}")
    else:
        view.note(f"the metrics of all {len(new)} lines agree with {shown}, to the last bit")
    return result


def reproducible(line: dict[str, Any]) -> dict[str, Any]:
    """A metrics line without times and memory."""
    return {name: value for name, value in line.items() if not name.startswith(("time/", "cost/peak_memory", "cost/micro_batch"))}


def _loggers(cfg: DictConfig) -> dict[str, Any]:
    return {str(name): make(node, key=f"logger.{name}") for name, node in cfg.logger.items()}


def _require_unchanged_code(before: RunRecord, config: dict[str, Any], allowed: Sequence[str]) -> None:
    now = {source.module: source for source in sources(config)}
    recorded = {source["module"]: source for source in before.sources}
    changed = [module for module, source in recorded.items() if module not in now or not now[module].computes_as(source)]
    mend = f"start over: {command_for(before, 'rerun')}, or resume with the new code: {command_for(before, changed='code')}"
    if changed and "code" not in allowed:
        copies = before.directory / "sources"
        raise ConfigError(f"{', '.join(changed)} changed since this run began; put it back from {copies}, {mend}")
    made = before.provenance.get("rlx", {})
    if made.get("code") != code_hash() and "code" not in allowed:
        version = f"{made.get('version', 'of unknown version')}, code {made.get('code', 'unknown')}"
        raise ConfigError(f"the code of rlx that affects results changed since this run began (it was {version}); {mend}")


def _require_unchanged_data(before: RunRecord, now: RunRecord, allowed: Sequence[str]) -> None:
    if before.provenance.get("data") != now.provenance["data"] and "data" not in allowed:
        raise DataError(
            f"the data of task {now.task} changed since this run began; put the old file back, or resume with the new one: "
            f"{command_for(before, changed='data')}"
        )
