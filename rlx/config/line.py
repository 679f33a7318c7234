"""A command line taken apart: its verb, words, flags and overrides; the folders that it searches, and what it may call."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlx.config.check import require_resolvable
from rlx.config.compose import Composed, config_folders, groups
from rlx.config.schema import conf_dir
from rlx.config.sources import plugin_targets, served
from rlx.config.targets import targets_in_folder
from rlx.errors import ConfigError

_NAMED = re.compile(r"""_target_['"]?\s*[:=]\s*((?:['"]?[\w.]+['"]?\s*,?\s*)+)""")
_SEARCHED = re.compile(r"""(?:(file|pkg)://)?([^\s,\[\]"'](?:[^,\[\]"']*[^\s,\[\]"'])?)""")
_DOTTED = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def dotted_names(text: str) -> list[str]:
    """Everything in a text that can be the dotted name of a class or function."""
    return _DOTTED.findall(text)


@dataclass
class CommandLine:
    """A command line taken apart.

    flags: as Hydra gets them; values: of the flags that take one, and what a verb put aside. recorded: arguments that a record
    gave and the user did not, which name nothing that may be called but what is `trusted`.
    """

    argv: list[str] = field(default_factory=list)
    verb: str | None = None
    words: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()

    def has(self, *names: str) -> bool:
        """Whether one of these flags is there."""
        return any(name in self.flags for name in names)

    @property
    def is_multirun(self) -> bool:
        """Whether -m is there."""
        return self.has("-m", "--multirun")

    @property
    def searched(self) -> list[tuple[str, str]]:
        """(file or pkg, place) that --config-dir and hydra.searchpath name."""
        places = [("file", self.values["config_dir"])] if "config_dir" in self.values else []
        for override in self.overrides:
            key, _, value = override.partition("=")
            if key == "hydra.searchpath":
                places += [(scheme or "file", place) for scheme, place in _SEARCHED.findall(value)]
        return places

    @property
    def folders(self) -> list[Path]:
        """Every folder of YAML files that this command line searches."""
        return config_folders([place for scheme, place in self.searched if scheme == "file" and Path(place).is_dir()])

    @property
    def options(self) -> dict[str, list[str]]:
        """Group -> the options that may be chosen."""
        return groups(self.folders)

    @property
    def typed(self) -> list[str]:
        """The overrides that the user gave, not a record."""
        return [override for override in self.overrides if override not in self.recorded]

    @property
    def named(self) -> frozenset[str]:
        """Every dotted name in the values that the user gave and in the YAML files of the folders given, and what is trusted."""
        texts = [override.partition("=")[2] for override in self.typed]
        folders = [Path(place) for scheme, place in self.searched if scheme == "file"]
        texts += [file.read_text(errors="replace") for folder in folders for file in sorted(folder.rglob("*.yaml"))]
        return self.trusted.union(name for text in texts for name in dotted_names(text))

    @property
    def allowed(self) -> frozenset[str]:
        """Dotted names (or patterns) on the command line, in the folders that it names, and of installed plugins."""
        allowed = set(served) | plugin_targets() | self.trusted
        for override in self.typed:
            for names in _NAMED.findall(override):
                allowed.update(name.strip("'\" ") for name in names.split(","))
        for scheme, place in self.searched:
            if scheme == "pkg":
                allowed.add(f"{place.partition('.')[0]}.*")
            else:
                allowed |= targets_in_folder(Path(place))
        return frozenset(allowed)

    def composed(self, config: DictConfig, hydra: Any) -> Composed:
        """What Hydra composed of this line. config: the verb's; hydra: Hydra's own part of it."""
        require_resolvable(config)
        verb, overrides = self.verb or "train", tuple(map(str, hydra.overrides.task))
        if not str(hydra.run.dir).strip():
            raise ConfigError("hydra.run.dir= names no directory; give one, or leave it out for a new one below output_dir")
        directory = None if hydra.run.dir == "." else Path(hydra.run.dir).absolute()
        if self.is_multirun:
            directory = Path(hydra.runtime.output_dir)
        return Composed(
            verb=verb,
            config=config,
            choices={str(group): option for group, option in hydra.runtime.choices.items()},
            overrides=overrides,
            allowed=self.allowed,
            folders=tuple(self.folders),
            command=("rlx", verb, *overrides) if self.is_multirun else ("rlx", *self.argv),
            directory=directory,
            is_multirun=self.is_multirun,
            values=dict(self.values),
        )


def check_folders(line: CommandLine) -> None:
    """Refuse a YAML file of the user's that rlx's own of the same name would hide."""
    own = conf_dir()
    for scheme, place in line.searched:
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
