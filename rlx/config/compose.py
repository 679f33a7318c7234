"""Composes a command line or a call from Python: the parsed line, the available options, the composed config."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from rlx.config.check import check_config, require_resolvable
from rlx.config.groups import GROUPS, declared, declared_node
from rlx.config.schema import conf_dir
from rlx.config.sources import install_sources, plugin_packages, plugin_targets, served, take_out_unread_losses
from rlx.config.suggest import did_you_mean, nearest
from rlx.config.targets import loaders_in, loaders_in_folder, targets_in_folder
from rlx.errors import ConfigError

# left out of lists: groups below hydra/ and files that are not options
_HIDDEN_GROUPS = {"hydra"}


class CompositionOfJobError(Exception):
    """Hydra cannot compose one job of a sweep; its cause says why. overrides: of that job."""

    def __init__(self, overrides: Sequence[str]) -> None:
        super().__init__(" ".join(overrides))
        self.overrides = tuple(overrides)


OPEN = ("policy.chat_template_kwargs.",)  # nodes with keys of any name, which need no `+`
CHOICES = {"task.environment": "task/environment"}  # keys that people type to choose an option of the group there


def opened(override: str) -> str:
    """The override in Hydra's form, if it sets a key of a node that accepts any key, or chooses an option by its key.

    Other tools write `+experiment=NAME`; in rlx the group already exists and has no default.
    """
    if override.startswith("+experiment="):
        return override.removeprefix("+")
    key, equals, value = override.partition("=")
    if equals and key in CHOICES:
        return f"{CHOICES[key]}={value}"
    return f"++{override}" if override.startswith(OPEN) else override


@dataclass(frozen=True)
class Composed:
    """The composed config of a command line or a call from Python; made once and checked once.

    config: the verb's keys, without Hydra's own and without how a sweep is run. choices: group -> the option chosen.
    overrides: those of the config, as Hydra got them. allowed: dotted names that may be called besides rlx's own.
    folders: of YAML files. command: as typed. directory: where the record goes, if the caller sets it. values: of the flags that
    take a value, and what the verb set aside before Hydra composed.
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
        """The name by which the algorithm was chosen."""
        return str(self.choices["algorithm"])

    def named(self, *asked: str) -> list[str]:
        """Those of these groups in which the overrides choose or set something."""
        pattern = {group: re.compile(rf"\+*{group}[.=@/]") for group in asked}
        return [group for group in asked if any(pattern[group].match(override) for override in self.overrides)]

    def check(self, schema: type) -> None:
        """Raise ConfigError for a wrong key, type, value or class. Imports the config's classes but creates no objects."""
        check_config(self.config, allowed=self.allowed, schema=schema, verb=self.verb)


def compose(verb: str, overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """The config of a verb. Hydra's errors about an override are raised unchanged."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    install_sources()
    with _apart(), initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="rlx"):
        return hydra_compose(
            config_name=verb, overrides=[opened(override) for override in overrides], return_hydra_config=with_hydra
        )


@contextmanager
def _apart() -> Iterator[None]:
    """Let Hydra compose while it runs a job, which it would otherwise refuse."""
    from hydra.core.global_hydra import GlobalHydra

    hydra = GlobalHydra.instance()
    running = hydra.hydra
    hydra.clear()
    try:
        yield
    finally:
        hydra.hydra = running


def config_folders(extra: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """The searched folders of YAML files: rlx's own, the given ones, and those of installed plugins."""
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
        for group in GROUPS if folder == conf_dir() else ():
            found.setdefault(group, set()).update(declared(group))
    return {group: sorted(options) for group, options in sorted(found.items())}


def group_of(override: str, known: Iterable[str]) -> str | None:
    """The group whose option an override chooses (`loss=ipo`, `loss@algorithm.dpo.loss=ipo`), or None."""
    key = override.partition("=")[0].lstrip("+~").partition("@")[0]
    return key if key in known else None


def option_node(group: str, option: str, folders: Iterable[Path]) -> dict[str, Any]:
    """What one option of a group sets, read from its file and from the files of the same group in its defaults list.

    Without a file, it is what the function of that name sets; empty if there is no such function.
    """
    places = list(folders)
    file = next((file for file in (folder / group / f"{option}.yaml" for folder in places) if file.is_file()), None)
    if file is None:
        return dict(declared_node(group, option)) if option in declared(group) else {}
    node = {str(key): value for key, value in read_yaml(file).items_ex(resolve=False)}
    defaults = node.pop("defaults", ())
    above = [str(item) for item in defaults if isinstance(item, str) and item != "_self_" and "/" not in item]
    merged: dict[str, Any] = {}
    for name in above:
        merged |= option_node(group, name, places)
    return merged | node


def read_yaml(file: Path) -> DictConfig:
    """One YAML file as an unresolved config."""
    loaded = OmegaConf.load(file)
    assert isinstance(loaded, DictConfig)
    return loaded


# The parsed command line.

_NAMED = re.compile(r"""_target_['"]?\s*[:=]\s*((?:['"]?[\w.]+['"]?\s*,?\s*)+)""")
_SEARCHED = re.compile(r"""(?:(file|pkg)://)?([^\s,\[\]"'](?:[^,\[\]"']*[^\s,\[\]"'])?)""")
_DOTTED = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def dotted_names(text: str) -> list[str]:
    """Every substring of a text that can be the dotted name of a class or function."""
    return _DOTTED.findall(text)


@dataclass
class CommandLine:
    """A parsed command line.

    flags: as passed to Hydra; is_multirun: whether -m is one of them. values: of the flags that take a value, and what a verb
    set aside. recorded: arguments from a record instead of the user; they may name no code except `trusted`.
    """

    argv: list[str] = field(default_factory=list)
    verb: str | None = None
    words: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()
    is_multirun: bool = False

    @property
    def searched(self) -> list[tuple[str, str]]:
        """(file or pkg, path) in --config-dir and hydra.searchpath."""
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
        """The overrides given by the user rather than a record."""
        return [override for override in self.overrides if override not in self.recorded]

    @property
    def named(self) -> frozenset[str]:
        """Every dotted name in the user's values and in the YAML files of the given folders, and the trusted names."""
        texts = [override.partition("=")[2] for override in self.typed]
        folders = [Path(place) for scheme, place in self.searched if scheme == "file"]
        texts += [file.read_text(errors="replace") for folder in folders for file in sorted(folder.rglob("*.yaml"))]
        return self.trusted.union(name for text in texts for name in dotted_names(text))

    @property
    def allowed(self) -> frozenset[str]:
        """The dotted names (or patterns) from the command line, from the folders that it names, and from installed plugins.

        A name of task.env stands for the dotted name of what makes the environment.
        """
        allowed = set(served) | plugin_targets() | self.trusted
        for override in self.typed:
            for names in _NAMED.findall(override):
                allowed.update(name.strip("'\" ") for name in names.split(","))
            allowed.update(loaders_in(override))
        for scheme, place in self.searched:
            if scheme == "pkg":
                allowed.add(f"{place.partition('.')[0]}.*")
            else:
                allowed |= targets_in_folder(Path(place)) | loaders_in_folder(Path(place))
        return frozenset(allowed)

    def check(self) -> None:
        """Refuse a YAML file that rlx's own file of the same name would hide, and a choice that is not an option of its group."""
        check_folders(self.searched)
        check_choices(self.overrides, self.options, multirun=self.is_multirun)

    def composed(self, config: DictConfig, hydra: Any) -> Composed:
        """The composed line. config: the verb's part; hydra: Hydra's own part."""
        require_resolvable(config)
        verb, overrides = self.verb or "train", tuple(map(str, hydra.overrides.task))
        if not str(hydra.run.dir).strip():
            raise ConfigError("hydra.run.dir= is empty; give a directory, or leave it out for a new one below output_dir")
        choices = {str(group): option for group, option in hydra.runtime.choices.items()}
        take_out_unread_losses(config, choices, overrides)
        directory = None if hydra.run.dir == "." else Path(hydra.run.dir).absolute()
        if self.is_multirun:
            directory = Path(hydra.runtime.output_dir)
        return Composed(
            verb=verb,
            config=config,
            choices=choices,
            overrides=overrides,
            allowed=self.allowed,
            folders=tuple(self.folders),
            command=("rlx", verb, *overrides) if self.is_multirun else ("rlx", *self.argv),
            directory=directory,
            is_multirun=self.is_multirun,
            values=dict(self.values),
        )


# The rules of choosing an option are checked before Hydra composes, because Hydra's errors describe its internals.

_SEVERAL = tuple(name for name, group in GROUPS.items() if group.several)
_OPTIONAL = {"experiment": "none"} | {name: group.without for name, group in GROUPS.items() if group.without}
_NOTHING = ("", "null", "none", "false")


def check_choices(overrides: Iterable[str], known: Mapping[str, Sequence[str]], *, multirun: bool) -> None:
    """Refuse a `group=` that names no option, or several if only one can be chosen. known: group -> its options."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key in known and "/" not in key:
            _check_choice(key, value.strip(), known[key], multirun=multirun)


def _check_choice(group: str, value: str, options: Sequence[str], *, multirun: bool) -> None:
    if value.lower() in _NOTHING and value not in options:
        _refuse_nothing(group, value, options)
    elif value.startswith("[") and group not in _SEVERAL:
        first = value.strip("[]").partition(",")[0].strip()
        raise ConfigError(f"{group}={value} is a list, but only one {group} can be chosen: {group}={first or 'NAME'}")
    elif value.startswith("{") and group == "experiment":  # in another group this sets keys of the node
        raise ConfigError(f"{group}={value} is a mapping, but an option is chosen by its name: {group}=NAME")
    elif "," in value and not multirun and group not in _SEVERAL:
        for name in value.split(",") if value.replace(",", "").isidentifier() else ():
            if name not in options:
                raise ConfigError(f"there is no {group} {name}{did_you_mean(nearest(name, options))}")
        raise ConfigError(f"{group}={value} names several options: choose one {group}, or add -m to sweep over them")
    else:
        _check_file(group, value, options)


def _refuse_nothing(group: str, value: str, options: Sequence[str]) -> None:
    if group in _SEVERAL:
        raise ConfigError(
            f"{group}={value}: to choose no {group}, write {group}=[]; otherwise choose any of {', '.join(options)}"
        )
    if group in _OPTIONAL:
        raise ConfigError(
            f"{group}={value} chooses nothing; leave it out for {_OPTIONAL[group]}, or choose one (rlx --help lists them)"
        )
    raise ConfigError(f"{group}={value} chooses nothing; it is one of {', '.join(options)}")


def _check_file(group: str, value: str, options: Sequence[str]) -> None:
    """Refuse the name of a file or module where a class in it is meant."""
    file = Path(value if value.endswith(".py") else f"{value}.py")
    if value in options or not (value.endswith(".py") or (value.isidentifier() and file.is_file())):
        return
    if not file.is_file():
        raise ConfigError(
            f"{group}={value}: there is no such file; your own {group} is chosen by its class: {group}={file.stem}.CLASS"
        )
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{group}={value}: {file} cannot be read as Python: {error}") from error
    made = ast.ClassDef | ast.FunctionDef if GROUPS[group].takes_functions else ast.ClassDef
    names = [node.name for node in body if isinstance(node, made) and not node.name.startswith("_")]
    what = "a function or class" if GROUPS[group].takes_functions else "a class"
    examples = " or ".join(f"{group}={file.stem}.{name}" for name in names or ["NAME"])
    where = "" if file.parent == Path() else f", with {file.parent} on the Python path (PYTHONPATH)"
    raise ConfigError(f"{group}={value} is a file, and {what} in it is chosen: {examples}{where}")


def check_folders(searched: Iterable[tuple[str, str]]) -> None:
    """Refuse a YAML file of the user that rlx's own file of the same name would hide. searched: as in `CommandLine.searched`."""
    own = conf_dir()
    for scheme, place in searched:
        if scheme != "file":
            continue
        if not Path(place).is_dir():
            raise ConfigError(f"hydra.searchpath: there is no folder {place}")
        if Path(place).resolve() == own:
            continue
        for file in sorted(Path(place).rglob("*.yaml")):
            name = file.relative_to(place)
            if (own / name).is_file() or file.stem in declared(name.parent.as_posix()):
                raise ConfigError(f"{file} would be hidden by rlx's own {name}; give yours another name")
            _require_plain_values(file, is_of_rlx=len(name.parts) > 1 and (own / name.parts[0]).is_dir())


MOST_VALUES = 20_000  # of a YAML file, with its aliases expanded
_BASE_60 = re.compile(rb"\d:[0-5]?\d")


def _require_plain_values(file: Path, *, is_of_rlx: bool) -> None:
    """Refuse a YAML file whose aliases expand to too many values or to themselves, or that has a number in base 60.

    YAML reads 1:30:00 as 5400. Hydra expands aliases, and a few lines of them can make billions of values. Invalid YAML is
    reported by Hydra. is_of_rlx: the file is in a folder of a group of rlx; files of other programs may have such numbers.
    """
    text = file.read_bytes()
    is_suspect = is_of_rlx and _BASE_60.search(text) is not None
    if (b"*" not in text or b"&" not in text) and not is_suspect:
        return
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):
        return
    sizes: dict[int, int | None] = {}  # of each node; None while it is being counted

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            if is_suspect and node.tag.endswith((":int", ":float")) and ":" in node.value:
                place = f"{file}:{node.start_mark.line + 1}"
                raise ConfigError(f"{place}: YAML reads {node.value} as a number in base 60; write a number, or text in quotes")
            items = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = [part for item in items for part in (item if isinstance(item, tuple) else (item,))]
            sizes[id(node)] = 1 + sum(size(part) for part in parts)
        counted = sizes[id(node)]
        if counted is None:
            raise ConfigError(f"{file}: an alias refers to a node that contains it; write it without the alias")
        return counted

    if root is not None and size(root) > MOST_VALUES:
        raise ConfigError(f"{file}: its aliases stand for more than {MOST_VALUES} values; write a config out, without aliases")
