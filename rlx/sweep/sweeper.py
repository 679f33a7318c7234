"""The Hydra sweeper. Loaded by `register` under the name hydra_plugins.rlx_sweeper: Hydra takes plugins from there alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.plugins import Plugins
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
        launch = self._launch if self._has_launcher() else None
        session = Session(self.config, self.hydra_context.config_loader, register.surroundings, launch)
        raise SystemExit(session.run(arguments))

    def _has_launcher(self) -> bool:
        """Whether the user wants one of Hydra's launchers instead of the pool of workers."""
        assert self.config is not None
        chosen = any(str(text).startswith("hydra/launcher=") for text in self.config.hydra.overrides.hydra)
        return chosen or self.config.hydra.runtime.choices["hydra/launcher"] != "basic" or self.config.sweep.workers == 0

    def _launch(self, task: Callable[[Any], Any], overrides: Sequence[Sequence[str]]) -> Any:
        assert self.config is not None
        assert self.hydra_context is not None
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=task, config=self.config
        )
        return launcher.launch(overrides, initial_job_idx=0)
