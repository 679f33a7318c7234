"""rlx: a laboratory for post-training algorithms of language models.

From Python: `rlx.load("loss", "ipo", beta=0.5)`, `rlx.train(["algorithm=dpo"])`, `rlx.runs("outputs")`, `rlx.compare(...)`.
Importing rlx imports nothing else; each of these loads what it needs when it is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = ["compare", "load", "runs", "train"]


def load(group: str, name: str, **overrides: Any) -> Any:
    """One node of `conf/`, composed, checked and instantiated: `rlx.load("loss", "ipo", beta=0.5)`.

    name: an option of the group, or a class of one's own, `my_lab.MyLoss`.
    overrides: keys of the node, `**{"loss.beta": 0.2}` for one below it.
    """
    from rlx.notebook import load as call

    return call(group, name, overrides)


def runs(path: str | Path = "outputs") -> list[Any]:
    """The records of the runs at or below a path or glob pattern, oldest first. Imports no torch."""
    from rlx.record.run import find_runs

    return list(find_runs(path))


class _Room(ModuleType):
    """A package of rlx that is a function too: `rlx.train` is where training lives, `rlx.train([...])` trains."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        notebook = importlib.import_module("rlx.notebook")
        return getattr(notebook, self.__name__.rpartition(".")[2])(*arguments, **options)


class _Rlx(ModuleType):
    """Makes the packages that are functions too callable, whoever imports them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("train", "compare") and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Rlx


def __getattr__(name: str) -> Any:
    if name in ("train", "compare"):
        return importlib.import_module(f"rlx.{name}")
    raise AttributeError(f"module 'rlx' has no attribute {name!r}")


def _find_conf() -> None:
    """In a bare checkout the folder conf/ beside rlx/ is the package rlx.conf, as it is in an installed one."""
    beside = Path(__file__).resolve().parents[1] / "conf"
    file = beside / "__init__.py"
    if importlib.util.find_spec("rlx.conf") is None and file.is_file():
        spec = importlib.util.spec_from_file_location("rlx.conf", file, submodule_search_locations=[str(beside)])
        assert spec is not None
        conf = importlib.util.module_from_spec(spec)
        sys.modules["rlx.conf"] = conf
        sys.modules[__name__].__dict__["conf"] = conf


_find_conf()
