"""Resolves dotted names, lists the arguments of what they name, and decides which names a config may have.

A config from a run record is data and is checked here like any other.

A `_target_` is refused, before anything is called, unless all of this holds:

1. its text is rlx's own, an optimizer of torch, torchao or bitsandbytes, or named by the user: on the command line, in a call of
   rlx.load, in a folder that is searched, or by an installed plugin; the standard library is never named;
2. it resolves to an object whose own module and qualified name it is (`locate`);
3. a function of rlx or torch must be named by a YAML file of conf/; modules of rlx that run commands are never allowed;
4. it fits the base of its group, or the annotation of the field that holds it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from rlx.config.groups import GROUPS
from rlx.config.schema import conf_dir
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError, users_place
from rlx.fields import Allowed, Range, range_in, range_of
from rlx.nested import walk

REQUIRED: Any = dataclasses.MISSING


@dataclass(frozen=True)
class Parameter:
    """One argument of a class or function: its type (Any if unknown), its default or REQUIRED, and its range if it has one."""

    name: str
    hint: Any
    default: Any = REQUIRED
    given_by_caller: bool = False
    allowed: Allowed | None = None


def locate(target: str, key: str) -> Any:
    """The class or function of a dotted name. It imports the module, so check the allow list first.

    The name must be the object's own: its module and its qualified name. A package may also export what one of its modules
    defines, in its `__all__` or, without one, by a name without a leading underscore. A name that leads through a module imported
    by another one is refused. Raises ConfigError.
    """
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{key}: {target} is not a dotted name of a class, such as my_lab.MyAlgorithm")
    found: Any = None
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.startswith("rlx.") and target.startswith("rlx."):
                if module == error.name or module.startswith(f"{error.name}."):
                    continue
                raise
            if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
                raise ConfigError(f"{key}: {module} cannot be imported: {_described(error)}") from error
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{key}: {module} cannot be imported: {_described(error)}") from error
    if found is None:
        here = [path.stem for path in Path().glob("*.py")]
        hint = did_you_mean(nearest(parts[0], here)) or _extra(parts[0])
        raise ConfigError(f"{key}: {target} names the module {parts[0]}, which is neither here nor on the Python path{hint}")
    found = sys.modules[parts[0]]
    for length, name in enumerate(parts[1:], start=1):
        place = ".".join(parts[: length + 1])
        if not hasattr(found, name) and place in sys.modules:
            found = sys.modules[place]  # a package may delete the attribute of its submodule
            continue
        if not hasattr(found, name):
            owner = getattr(found, "__name__", parts[0])
            options = [option for option, value in vars(found).items() if callable(value) and not option.startswith("_")]
            hint = _hidden(parts[0]) or did_you_mean(nearest(name, options))
            raise ConfigError(f"{key}: {owner} has no {name}{hint}")
        found = getattr(found, name)
        if isinstance(found, types.ModuleType) and found.__name__ != place:
            raise ConfigError(
                f"{key}: {target} leads through {place}, which is the module {found.__name__} under another name; "
                "name a class by the module that defines it"
            )
    _require_own_name(found, target, key)
    return found


def own_name(target: Any) -> str:
    """The module and qualified name of a class or function; empty for other objects."""
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""


def _require_own_name(found: Any, target: str, key: str) -> None:
    """Refuse a name by which an object can be reached but which is not its own, such as that of a module which imports it."""
    own, place = own_name(found), target.rpartition(".")[0]
    if own == target:
        return
    package = sys.modules.get(place)
    if own.startswith(f"{place}.") and callable(found) and hasattr(package, "__path__"):
        name = target.rpartition(".")[2]
        public = getattr(package, "__all__", None)
        if name in public if public is not None else not name.startswith("_"):
            return
    kind = "a module" if isinstance(found, types.ModuleType) else f"an object of {type(found).__name__}"
    mend = f"is {own}; give it that name" if own else f"is {kind}; name a class or a function"
    raise ConfigError(f"{key}: {target} {mend}")


def _hidden(module: str) -> str:
    """A hint that a module of the same name hides a file here."""
    mine = next((path for path in (Path(f"{module}.py"), Path(module, "__init__.py")) if path.is_file()), None)
    other = getattr(sys.modules.get(module), "__file__", None)
    if mine is None or (other is not None and Path(other).resolve() == mine.resolve()):
        return ""
    return f"; Python has a module {module} ({other or 'built in'}), which hides {mine}: give that file another name"


def _described(error: BaseException) -> str:
    """An error in a user's module, with its file and line."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    place = users_place(error)
    extra = _extra(str(error.name)) if isinstance(error, ModuleNotFoundError) else ""
    return f"{type(error).__name__}: {error}{f' ({place})' if place else ''}{extra}"


def _extra(module: str) -> str:
    """How to install a package that the user's code needs, if rlx has it as an extra."""
    return f"; it comes with pip install 'rlx[{module}]'" if module == "verifiers" else ""


def parameters_of(target: Any, *, ranges: Mapping[str, Range] = MappingProxyType({})) -> dict[str, Parameter] | None:
    """The parameters of a dataclass or a signature, by name; None if it accepts any keyword.

    ranges: of the group, for arguments whose signature declares none; the range of a tuple applies to each of its numbers.
    """
    if isinstance(target, type) and "__dataclass_fields__" in vars(_of_init(target)):
        hints = hints_of(target)
        fields = [item for item in dataclasses.fields(target) if item.init]
        return {
            item.name: Parameter(item.name, hints.get(item.name, Any), _default(item), allowed=range_of(target, item.name))
            for item in fields
        }
    function = vars(target).get("__init__", target) if isinstance(target, type) else target
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    if any(item.kind is item.VAR_KEYWORD for item in signature.parameters.values()):
        return None
    hints = hints_of(function, notes=True)
    found = {}
    for item in signature.parameters.values():
        if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY):
            default = REQUIRED if item.default is item.empty else item.default
            hint, shared = hints.get(item.name, Any), ranges.get(item.name)
            if shared is not None and isinstance(default, tuple):
                shared = replace(shared, each=True, optional=None in default)
            allowed = range_in(hint) or shared
            found[item.name] = Parameter(item.name, hint, default, given_by_caller=item.name == "params", allowed=allowed)
    return found


def with_run_loss(config: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a run's algorithm, with the run's loss under `loss` if its class declares one."""
    node = dict(config["algorithm"])
    if reads_run_loss(node):
        node["loss"] = config.get("loss")
    return node


def reads_run_loss(algorithm: Mapping[str, Any]) -> bool:
    """Whether the class of an algorithm's node declares a loss that the node leaves to the run."""
    target = locate(algorithm["_target_"], "algorithm._target_")
    return "loss" not in algorithm and "loss" in (parameters_of(target) or {})


def _of_init(kind: type) -> type:
    """The class that defines the constructor of a class."""
    return next(ancestor for ancestor in kind.__mro__ if "__init__" in vars(ancestor))


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return REQUIRED if item.default_factory is dataclasses.MISSING else item.default_factory()


def hints_of(target: Callable[..., Any], *, notes: bool = False) -> Mapping[str, Any]:
    """The annotations of a class or function; one that cannot be evaluated (imported for type checkers only) is Any.

    notes: whether to keep `Annotated` with its metadata.
    """
    try:
        return typing.get_type_hints(target, include_extras=notes)
    except Exception:  # evaluating an annotation may raise anything, so they are read one by one
        pass
    found: dict[str, Any] = {}
    space: dict[str, Any] = {}  # the annotations of a class made by a decorator come from the module of its base
    for owner in reversed(getattr(target, "__mro__", (target,))):
        space |= vars(sys.modules.get(owner.__module__, object)) if hasattr(owner, "__module__") else {}
        for name, text in getattr(owner, "__annotations__", {}).items():
            try:
                one = types.SimpleNamespace(__annotations__={name: text})
                found |= typing.get_type_hints(one, {**vars(typing), **space}, {}, include_extras=notes)
            except Exception:
                found[name] = Any
    return found


# The names that a config may use.

OWN: tuple[str, ...] = ("rlx.*", "torch.optim.*", "torchao.optim.*", "bitsandbytes.optim.*")
# rlx's modules that build nothing: a config must not import or call them
_REFUSED: tuple[str, ...] = ("rlx.cli.*", "rlx.config.*", "rlx.experiment.*", "rlx.training.*", "rlx.load", "rlx.sweep.*")
_IN_YAML = re.compile(r"""^\s*(?:-\s+)?["']?_target_["']?\s*:\s*["']?([\w.]+)""", re.MULTILINE)


def targets_of(container: Any, path: str = "") -> list[tuple[str, Any]]:
    """(dotted path of the node, its `_target_`) for every node in plain dicts and lists that has one."""
    found = [(place.rpartition("."), value) for place, value in walk(container, path, lists=True)]
    return [(node, value) for (node, _, key), value in found if key == "_target_"]


def is_allowed(target: str, allowed: Iterable[str]) -> bool:
    """Whether a dotted name may be imported: it belongs to rlx or torch, or matches one of the patterns in `allowed`."""
    parts = target.split(".")
    if any(not part.isidentifier() or part.startswith("__") for part in parts) or parts[0] in sys.stdlib_module_names:
        return False
    if parts[0] == "rlx" and any(fnmatchcase(target, pattern) for pattern in _REFUSED):
        return False
    return any(fnmatchcase(target, pattern) for pattern in (*OWN, *allowed))


def check_targets(container: Any, allowed: Iterable[str] = ()) -> None:
    """Refuse a config that breaks rules 1 to 3 anywhere. Nothing is called.

    allowed: names, or patterns of names, from the user's command line. A module is imported only if the names of all nodes pass
    the first rule. Raises ConfigError with the key.
    """
    patterns = tuple(allowed)
    found = targets_of(container)
    for path, target in found:
        if not isinstance(target, str) or not is_allowed(target, patterns):
            raise ConfigError(
                f"{_key(path)} names {target}, which a config may not call (rlx's own and torch.optim it may); "
                "name a class of your own on the command line (algorithm=my_lab.MyAlgorithm) or in a folder for --config-dir"
            )
    for path, target in found:
        _require_served(locate(target, _key(path)), target, _key(path))


def _key(path: str) -> str:
    return f"{path}._target_" if path else "_target_"


def _require_served(found: Any, target: str, key: str) -> None:
    """Refuse a function of rlx or torch that no YAML of conf/ names. Classes are checked against the field that holds them."""
    if _top(found) in ("rlx", "torch") and not isinstance(found, type) and target not in shipped_targets():
        raise ConfigError(
            f"{key} names {target}, which a config may not call: of the functions of rlx and torch it may name those in conf/; "
            "rlx --help lists the options of each group"
        )


@functools.cache
def shipped_targets() -> frozenset[str]:
    """Every `_target_` that the YAML files of conf/ name."""
    return frozenset(targets_in_folder(conf_dir()))


def targets_in_folder(folder: Path) -> set[str]:
    """Every `_target_` that the YAML files below `folder` name."""
    return {target for file in sorted(folder.rglob("*.yaml")) for target in _IN_YAML.findall(file.read_text(errors="replace"))}


# The code that `task.env` names: the name of an environment of the package verifiers is the name of a module. It therefore names
# code like any `_target_`: conf/task/verifiers.yaml turns it into one, and the same rules apply.

_ENV = re.compile(r"^[+]*task\.env=(.*)$", re.DOTALL)
_ENV_IN_YAML = re.compile(r"""^\s*["']?env["']?\s*:\s*["']?([\w./-]+)""", re.MULTILINE)


def loader_of(env: str) -> str:
    """The dotted name of the loader of the environment `env`: `my-env` and `owner/my-env` are my_env.load_environment.

    A dotted name is a class or function itself.
    """
    return env if "." in env else f"{env.rpartition('/')[2].replace('-', '_')}.load_environment"


# Registered on import, so that a sweep's worker processes have it too.
OmegaConf.register_new_resolver("rlx_loader", loader_of, replace=True)


def loaders_in(override: str) -> list[str]:
    """The dotted names of the environments that an override of task.env chooses; empty for other overrides."""
    found = _ENV.match(override)
    names = re.split(r"[\s,()\[\]]+", found[1].removeprefix("choice")) if found else []
    return [loader_of(name.strip("'\"")) for name in names if name.strip("'\"")]


def loaders_in_folder(folder: Path) -> set[str]:
    """The dotted names of the environments that the YAML files below `folder` choose."""
    files = sorted(folder.rglob("*.yaml"))
    return {loader_of(name) for file in files for name in _ENV_IN_YAML.findall(file.read_text(errors="replace"))}


def fits_group(target: Any, group: str) -> bool:
    """Whether a class, or the type that a function is annotated to return, fits the nodes of a group."""
    kind = _kind(target)
    bases = tuple(locate(name, group) for name in GROUPS[group].base)
    return kind is not None and issubclass(kind, bases)


def chosen_by(hint: Any, path: str) -> str:
    """The word that chooses an option for a field annotated `hint` at a path of a config; empty if there is none."""
    origin = typing.get_origin(hint)
    kinds = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (origin or hint,)
    for name, group in GROUPS.items():
        if not group.several and any(isinstance(kind, type) and fits_group(kind, name) for kind in kinds):
            return name if path == group.place else f"{name}@{path}"
    return ""


def accepts(hint: Any, target: Any, owner: Any, *, partial: bool = False) -> bool:
    """Whether a field of `owner` annotated `hint` may hold the object that the target of a nested node makes.

    A class fits its bases; a function fits the type that it is annotated to return, and no field if it returns None or is not
    annotated. `X | None` accepts what X accepts. A field annotated Any accepts what conf/ names and what fits a group; in the
    user's own class it also accepts a dataclass from the same package. For a Callable see `_is_function_for`. partial: whether
    the node is bound and not called, which makes any target a function.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(option, target, owner, partial=partial) for option in typing.get_args(hint))
    if origin is typing.Annotated:
        return accepts(typing.get_args(hint)[0], target, owner, partial=partial)
    if (origin or hint) is Callable:
        return _is_function_for(hint, target, partial=partial)
    if hint in (Any, object) or isinstance(hint, (str, typing.TypeVar)):
        return _fits_any(target, owner)
    base, kind = origin or hint, _kind(target)
    if partial or kind is None or not isinstance(base, type) or base is type(None):
        return False
    if getattr(base, "_is_protocol", False):  # decided by its bases, not by the names of its methods
        return base in kind.__mro__
    return issubclass(kind, base)


def _kind(target: Any) -> type | None:
    """The class of the object that a node with this target makes; None if it is not declared."""
    if not isinstance(target, type):
        returned = hints_of(target).get("return") if callable(target) else None
        target = typing.get_origin(returned) or returned
    return target if isinstance(target, type) and target not in (type(None), Any, object) else None


def _fits_any(target: Any, owner: Any) -> bool:
    if own_name(target) in shipped_targets() or any(fits_group(target, group) for group in GROUPS):
        return True
    return isinstance(target, type) and is_dataclass(target) and _top(target) == _top(owner) != "rlx"


def _is_function_for(hint: Any, target: Any, *, partial: bool) -> bool:
    """Whether a node makes a Callable: a bound function, a class with `__call__`, or a target annotated to return one.

    A bound target of rlx or torch fits only if the Callable declares a return type and the target has that type.
    """
    if partial:
        returned = typing.get_args(hint)[-1] if typing.get_args(hint) else Any
        known = returned is not Any and accepts(returned, target, None)
        return known or (_top(target) not in ("rlx", "torch") and (inspect.isroutine(target) or isinstance(target, type)))
    kind = _kind(target)
    if kind is None or _top(target) in ("rlx", "torch"):
        return False
    return any("__call__" in vars(ancestor) for ancestor in kind.__mro__)


def _top(target: Any) -> str:
    """The package in which a class or function is defined."""
    return str(getattr(target, "__module__", "")).partition(".")[0]
