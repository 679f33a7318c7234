"""One run from its config to its record: assemble, train, and record what came of it, whatever happens."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlx.errors import ConfigError, DataError
from rlx.experiment import make
from rlx.record.lines import read_metrics
from rlx.record.provenance import code_hash, config_hash
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, RunRecord, read_run
from rlx.record.sources import sources
from rlx.report.terminal import TrainView
from rlx.train.checkpoint import checkpoint_path, checkpoint_steps, load_checkpoint
from rlx.train.loop import Loop
from rlx.train.session import run_recorded, set_threads


def train(
    cfg: DictConfig,
    *,
    algorithm: str,
    command: Sequence[str],
    overrides: Sequence[str],
    directory: Path | None = None,
    view: TrainView | None = None,
) -> AlgorithmResult:
    """Run the config, checked before: a new run, or what `resume` or `rerun` in it names.

    algorithm: the name that it was chosen by. directory: a place of the caller's own, or None.
    Raises RlxError, with the record saying failed; Stopped, with the record saying interrupted, and a checkpoint after a step.
    """
    view = view or TrainView()
    if cfg.resume is not None:
        return _resume(cfg, Path(cfg.resume).expanduser(), command, view)
    if cfg.rerun is not None:
        return _rerun(cfg, Path(cfg.rerun).expanduser(), command, directory, view)
    return _new(cfg, algorithm, command, overrides, directory, view)


def _new(
    cfg: DictConfig, algorithm: str, command: Sequence[str], overrides: Sequence[str], directory: Path | None, view: TrainView
) -> AlgorithmResult:
    recorder = Recorder.create(
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
    return run_recorded(cfg, recorder, view, lambda _: None)


def _resume(cfg: DictConfig, run: Path, command: Sequence[str], view: TrainView) -> AlgorithmResult:
    """Go on with a run from its last checkpoint, unless there is nothing to go on from or data or code have changed."""
    before = read_run(run)
    steps = checkpoint_steps(before.directory)
    if before.status == "completed" and cfg.num_steps <= before.config["num_steps"]:
        raise ConfigError(f"{run} is completed; to make it longer say num_steps=N with N above {before.config['num_steps']}")
    if not steps:
        place = ", in another hydra.run.dir" if any(word.startswith("hydra.run.dir=") for word in before.command) else ""
        raise ConfigError(f"{run} has no checkpoint to go on from; run its command again{place}: {shlex.join(before.command)}")
    config = recorded_config(cfg)
    _require_unchanged_code(before, config, cfg.allow_changed)
    recorder = Recorder.reopen(
        before.directory,
        steps[-1],
        command=command,
        loggers=_loggers(cfg),
        warn=view.warn,
        config=config,
        config_hash=config_hash(config, sources(config)),
    )

    def load(loop: Loop) -> None:
        _require_unchanged_data(before, recorder.record, cfg.allow_changed)
        loop.progress = load_checkpoint(
            checkpoint_path(before.directory, steps[-1]),
            policy=loop.policy,
            optimizer=loop.optimizer,
            reference=loop.reference,
        )
        view.note(f"resumed at step {loop.progress.step} of {cfg.num_steps}")

    if cfg.threads is None:
        set_threads(before.threads)
    return run_recorded(cfg, recorder, view, load)


def _rerun(cfg: DictConfig, run: Path, command: Sequence[str], directory: Path | None, view: TrainView) -> AlgorithmResult:
    """A new run of a run's config that says whether the metrics agree with the old ones, to the last bit."""
    before = read_run(run)
    if cfg.threads is None:
        set_threads(before.threads)
    result = _new(cfg, before.algorithm, command, before.overrides, directory, view)
    old, new = ([reproducible(line) for line in read_metrics(place)] for place in (run, result.metadata["directory"]))
    differing = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
    if differing:
        a, b = differing[0]
        name = next(name for name in {**a, **b} if a.get(name) != b.get(name))
        view.warn(f"the metrics differ from {run} from step {b['step']} on: {name} was {a.get(name)} and is {b.get(name)}")
    elif len(old) != len(new):
        view.warn(f"{run} has {len(old)} lines of metrics and this run {len(new)}; those that both have agree")
    else:
        view.note(f"the metrics of all {len(new)} lines agree with {run}, to the last bit")
    return result


def reproducible(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without what a clock or the machine's memory decides."""
    return {name: value for name, value in line.items() if not name.startswith(("time/", "cost/peak_memory"))}


def recorded_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values, without the request that brought it here: it must describe a run, not a resume."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return {**{str(key): value for key, value in config.items()}, "resume": None, "rerun": None, "allow_changed": []}


def _loggers(cfg: DictConfig) -> dict[str, Any]:
    return {str(name): make(node, key=f"logger.{name}") for name, node in cfg.logger.items()}


def _require_unchanged_code(before: RunRecord, config: dict[str, Any], allowed: Sequence[str]) -> None:
    now = {source.module: source.sha256 for source in sources(config)}
    changed = [source["module"] for source in before.sources if now.get(source["module"]) != source["sha256"]]
    if before.provenance["rlx"]["code"] != code_hash():
        changed.append(f"rlx itself (it was {before.provenance['rlx']['version']})")
    if changed and "code" not in allowed:
        raise ConfigError(
            f"{', '.join(changed)} changed since this run began (its copy is in {before.directory / 'sources'}); "
            "put it back, or go on with the new code by allow_changed=[code]"
        )


def _require_unchanged_data(before: RunRecord, now: RunRecord, allowed: Sequence[str]) -> None:
    if before.provenance.get("data") != now.provenance["data"] and "data" not in allowed:
        raise DataError(
            f"the data of task {now.task} changed since this run began; "
            "put the old file back, or go on with the new one by allow_changed=[data]"
        )
