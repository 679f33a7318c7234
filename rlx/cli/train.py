"""Trains a policy with an algorithm and writes the record of the run; with -m, a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlx.cli.words import CommandLine


def run(cfg: DictConfig, line: CommandLine) -> int:
    """One run of the composed config; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig

    from rlx.cli.allow import all_folders, allowed_targets
    from rlx.config.check import check_config
    from rlx.config.compose import groups
    from rlx.config.loss_rule import check_loss
    from rlx.config.recorded import continued

    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    multirun = line.is_multirun
    directory = Path(hydra.runtime.output_dir) if multirun or hydra.run.dir != "." else None
    allowed = allowed_targets(line)
    if cfg.resume is not None or cfg.rerun is not None:
        cfg, directory = continued(cfg, overrides, allowed=allowed, directory=directory, multirun=multirun)
    else:
        check_loss(cfg, choices=hydra.runtime.choices, options=groups(all_folders(line)).get("loss", ()))
    check_config(cfg, allowed=allowed)
    from rlx.train.run import train

    command = ["rlx", "train", *overrides] if multirun else ["rlx", *line.argv]
    train(cfg, algorithm=hydra.runtime.choices["algorithm"], command=command, overrides=overrides, directory=directory)
    return 0
