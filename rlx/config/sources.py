"""Makes config nodes of classes: `algorithm=my_lab.MyAlgorithm` becomes a node with the fields of the class."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from rlx.config.groups import GROUPS, declared, declared_node
from rlx.config.schema import RunConfig, conf_dir
from rlx.config.targets import REQUIRED, Parameter, fits_group, is_allowed, locate, own_name, parameters_of
from rlx.errors import ConfigError

# In some groups a function is an option: `task/reward=[my_lab.brevity]` is a node that calls it for each completion.


def is_function(target: Any, group: str) -> bool:
    """Whether a dotted name is a function that is itself an option of the group, not a factory of options."""
    is_plain = callable(target) and not isinstance(target, type)
    return bool(GROUPS[group].wrapper) and is_plain and not fits_group(target, group)


def function_node(name: str, group: str) -> dict[str, Any]:
    """The node of an option that is a function; instantiating it binds the function without calling it."""
    wrapper = GROUPS[group].wrapper
    weight = {"weight": 1.0} if "weight" in (parameters_of(locate(wrapper, group)) or {}) else {}
    return {"_target_": wrapper, **weight, "function": {"_target_": name, "_partial_": True}}


def package_of(name: str, group: str) -> str | None:
    """Where a class's or function's node goes in a group with several options: under its own name."""
    own = name.rpartition(".")[2]
    short = own.removesuffix(group.capitalize()).lower() or group if group == "logger" else own
    return GROUPS[group].place.format(short) if GROUPS[group].several else None


# Nodes of classes: `algorithm=my_lab.MyAlgorithm` becomes a node with the fields of the class.

SCHEME = "rlx-class"

# dotted names that the user chose in a group, on this command line or in a folder that it names
served: set[str] = set()
# while a record's command is composed: the patterns of names that its user allowed
_only: tuple[str, ...] | None = None


@contextmanager
def serving_only(names: Iterable[str]) -> Iterator[None]:
    """Serve only classes and functions of rlx, of plugins, and with these names."""
    global _only  # Hydra makes the source itself and passes it nothing
    before, _only = _only, (*names, *plugin_targets())
    try:
        yield
    finally:
        _only = before


class ClassSource(ConfigSource):
    """Serves functions of rlx (`loss/ipo`), and `group/package.module.Class` if the class fits the group."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return bool(declared(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return [] if results_filter is ObjectType.GROUP else [*declared(config_path)]

    def is_config(self, config_path: str) -> bool:
        group, name = _split(config_path)
        if name in declared(group):
            return True
        if group == "loss" and "." not in name:
            return default_loss(name) is not None
        if group not in GROUPS or "." not in name:
            return False
        if _only is not None and not is_allowed(name, _only):
            raise ConfigError(f"{group}={name} is named by a record, not by this command line; if you trust it, give it again")
        base = " or ".join(base.rpartition(".")[2] for base in GROUPS[group].base)
        refusal = ConfigError(f"{group}={name}: it is neither a subclass of {base} nor a function annotated to return one")
        module = name.partition(".")[0]
        if module in sys.stdlib_module_names and not Path(f"{module}.py").is_file():
            raise refusal
        if group == "loss" and fits_group(locate(name, group), "algorithm"):
            return _loss_of(name) is not None
        target = locate(name, group)
        if fits_group(target, group) or is_function(target, group):
            return True
        if isinstance(target, FunctionType) and GROUPS[group].decorators:
            wanted = " or ".join(f"@{decorator}" for decorator in GROUPS[group].decorators)
            raise ConfigError(f"{group}={name}: it is a plain function; write {wanted} above it (rlx guide loss)")
        raise refusal

    def load_config(self, config_path: str) -> ConfigResult:
        group, name = _split(config_path)
        if name in declared(group):
            return self._served(declared_node(group, name), None)
        if "." not in name:
            return self._served({"defaults": [default_loss(name), "_self_"]}, None)
        served.add(name)
        target = locate(name, group)
        is_own_loss = group == "loss" and fits_group(target, "algorithm")
        if is_function(target, group):
            node: dict[str, Any] | None = function_node(name, group)
        else:
            node = _loss_of(name) if is_own_loss else node_of(target, name, group)
        package = package_of(name, group)
        return self._served(dict(node or {}), package)

    def _served(self, node: dict[str, Any], package: str | None) -> ConfigResult:
        header = {"package": package}
        return ConfigResult(config=OmegaConf.create(node), path=f"{SCHEME}://", provider=self.provider, header=header)


def _split(config_path: str) -> tuple[str, str]:
    group, _, name = config_path.removesuffix(".yaml").rpartition("/")
    return group, name


def node_of(target: Any, name: str, group: str) -> dict[str, Any]:
    """The config node of a class: its fields' defaults; for a class derived from one of rlx, the values of that class's YAML."""
    parameters = parameters_of(target)
    if parameters is None:
        raise ConfigError(
            f"{group}={name}: it takes any keyword (**kwargs), so its node cannot be made; give its arguments names"
        )
    _require_dataclass(target, parameters, name, group)
    inherited = inherited_node(target, group)
    node: dict[str, Any] = {"_target_": name}
    defaults = [item for item in inherited.get("defaults", ()) if not chosen_by([item]) & _own_defaults(target)]
    if group == "algorithm":  # null if it has none: a mixture overrides what its terms bring
        own_loss = _choice_of_loss(target, name, parameters["loss"]) if "loss" in parameters else {RUN_LOSS: None}
        defaults = [own_loss, *defaults]
    if defaults:
        node["defaults"] = defaults if "_self_" in defaults else [*defaults, "_self_"]
    if any(parameter.given_by_caller for parameter in parameters.values()):
        node["_partial_"] = True
    for parameter in parameters.values():
        if parameter.given_by_caller:
            continue
        own = isinstance(target, type) and parameter.name in vars(target).get("__annotations__", {})
        if parameter.name in inherited and not own:
            node[parameter.name] = inherited[parameter.name]
        elif not (parameter.name == "loss" and group == "algorithm"):  # the run's loss is passed to it
            chosen = own is False and parameter.name in chosen_by(inherited.get("defaults", ()))
            if not chosen:
                node[parameter.name] = "???" if parameter.default is REQUIRED else _as_value(parameter, name)
    return node


def _own_defaults(target: Any) -> set[str]:
    """The fields that a class redeclares; the choices of its ancestor's YAML do not apply to them."""
    declared = set(vars(target).get("__annotations__", {})) if isinstance(target, type) else set()
    return declared | {"loss"}


def _require_dataclass(target: Any, parameters: Mapping[str, Parameter], name: str, group: str) -> None:
    """Refuse a class that declares fields without the dataclass decorator that makes them arguments."""
    if dataclasses.is_dataclass(target) and "__dataclass_fields__" not in vars(target):
        declared = vars(target).get("__annotations__", {})
        lost = [field for field, hint in declared.items() if field not in parameters and "ClassVar" not in str(hint)]
        if lost:
            raise ConfigError(
                f"{group}={name}: {', '.join(lost)} would be ignored, because the class itself is not a dataclass; "
                f"put @dataclass(frozen=True, kw_only=True) above it"
            )


def chosen_by(defaults: Any) -> set[str]:
    """The keys of a node that its defaults list fills with options of groups."""
    groups = (str(key) for item in defaults if isinstance(item, Mapping) for key in item)
    return {(group.rpartition("@")[2] or group).rpartition("/")[2].rpartition(".")[2] for group in groups}


def _as_value(parameter: Parameter, name: str) -> Any:
    """A default as a YAML value; a dataclass becomes a node."""
    value = parameter.default
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
        target = f"{kind.__module__}.{kind.__qualname__}"
        served.add(target)
        return {"_target_": target, **{key: _as_value(Parameter(key, Any, item), name) for key, item in fields.items()}}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _as_value(Parameter(str(key), Any, item), name) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_value(Parameter(parameter.name, Any, item), name) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"{name}: the default {value!r} of {parameter.name} is not valid in YAML; use a number, a text, a list or a dataclass"
    )


def inherited_node(target: Any, group: str) -> dict[str, Any]:
    """The YAML of the nearest ancestor that has one in conf/<group>, without its `_target_`."""
    file = _inherited_file(target, group)
    if file is None:
        return {}
    node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items() if key != "_target_"}


def _inherited_file(target: Any, group: str) -> Path | None:
    ancestors = target.__mro__[1:] if isinstance(target, type) else ()
    files = sorted((conf_dir() / group).glob("*.yaml"))
    for ancestor in ancestors:
        if own_name(ancestor) in declared(group).values():
            return None
        name = re.compile(rf"^_target_:\s*rlx\.[\w.]*\b{re.escape(ancestor.__qualname__)}\s*(#.*)?$", re.MULTILINE)
        same = [file for file in files if ancestor.__module__.startswith("rlx.") and name.search(file.read_text())]
        for file in sorted(same, key=lambda file: file.stem not in ancestor.__module__):
            return file
    return None


RUN_LOSS = "/loss@_global_.loss"  # in an algorithm's defaults list: the default loss of its run


@functools.cache
def default_loss(algorithm: str) -> str | None:
    """The default loss of a run of this algorithm of rlx, from its YAML; None without one."""
    file = conf_dir() / "algorithm" / f"{algorithm}.yaml"
    if not file.is_file():
        return None
    node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    items = node.get("defaults", []) if isinstance(node, dict) else []
    for item in items:
        for key, option in item.items() if isinstance(item, Mapping) else ():
            if str(key).removeprefix("override ") == RUN_LOSS:
                return None if option is None else str(option)
    above = (default_loss(item) for item in items if isinstance(item, str) and item != "_self_")
    return next((option for option in above if option is not None), None)


def _choice_of_loss(target: Any, name: str, parameter: Parameter) -> dict[str, str | None]:
    """The item of a defaults list for the loss of a class: the default of its field, or of the class it derives from."""
    if parameter.default is not REQUIRED and parameter.default is not None:
        return {RUN_LOSS: name}
    file = _inherited_file(target, "algorithm")
    return {RUN_LOSS: None if file is None else default_loss(file.stem)}


def _loss_of(name: str) -> dict[str, Any] | None:
    """The node of the default loss of an algorithm's class; None without one."""
    target = locate(name, "algorithm")
    parameter = (parameters_of(target) or {}).get("loss")
    if parameter is None:
        return None
    option = _choice_of_loss(target, name, parameter)[RUN_LOSS]
    if option != name:
        return None if option is None else {"defaults": [option, "_self_"]}
    value = _as_value(parameter, name)
    return value if isinstance(value, dict) else None


def brings_no_loss(algorithm: str) -> bool:
    """Whether an option of the group algorithm (of rlx, or a dotted name) has no loss; False if unknown."""
    if "." in algorithm:
        return _loss_of(algorithm) is None
    return (conf_dir() / "algorithm" / f"{algorithm}.yaml").is_file() and default_loss(algorithm) is None


def take_out_unread_losses(config: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Remove the loss that a mixture chooses for a term whose algorithm has none, unless the command line asks for it."""
    for choice, option in choices.items():
        group, _, place = choice.partition("@")
        node = OmegaConf.select(config, place) if group == "algorithm" and place else None
        if not isinstance(node, DictConfig) or "loss" not in node:
            continue
        asked = re.compile(rf"\+*(loss@)?{re.escape(place)}\.loss[.=]")
        if not any(map(asked.match, overrides)) and brings_no_loss(str(option)):
            with open_dict(node):
                del node["loss"]


def use_working_directory() -> None:
    """Make modules in the current directory importable, as `python -m` does and console scripts do not."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


# rlx's additions to Hydra's search path: installed packages with the entry point `rlx.plugins`, and classes as configs.

GROUP = "rlx.plugins"


def plugin_packages() -> list[str]:
    """The packages with YAML folders of installed plugins: the entry point `my_lab` (or `my_lab.conf`) gives my_lab/conf."""
    return list(_plugin_packages(tuple(sys.path)))


@functools.cache
def _plugin_packages(_path: tuple[str, ...]) -> tuple[str, ...]:
    """The plugin packages of a Python path; cached, because reading what is installed takes longer than the rest of a command."""
    names = (entry.value.partition(":")[0] for entry in entry_points(group=GROUP))
    return tuple(sorted({name if name.endswith(".conf") else f"{name}.conf" for name in names}))


def plugin_targets() -> set[str]:
    """The patterns of installed plugins: everything in them may be named, because they were installed on purpose."""
    return {f"{package.partition('.')[0]}.*" for package in plugin_packages()}


class RlxSearchPath(SearchPathPlugin):
    """Adds the source of functions and classes, then the plugins' folders, after rlx's own conf."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="rlx", path=f"{SCHEME}://")
        for package in plugin_packages():
            search_path.append(provider=package.removesuffix(".conf"), path=f"pkg://{package}")


def install_sources() -> None:
    """Register the schema of a run and the sources with Hydra, and make the modules of the working directory importable.

    It may be called again.
    """
    use_working_directory()
    ConfigStore.instance().store(name="run_config", node=RunConfig, provider="rlx")
    plugins = Plugins.instance()  # its scan must come first, because it would register other classes with the same names
    plugins.register(ClassSource)
    plugins.register(RlxSearchPath)
