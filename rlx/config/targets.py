"""Which classes and functions a config may name. A config from a run record is data: it passes here like any other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rlx.errors import ConfigError

OWN: tuple[str, ...] = ("rlx.*", "torch.optim.*")
# rlx's own functions that build nothing: a config has no business to call them
_REFUSED: tuple[str, ...] = ("rlx.cli.*", "rlx.config.*", "rlx.experiment.*", "rlx.train.*", "rlx.load", "rlx.sweep.*")
_IN_YAML = re.compile(r"""^\s*(?:-\s+)?["']?_target_["']?\s*:\s*["']?([\w.]+)""", re.MULTILINE)


def targets_of(container: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path of the node, its `_target_`) for every node of plain dicts and lists that names one."""
    if isinstance(container, Mapping):
        if "_target_" in container:
            yield path, container["_target_"]
        for key, value in container.items():
            yield from targets_of(value, f"{path}.{key}" if path else str(key))
    elif isinstance(container, (list, tuple)):
        for index, value in enumerate(container):
            yield from targets_of(value, f"{path}[{index}]")


def is_allowed(target: str, allowed: Iterable[str]) -> bool:
    """Whether a dotted name is rlx's own, an optimizer of torch, or matches one of the patterns in `allowed`."""
    parts = target.split(".")
    if any(not part.isidentifier() or part.startswith("__") for part in parts):
        return False
    if any(fnmatchcase(target, pattern) for pattern in allowed):
        return True
    return any(fnmatchcase(target, pattern) for pattern in OWN) and not any(fnmatchcase(target, p) for p in _REFUSED)


def check_targets(container: Any, allowed: Iterable[str] = ()) -> None:
    """Refuse a config that names a class or function outside of the allow list; nothing is imported or called."""
    patterns = tuple(allowed)
    for path, target in targets_of(container):
        if not isinstance(target, str) or not is_allowed(target, patterns):
            key = f"{path}._target_" if path else "_target_"
            raise ConfigError(
                f"{key} names {target}, which a config may not call (rlx's own and torch.optim it may); "
                "name a class of your own on the command line (algorithm=my_lab.MyAlgorithm) or in a folder for --config-dir"
            )


def targets_in_folder(folder: Path) -> set[str]:
    """Every `_target_` that the YAML files below `folder` name."""
    return {target for file in sorted(folder.rglob("*.yaml")) for target in _IN_YAML.findall(file.read_text(errors="replace"))}
