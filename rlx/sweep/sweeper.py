"""The Hydra sweeper, and how it is made known to Hydra.

Hydra accepts plugins from the package hydra_plugins only, which an editable install does not find. So this module is put there in
memory, in a wheel, an editable install and a bare checkout alike, and nothing lies beside rlx at the top level.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlx.sweep.run import SweepCommand, SweepRun

NAME = "hydra_plugins.rlx_sweeper"


class RlxSweeper(Sweeper):
    """Plans a sweep and runs it; its exit code ends the program. command: the command line that this process runs."""

    __module__ = NAME
    command: SweepCommand | None = None  # of the class: Hydra hands a sweeper nothing but its config

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.hydra_context is not None
        if self.command is None:
            raise RuntimeError("rlx's sweeper runs under the command rlx; call rlx.sweep.sweeper.register_sweeper first")
        launch = self._launch if self._has_launcher() else None
        raise SystemExit(SweepRun(self.config, self.hydra_context.config_loader, self.command, launch).run(arguments))

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


def register_sweeper(command: SweepCommand | None = None) -> None:
    """Make the sweeper known to Hydra; may be called again. command: the command line, if it is a sweep's."""
    RlxSweeper.command = command
    plugins = Plugins.instance()  # its scan comes first: it would replace the package that is made here
    if NAME not in sys.modules:
        if importlib.util.find_spec("hydra_plugins") is None:
            package = ModuleType("hydra_plugins")
            package.__path__ = []
            sys.modules["hydra_plugins"] = package
        sys.modules[NAME] = sys.modules[__name__]
        importlib.import_module("hydra_plugins").__dict__["rlx_sweeper"] = sys.modules[__name__]
    plugins.register(RlxSweeper)
