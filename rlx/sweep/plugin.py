"""The Hydra sweeper. Loaded by `register` under the name hydra_plugins.rlx_sweeper: Hydra takes plugins from there alone."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlx.sweep import register
from rlx.sweep.session import Session


class RlxSweeper(Sweeper):
    """Plans a sweep and runs it; its exit code ends the program."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.hydra_context is not None
        if register.surroundings is None:
            raise RuntimeError("rlx's sweeper runs under the command rlx; call rlx.sweep.register.install first")
        raise SystemExit(Session(self.config, self.hydra_context.config_loader, register.surroundings).run(arguments))
