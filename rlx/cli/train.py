"""Trains one policy with one algorithm and writes the record of the run; with -m, a sweep."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig


def run(cfg: DictConfig) -> int:
    """One run of the composed config; returns the exit code."""
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    from rlx.train.run import train

    multirun = hydra.mode == RunMode.MULTIRUN
    directory = Path(hydra.runtime.output_dir) if multirun or hydra.run.dir != "." else None
    name = hydra.runtime.choices["algorithm"]
    train(cfg, algorithm=name, command=["rlx", "train", *overrides], overrides=overrides, directory=directory)
    return 0
