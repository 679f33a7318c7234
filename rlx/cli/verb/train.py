"""Trains a policy with an algorithm and writes the record of the run; with -m, a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlx.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlx.cli.line import CommandLine


def run(cfg: DictConfig, line: CommandLine) -> int:
    """One run of the composed config; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig

    from rlx.cli.line import allowed_targets
    from rlx.config.check import check_config
    from rlx.config.recorded import asked_run, continued
    from rlx.record.run import read_run

    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    if not str(hydra.run.dir).strip():
        raise ConfigError("hydra.run.dir= names no directory; give one, or leave it out for a new one below output_dir")
    directory = Path(hydra.runtime.output_dir) if line.is_multirun or hydra.run.dir != "." else None
    allowed = allowed_targets(line)
    algorithm = str(hydra.runtime.choices["algorithm"])
    if cfg.resume is not None or cfg.rerun is not None:
        cfg, algorithm, directory = continued(
            cfg, overrides, read_run(asked_run(cfg)), allowed=allowed, directory=directory, multirun=line.is_multirun
        )
    check_config(cfg, allowed=allowed)

    from rlx.training.run import train
    from rlx.training.stop import Stopped
    from rlx.training.summary import relative

    command = ["rlx", "train", *overrides] if line.is_multirun else ["rlx", *line.argv]
    try:
        train(cfg, algorithm=algorithm, command=command, overrides=overrides, directory=directory)
    except Stopped as stopped:
        resumed = "run it again" if stopped.directory is None else f"go on with: rlx train resume={relative(stopped.directory)}"
        print(f"rlx: {stopped}; {resumed}", file=sys.stderr)
        return stopped.exit_code
    return 0
