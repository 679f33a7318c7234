"""Which classes this command line names itself, and may therefore call."""

from __future__ import annotations

import re
from pathlib import Path

from rlx.cli.words import CommandLine
from rlx.config.class_source import served
from rlx.config.compose import config_folders
from rlx.config.plugins import plugin_targets
from rlx.config.schema import conf_dir
from rlx.config.targets import targets_in_folder
from rlx.errors import ConfigError

_NAMED = re.compile(r"""_target_['"]?\s*[:=]\s*((?:['"]?[\w.]+['"]?\s*,?\s*)+)""")
_SEARCHED = re.compile(r"""(?:(file|pkg)://)?([^\s,\[\]"'](?:[^,\[\]"']*[^\s,\[\]"'])?)""")


def allowed_targets(line: CommandLine) -> set[str]:
    """Dotted names (or patterns) on the command line, in the folders that it names, and of installed plugins."""
    allowed = set(served) | plugin_targets()
    for override in line.overrides:
        for names in _NAMED.findall(override):
            allowed.update(name.strip("'\" ") for name in names.split(","))
    for scheme, place in searched(line):
        if scheme == "pkg":
            allowed.add(f"{place.partition('.')[0]}.*")
        else:
            allowed |= targets_in_folder(Path(place))
    return allowed


def searched(line: CommandLine) -> list[tuple[str, str]]:
    """(file or pkg, place) that --config-dir and hydra.searchpath name."""
    places = [("file", line.values["config_dir"])] if "config_dir" in line.values else []
    for override in line.overrides:
        key, _, value = override.partition("=")
        if key == "hydra.searchpath":
            places += [(scheme or "file", place) for scheme, place in _SEARCHED.findall(value)]
    return places


def check_folders(line: CommandLine) -> None:
    """Refuse a YAML file of the user's that rlx's own of the same name would hide."""
    own = conf_dir()
    for scheme, place in searched(line):
        if scheme != "file":
            continue
        if not Path(place).is_dir():
            raise ConfigError(f"hydra.searchpath: there is no folder {place}")
        if Path(place).resolve() == own:
            continue
        for file in sorted(Path(place).rglob("*.yaml")):
            name = file.relative_to(place)
            if (own / name).is_file():
                raise ConfigError(f"{file} would be hidden by rlx's own {name}; give yours another name")


def config_dirs(line: CommandLine) -> list[str]:
    """The folders that this command line adds."""
    return [place for scheme, place in searched(line) if scheme == "file" and Path(place).is_dir()]


def all_folders(line: CommandLine) -> list[Path]:
    """Every folder of YAML files that this command line searches."""
    return config_folders(config_dirs(line))
