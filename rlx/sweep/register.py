"""Makes the sweeper known to Hydra, in a wheel, an editable install and a bare checkout alike.

Hydra accepts plugins from the package hydra_plugins only, which an editable install does not find; so the module is put there in
memory, and nothing lies beside rlx at the top level.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins

if TYPE_CHECKING:
    from rlx.sweep.session import Surroundings

NAME = "hydra_plugins.rlx_sweeper"

# of the command line that this process runs: Hydra hands a sweeper nothing but its config
surroundings: Surroundings | None = None


def install(around: Surroundings | None = None) -> None:
    """Register the sweeper; may be called again. around: of the command line, if it is a sweep."""
    global surroundings
    surroundings = around
    plugins = Plugins.instance()  # its scan comes first: it executes Hydra's own plugins again, and their classes change
    if NAME in sys.modules:
        module = sys.modules[NAME]
    else:
        if importlib.util.find_spec("hydra_plugins") is None:
            package = ModuleType("hydra_plugins")
            package.__path__ = []
            sys.modules["hydra_plugins"] = package
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("sweeper.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
        importlib.import_module("hydra_plugins").__dict__["rlx_sweeper"] = module
    plugins.register(module.RlxSweeper)
