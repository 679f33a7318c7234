"""The code that `task.env` names: the name of an environment of the package verifiers is the name of a module.

It therefore names code like any `_target_`: conf/task/verifiers.yaml turns it into one, and the same rules apply.
"""

from __future__ import annotations

import re
from pathlib import Path

_ENV = re.compile(r"^[+]*task\.env=(.*)$", re.DOTALL)
_ENV_IN_YAML = re.compile(r"""^\s*["']?env["']?\s*:\s*["']?([\w./-]+)""", re.MULTILINE)


def loader_of(env: str) -> str:
    """The dotted name of the loader of the environment `env`: `my-env` and `owner/my-env` are my_env.load_environment.

    A dotted name is a class or function itself.
    """
    return env if "." in env else f"{env.rpartition('/')[2].replace('-', '_')}.load_environment"


def loaders_in(override: str) -> list[str]:
    """The dotted names of the environments that an override of task.env chooses; empty for other overrides."""
    found = _ENV.match(override)
    names = re.split(r"[\s,()\[\]]+", found[1].removeprefix("choice")) if found else []
    return [loader_of(name.strip("'\"")) for name in names if name.strip("'\"")]


def loaders_in_folder(folder: Path) -> set[str]:
    """The dotted names of the environments that the YAML files below `folder` choose."""
    files = sorted(folder.rglob("*.yaml"))
    return {loader_of(name) for file in files for name in _ENV_IN_YAML.findall(file.read_text(errors="replace"))}
