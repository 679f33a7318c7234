"""Composing configs from Python: for `rlx.load` and `rlx.train`, and for the nearest right name after an error."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlx.config.check import check_config
from rlx.config.groups import GROUPS
from rlx.config.schema import conf_dir
from rlx.config.sources import install, plugin_packages
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

# groups below hydra/ and files that are no choice are left out of lists
_HIDDEN_GROUPS = {"hydra"}


class CompositionOfJobError(Exception):
    """Hydra cannot compose one job of a sweep; its cause says why. overrides: of that job."""

    def __init__(self, overrides: Sequence[str]) -> None:
        super().__init__(" ".join(overrides))
        self.overrides = tuple(overrides)


OPEN = ("policy.chat_template_kwargs.",)  # nodes that take keys of any name, so that these need no `+`
CHOICES = {"task.environment": "task/environment"}  # keys that are typed for the group whose option stands there


def opened(override: str) -> str:
    """The override as Hydra takes it, where it sets a key of a node that takes any, or chooses an option by its key."""
    key, equals, value = override.partition("=")
    if equals and key in CHOICES:
        return f"{CHOICES[key]}={value}"
    return f"++{override}" if override.startswith(OPEN) else override


@dataclass(frozen=True)
class Composed:
    """What a command line, or a call from Python, composes to: made once, and checked once.

    config: the verb's keys, without Hydra's own and without how a sweep is run. choices: group -> the option chosen.
    overrides: those of the config, as Hydra got them. allowed: dotted names that may be called besides rlx's own.
    folders: of YAML files. command: as it was typed. directory: where the record goes, if the caller says so.
    values: of the flags that take one, and what the verb put aside before Hydra composed.
    """

    verb: str
    config: DictConfig
    choices: Mapping[str, Any]
    overrides: tuple[str, ...]
    allowed: frozenset[str]
    folders: tuple[Path, ...]
    command: tuple[str, ...]
    directory: Path | None = None
    is_multirun: bool = False
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        """The name that the algorithm was chosen by."""
        return str(self.choices["algorithm"])

    def named(self, *asked: str) -> list[str]:
        """Those of these groups of which the overrides choose or set something."""
        pattern = {group: re.compile(rf"\+*{group}[.=@/]") for group in asked}
        return [group for group in asked if any(pattern[group].match(override) for override in self.overrides)]

    def check(self, schema: type) -> None:
        """Refuse a wrong key, type, value or class. Imports the classes that the config names, builds none."""
        check_config(self.config, allowed=self.allowed, schema=schema, verb=self.verb)


def compose(verb: str, overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """The config of a verb; whatever Hydra says against an override is raised as Hydra says it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    install()
    with _apart(), initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="rlx"):
        return hydra_compose(
            config_name=verb, overrides=[opened(override) for override in overrides], return_hydra_config=with_hydra
        )


@contextmanager
def _apart() -> Iterator[None]:
    """Let Hydra compose while it runs a job, which it holds to be a mistake."""
    from hydra.core.global_hydra import GlobalHydra

    hydra = GlobalHydra.instance()
    running = hydra.hydra
    hydra.clear()
    try:
        yield
    finally:
        hydra.hydra = running


def config_folders(extra: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """The folders of YAML files that are searched: rlx's own, the given ones, those of installed plugins."""
    folders = [conf_dir(), *(Path(folder) for folder in extra)]
    for package in plugin_packages():
        from importlib.util import find_spec

        spec = find_spec(package)
        folders += [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    return folders


def groups(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Group -> its options, over all folders; a group within a group is group/subgroup."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            group = file.parent.relative_to(folder).as_posix()
            if group != "." and group.partition("/")[0] not in _HIDDEN_GROUPS:
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def group_of(override: str, known: Iterable[str]) -> str | None:
    """The group whose option an override chooses (`loss=ipo`, `loss@algorithm.dpo.loss=ipo`), or None."""
    key = override.partition("=")[0].lstrip("+~").partition("@")[0]
    return key if key in known else None


def option_node(group: str, option: str, folders: Iterable[Path]) -> dict[str, Any]:
    """What one option of a group sets, read from its file and from those of the same group that its defaults list names."""
    places = list(folders)
    file = next((file for file in (folder / group / f"{option}.yaml" for folder in places) if file.is_file()), None)
    if file is None:
        return {}
    node = {str(key): value for key, value in read_yaml(file).items_ex(resolve=False)}
    defaults = node.pop("defaults", ())
    above = [str(item) for item in defaults if isinstance(item, str) and item != "_self_" and "/" not in item]
    merged: dict[str, Any] = {}
    for name in above:
        merged |= option_node(group, name, places)
    return merged | node


def read_yaml(file: Path) -> DictConfig:
    """One YAML file as a config, nothing resolved."""
    loaded = OmegaConf.load(file)
    assert isinstance(loaded, DictConfig)
    return loaded


# The rules of choosing an option of a group, checked before Hydra composes: it would answer in words of its own insides.

_SEVERAL = tuple(name for name, group in GROUPS.items() if group.several)
_OPTIONAL = {"experiment": "none"} | {name: group.without for name, group in GROUPS.items() if group.without}
_NOTHING = ("", "null", "none", "false")


def check_choices(overrides: Iterable[str], known: Mapping[str, Sequence[str]], *, multirun: bool) -> None:
    """Refuse `group=` that names no option, or several where one is chosen. known: group -> its options."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key in known and "/" not in key:
            _check_choice(key, value.strip(), known[key], multirun=multirun)


def _check_choice(group: str, value: str, options: Sequence[str], *, multirun: bool) -> None:
    if value.lower() in _NOTHING and value not in options:
        _refuse_nothing(group, value, options)
    elif value.startswith("[") and group not in _SEVERAL:
        first = value.strip("[]").partition(",")[0].strip()
        raise ConfigError(f"{group}={value} is a list, and one {group} is chosen: {group}={first or 'NAME'}")
    elif "," in value and not multirun and group not in _SEVERAL:
        for name in value.split(",") if value.replace(",", "").isidentifier() else ():
            if name not in options:
                raise ConfigError(f"there is no {group} {name}{did_you_mean(nearest(name, options))}")
        raise ConfigError(f"{group}={value} is several: one {group} is chosen, or add -m to sweep over them")
    else:
        _check_file(group, value, options)


def _refuse_nothing(group: str, value: str, options: Sequence[str]) -> None:
    if group in _SEVERAL:
        raise ConfigError(f"{group}={value}: for no {group} at all write {group}=[]; else it is any of {', '.join(options)}")
    if group in _OPTIONAL:
        raise ConfigError(
            f"{group}={value} chooses nothing; leave it out for {_OPTIONAL[group]}, or choose one (rlx --help lists them)"
        )
    raise ConfigError(f"{group}={value} chooses nothing; it is one of {', '.join(options)}")


def _check_file(group: str, value: str, options: Sequence[str]) -> None:
    """A file or module of the user's own, where a class in it is meant."""
    file = Path(value if value.endswith(".py") else f"{value}.py")
    if value in options or not (value.endswith(".py") or (value.isidentifier() and file.is_file())):
        return
    if not file.is_file():
        raise ConfigError(f"{group}={value}: there is no such file; one's own {group} is a class: {group}={file.stem}.CLASS")
    try:
        names = [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{group}={value}: {file} cannot be read as Python: {error}") from error
    example = f"{file.stem}.{names[-1] if names else 'CLASS'}"
    where = "" if file.parent == Path() else f", with {file.parent} on the Python path (PYTHONPATH)"
    raise ConfigError(f"{group}={value} is a file, and a class in it is chosen: {group}={example}{where}")
