"""The check between composing a config and building from it: every key, type and class, before anything is loaded."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from rlx.config.groups import GROUPS, RUN_GROUPS
from rlx.config.schema import RunConfig
from rlx.config.suggest import did_you_mean, right_name
from rlx.config.targets import (
    REQUIRED,
    Parameter,
    accepts,
    check_targets,
    chosen_by,
    fits_group,
    locate,
    parameters_of,
    targets_of,
)
from rlx.errors import ConfigError
from rlx.fields import check_range, range_of, shown
from rlx.nested import walk

# Whether a config value has the type that a class declares.

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "text": "texts"}


def fits(value: Any, hint: Any) -> bool:
    """Whether `value`, a plain YAML value, has the type `hint`; nodes with a `_target_` and unknown types pass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)) or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if hint in (None, type(None)):
        return value is None
    if not isinstance(origin or hint, type):
        return True
    return _fits_class(value, origin or hint, arguments)


def _fits_class(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if issubclass(kind, enum.Enum):
        return value in [member.value for member in kind] or value in kind.__members__
    if issubclass(kind, str):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        of = arguments[1] if len(arguments) == 2 else Any
        return isinstance(value, Mapping) and all(fits(item, of) for item in value.values())
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        return isinstance(value, (list, tuple)) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if issubclass(kind, (Sequence, set, frozenset)) or kind.__module__ == "collections.abc":
        of = arguments[0] if arguments else Any
        is_list = isinstance(value, (list, tuple)) and all(fits(item, of) for item in value)
        return is_list or kind.__name__ == "Callable"
    # any other class can only come from a node with a _target_
    return value is not None and not isinstance(value, (bool, int, float, str, list, Mapping))


def described(hint: Any) -> str:
    """A type in words, for a message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    arguments = tuple(typing.get_args(item)[0] if typing.get_origin(item) is typing.Annotated else item for item in arguments)
    if hint in _NAMES:
        return _NAMES[hint]
    if origin is typing.Annotated:
        return described(arguments[0])
    if origin in (Union, types.UnionType):
        plain = [argument for argument in arguments if argument in _NAMES]
        return " or ".join(described(argument) for argument in plain or arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if origin in (list, tuple, Sequence, set, frozenset):
        items = [argument for argument in arguments if argument is not Ellipsis]
        of = " and ".join(dict.fromkeys(_PLURALS.get(name, name) for name in map(described, items)))
        count = f"{len(items)} " if origin is tuple and len(items) == len(arguments) and of in _PLURALS.values() else ""
        return f"a list of {count}{of}" if of else "a list"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    name = str(getattr(hint, "__name__", hint))
    return f"a node whose _target_ is {'an' if name[:1] in tuple('AEIOU') else 'a'} {name}"


# The check between composing a config and building from it: every key, type and class, before anything is loaded.

_SPECIAL = {"_target_", "_partial_", "_convert_", "_recursive_"}
# The only values of Hydra's modifiers that are accepted: with these, a node is built completely and into plain values.
_MODIFIERS: dict[str, tuple[object, ...]] = {"_partial_": (True, False), "_recursive_": (True,), "_convert_": ("object", "all")}


def check_config(cfg: DictConfig, *, allowed: Iterable[str] = (), schema: type = RunConfig, verb: str = "train") -> None:
    """Refuse a verb's config with a wrong key, type, value or class. Imports the classes that it names, but builds nothing."""
    container = plain_config(cfg)
    check_targets(container, allowed)
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    paths = paths_of(raw)
    for key, value in container.items():
        for place, target in targets_of(value, key) if key not in RUN_GROUPS else ():
            raise ConfigError(f"{place} must be a plain value, not a node; leave out {place}._target_={target}")
    check_keys(container, schema, "", paths, owner=f"rlx {verb}")
    if isinstance(raw.get("algorithm"), Mapping) and raw["algorithm"].get("loss") == "${..loss}":
        raise unread_loss(raw["algorithm"])
    fields = {item.name: item for item in dataclasses.fields(schema)}
    for group in (group for group in RUN_GROUPS if group in container):
        node = container.get(group)
        is_node = isinstance(node, Mapping) and "_target_" in node
        if fields[group].default is None and (node is None or (not is_node and "algorithm" not in fields)):
            continue  # not chosen, or keys that change the node of a record
        if group == "logger":
            if not isinstance(node or {}, Mapping):
                raise ConfigError("logger is a mapping of names to nodes; choose loggers by logger=[NAME], none by logger=[]")
            for name, logger in (node or {}).items():
                check_node(logger, f"logger.{name}", paths, group=group)
        else:
            check_node(node, group, paths, group=group, run_loss=container.get("loss"))


def unread_loss(algorithm: Any) -> ConfigError:
    """The error for a loss that was chosen or set for the run although its algorithm (an unresolved node) reads none."""
    if isinstance(algorithm, Mapping) and isinstance(algorithm.get("loss"), str):
        return ConfigError(
            f"algorithm.loss is {algorithm['loss']} in the YAML of the algorithm, and a run's loss is handed to its algorithm "
            "now; replace that line by an item of its defaults list, `- /loss@_global_.loss: dpo`"
        )
    name = str(algorithm["_target_"]).rpartition(".")[2] if isinstance(algorithm, Mapping) and "_target_" in algorithm else "it"
    nested = [path for path, _ in walk(algorithm, "algorithm") if path.endswith(".loss._target_")]
    if not nested:
        return ConfigError(f"nothing reads the loss of the run: algorithm {name} has no loss; leave out loss=...")
    places = [path.removesuffix("._target_") for path in nested]
    return ConfigError(
        f"nothing reads the loss of the run: the losses of algorithm {name} are {', '.join(places)}; "
        f"choose with loss@{places[0]}=NAME, set with {places[0]}.beta=..."
    )


def plain_config(cfg: Any, *, below: str = "") -> dict[str, Any]:
    """The config as dicts and lists, interpolations resolved, missing values as ???. below: a node's key, for messages."""
    above = f"{below}." if below else ""
    try:
        container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except InterpolationToMissingValueError as error:
        key = str(error).splitlines()[0].rpartition(" ")[2]
        raise ConfigError(f"{above}{key} has no value; give it one: {above}{key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{above}{_written_at(cfg, error)}: {interpolation_message(error)}") from error
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


def require_resolvable(cfg: Any) -> None:
    """Refuse an interpolation to a missing key, to itself or to an unset variable. Raises ConfigError with the key.

    An interpolation of a value that is still missing (???) passes; the error comes where the value is needed.
    """
    try:
        OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except InterpolationToMissingValueError:
        pass
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_written_at(cfg, error)}: {interpolation_message(error)}") from error
    except RecursionError as error:
        raise ConfigError("the config nests too deeply, or an interpolation leads to itself; write it flat") from error


def _written_at(cfg: Any, error: OmegaConfBaseException) -> str:
    """The key whose own text holds the failed interpolation; the error itself names the first key that read it."""
    key, text = str(error.full_key or ""), str(error.msg or error)
    found = re.search(r"(?:Environment variable|Interpolation key) '([^']*)' not found", text)
    if found is None:
        return key or "the config"
    reads = re.compile(rf"\$\{{(?:oc\.env:|\.*){re.escape(found[1])}[,}}]")
    places = [path for path, value in walk(OmegaConf.to_container(cfg, resolve=False), lists=True) if reads.search(str(value))
              and not isinstance(value, (Mapping, list))]  # fmt: skip
    return key if key in places or not places else places[0]


def interpolation_message(error: OmegaConfBaseException) -> str:
    """One line that says what is wrong with an interpolation."""
    text = next((line.strip() for line in str(error.msg or error).splitlines() if line.strip()), type(error).__name__)
    if found := re.search(r"Environment variable '([^']*)' not found", text):
        return f"the environment variable {found[1]} is not set; set it, or give a default: ${{oc.env:{found[1]},DEFAULT}}"
    if found := re.search(r"Interpolation key '([^']*)' not found", text):
        return f"there is no key {found[1]}, which ${{{found[1]}}} reads"
    if "Recursive interpolation" in text:
        return "this value refers to itself through interpolations"
    if found := re.search(r"Unsupported interpolation type (\S+)", text):
        return f"there is no resolver {found[1]}; a key is read by ${{key}}, an environment variable by ${{oc.env:NAME}}"
    return text.replace("raised while resolving interpolation", "in an interpolation")


def paths_of(container: Any, path: str = "") -> list[str]:
    """Every dotted path of a plain config, nodes and leaves, in order."""
    return [below for below, _ in walk(container, path) if below.rpartition(".")[2] not in _SPECIAL]


def check_keys(container: Mapping[str, Any], schema: type, path: str, paths: list[str], *, owner: str) -> None:
    """Check a part of the config against its schema: no unknown keys (also none added with +), no value out of range."""
    fields = {item.name: item for item in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    for key, value in container.items():
        full = f"{path}{key}"
        if key not in fields:
            raise unknown_key(full, owner, paths)
        if value == MISSING and key not in RUN_GROUPS:
            raise ConfigError(f"{full} has no value; give it one: {full}=...")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[key]):
            check_keys(value, hints[key], f"{full}.", paths, owner=owner)
        elif not fits(value, hints[key]):
            raise ConfigError(f"{full}={shown(value)}: it must be {described(hints[key])}")
        check_range(full, value, range_of(schema, key))
    required = [item.name for item in fields.values() if item.default_factory is REQUIRED and item.default in (MISSING, REQUIRED)]
    gone = [name for name in required if name not in container and name not in RUN_GROUPS]
    if gone:
        raise ConfigError(f"{path}{gone[0]} has no value, and {owner} needs one; leave out ~{path}{gone[0]}, or give it a value")


def check_node(node: Any, path: str, paths: list[str], *, group: str | None = None, run_loss: Any = None) -> None:
    """Check a node with a `_target_`: its class fits the group, and its keys and their types fit the class.

    run_loss: the node of the run's loss, which is passed to an algorithm that declares one.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        options = "" if group is None else f"; choose one: {group}=NAME (rlx --help lists them)"
        raise ConfigError(f"{path} is {'empty' if node is None else 'not a node with a _target_'}{options}")
    for modifier, values in _MODIFIERS.items():
        if modifier in node and not any(type(node[modifier]) is type(value) and node[modifier] == value for value in values):
            raise ConfigError(f"{path}.{modifier}={shown(node[modifier])}: rlx builds a node whole; leave it out")
    target = locate(node["_target_"], f"{path}._target_")
    if group is not None and not fits_group(target, group):
        raise ConfigError(
            f"{path}: {node['_target_']} is not a valid {group}; it must derive from {' or '.join(GROUPS[group].base)}"
        )
    _require_whole(target, path)
    parameters = parameters_of(target, ranges={} if group is None else GROUPS[group].ranges)
    bound = _is_bound_function(node, target, path) or (group is None and _is_bound_class(node, target))
    if group is not None and node.get("_partial_") and not any(item.given_by_caller for item in (parameters or {}).values()):
        raise ConfigError(
            f"{path}: _partial_ makes this node a bound function, which is not a valid {group}; leave out {path}._partial_"
        )
    if parameters is None and bound:
        for key in node:
            if key == "_args_":
                raise unknown_key(f"{path}.{key}", node_name(target), paths)
            if key not in _SPECIAL:
                _check_below(node[key], f"{path}.{key}", paths, hint=Any, owner=target)
        return
    if parameters is None:
        raise ConfigError(f"{path}: {node['_target_']} takes any keyword, so nothing can be checked; give its arguments names")
    if group == "algorithm" and "loss" in parameters and "loss" not in node:
        node = {**node, "loss": run_loss}
    elif group == "algorithm" and run_loss is not None:
        raise unread_loss(node)
    for key in node:
        if key not in _SPECIAL and key not in parameters and not (bound and key == "weight"):
            names = [f"{path}.{name}" for name in parameters]
            if key == "loss" and fits_group(target, "algorithm"):
                name = node_name(target)
                raise ConfigError(f"{path}.loss: {name} has no loss; leave out what chooses it or sets its keys")
            chosen = f"{group}={node['_target_']}" if group is not None and path == group else None
            raise unknown_key(f"{path}.{key}", node["_target_"].rpartition(".")[2], names + paths, chosen=chosen)
    # the name last: it may come from another key, which is then the wrong one
    for parameter in sorted(parameters.values(), key=lambda parameter: parameter.name == "name"):
        if parameter.name in node or not bound:  # the caller of a bound function supplies the rest
            check_value(node, parameter, path, paths, owner=target)


def _require_whole(target: Any, path: str) -> None:
    """Refuse a class that lacks what its base requires."""
    lacking = sorted(getattr(target, "__abstractmethods__", ())) if isinstance(target, type) else []
    if lacking:
        arguments = inspect.signature(getattr(target, lacking[0]))
        name = node_name(target)
        raise ConfigError(f"{path}: {name} lacks a required method: define {lacking[0]}{arguments}")


def _is_bound_function(node: Mapping[str, Any], target: Any, path: str) -> bool:
    """Whether a node is a bound function: its caller supplies the rest. A weight bound to a reward belongs to the reward."""
    if isinstance(target, type) or not callable(target):
        return False
    if not node.get("_partial_") and path.startswith("task.rewards.") and not fits_group(target, "task/reward"):
        raise ConfigError(f"{path}: {node['_target_']} is a function; write _partial_: true beside its _target_, so that it is "
                          "called for each completion")  # fmt: skip
    return bool(node.get("_partial_"))


def _is_bound_class(node: Mapping[str, Any], target: Any) -> bool:
    """Whether a node is a bound class outside rlx: its caller supplies the rest."""
    return isinstance(target, type) and not target.__module__.startswith("rlx.") and node.get("_partial_") is True


def check_value(node: Mapping[str, Any], parameter: Parameter, path: str, paths: list[str], *, owner: Any) -> None:
    """Check one key of a node: it is present, has the right type, and is itself checked if it is a node."""
    full = "loss" if (path, parameter.name) == ("algorithm", "loss") else f"{path}.{parameter.name}"  # the run's
    if parameter.name not in node:
        if parameter.default is REQUIRED and not parameter.given_by_caller:
            give = f"+loss@{full}=NAME" if parameter.name == "loss" and fits_group(owner, "algorithm") else f"+{full}=..."
            raise ConfigError(f"{full} has no value, and {node['_target_']} needs one; give it one: {give}")
        return
    value = node[parameter.name]
    if value == MISSING:
        raise ConfigError(f"{full} has no value; give it one: {full}=...")
    if value is None and parameter.name == "loss" and not fits(None, parameter.hint):
        raise ConfigError(f"{path} reads a loss, but none is chosen; choose one: loss=NAME (rlx --help lists them)")
    if not fits(value, parameter.hint):
        word = chosen_by(parameter.hint, full) if isinstance(value, (str, Mapping)) else ""
        named = value if isinstance(value, str) else "NAME, which gives it a _target_"
        said = f"it is chosen by {word}={named}" if word else f"it must be {described(parameter.hint)}"
        raise ConfigError(f"{full}={shown(value)}: {said}")
    if not isinstance(value, Mapping):  # a node instead of a number is refused below
        check_range(full, value, parameter.allowed)
    _check_below(value, full, paths, hint=parameter.hint, owner=owner)


def _check_below(value: Any, path: str, paths: list[str], *, hint: Any, owner: Any) -> None:
    """Check the nodes inside a value: each fits the annotation of the field, list or mapping that holds it."""
    if isinstance(value, Mapping) and "_target_" in value:
        target = locate(value["_target_"], f"{path}._target_")
        partial = _is_bound_function(value, target, path) or bool(value.get("_partial_"))
        if not accepts(hint, target, owner, partial=partial):
            wanted = described(hint).removeprefix("a node whose _target_ is ")
            is_loss = path.rpartition(".")[2] == "loss"
            mend = "; choose another with loss=NAME (rlx info loss=NAME says what one is)" if is_loss else ""
            raise ConfigError(f"{path}: {value['_target_']} is not {wanted}, which {node_name(owner)} reads{mend}")
        check_node(value, path, paths)
    elif isinstance(value, Mapping):
        of = _item_of(hint, Mapping)
        for key, item in value.items():
            _check_below(item, f"{path}.{key}", paths, hint=of, owner=owner)
    elif isinstance(value, (list, tuple)):
        of = _item_of(hint, Sequence)
        for index, item in enumerate(value):
            _check_below(item, f"{path}[{index}]", paths, hint=of, owner=owner)


def _item_of(hint: Any, container: type) -> Any:
    """The annotation of the items of a mapping or list annotated `hint`; Any if there is none."""
    origin, arguments = typing.get_origin(hint), [item for item in typing.get_args(hint) if item is not Ellipsis]
    if origin in (Union, types.UnionType):
        items = [_item_of(option, container) for option in arguments if _is_container(option, container)]
        return Union[tuple(items)] if items else Any  # noqa: UP007
    if not arguments or not _is_container(hint, container):
        return Any
    if container is Mapping:
        return arguments[-1]
    return Union[tuple(arguments)]  # noqa: UP007


def _is_container(hint: Any, container: type) -> bool:
    base = typing.get_origin(hint) or hint
    if not isinstance(base, type) or issubclass(base, str):
        return False
    return issubclass(base, Mapping) if container is Mapping else issubclass(base, Iterable) and not issubclass(base, Mapping)


def node_name(owner: Any) -> str:
    """The name of a class or function, for a message."""
    return str(getattr(owner, "__name__", owner))


def unknown_key(path: str, owner: str, paths: Iterable[str], *, chosen: str | None = None) -> ConfigError:
    """`loss.betta is not a key of DPO; did you mean loss.beta?` chosen: the word that chooses the owner with its own keys."""
    near = right_name(path, paths)
    if near is None and chosen is not None:
        return ConfigError(f"{path} is not a key of {owner}; where it comes from another option, choose {owner} by {chosen}")
    return ConfigError(f"{path} is not a key of {owner}{did_you_mean(near)}")
