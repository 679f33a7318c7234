"""What a dotted name stands for, what it takes, and whether it belongs to a group."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rlx.config.groups import GROUPS
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError, users_place
from rlx.fields import Choice, Range

REQUIRED: Any = dataclasses.MISSING


@dataclass(frozen=True)
class Parameter:
    """One key that a class or function takes: its type (Any where unknown), its default or REQUIRED, its range if it has one."""

    name: str
    hint: Any
    default: Any = REQUIRED
    given_by_caller: bool = False
    allowed: Range | Choice | None = None


def locate(target: str, key: str) -> Any:
    """The class or function of a dotted name. Imports its module, so the allow list comes first."""
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{key}: {target} is no dotted name of a class, such as my_lab.MyAlgorithm")
    found: Any = None
    depth = 0
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found, depth = importlib.import_module(module), length
            break
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.startswith("rlx.") and target.startswith("rlx."):
                if module == error.name:
                    continue
                raise
            if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
                raise ConfigError(f"{key}: {module} cannot be imported: {_described(error)}") from error
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{key}: {module} cannot be imported: {_described(error)}") from error
    if found is None:
        here = [path.stem for path in Path().glob("*.py")]
        hint = did_you_mean(nearest(parts[0], here))
        raise ConfigError(f"{key}: {target} names the module {parts[0]}, which is neither here nor on the Python path{hint}")
    for name in parts[depth:]:
        if not hasattr(found, name):
            owner = getattr(found, "__name__", parts[0])
            options = [option for option, value in vars(found).items() if isinstance(value, type)]
            hint = _hidden(parts[0]) or did_you_mean(nearest(name, options))
            raise ConfigError(f"{key}: {owner} has no {name}{hint}")
        found = getattr(found, name)
    return found


def _hidden(module: str) -> str:
    """A hint at a file here that another module of its name hides."""
    mine = next((path for path in (Path(f"{module}.py"), Path(module, "__init__.py")) if path.is_file()), None)
    other = getattr(sys.modules.get(module), "__file__", None)
    if mine is None or (other is not None and Path(other).resolve() == mine.resolve()):
        return ""
    return f"; Python has a module {module} ({other or 'built in'}), which hides {mine}: give that file another name"


def _described(error: BaseException) -> str:
    """An error of a user's module, with the file and line it happened on."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    place = users_place(error)
    return f"{type(error).__name__}: {error}{f' ({place})' if place else ''}"


def fits_group(target: Any, group: str) -> bool:
    """Whether a class, or what a function returns, is what the nodes of a group are."""
    if not isinstance(target, type):
        target = _hints(target).get("return") if callable(target) else None
    bases = tuple(locate(name, group) for name in GROUPS[group].base)
    return isinstance(target, type) and issubclass(target, bases)


def accepts(hint: Any, target: Any, owner: Any) -> bool:
    """Whether a field annotated `hint` of `owner` may hold what the target of a nested node makes."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(option, target, owner) for option in typing.get_args(hint))
    kind = target if isinstance(target, type) else _hints(target).get("return")
    if hint in (Any, object) or not isinstance(origin or hint, type):
        # nothing is said about it: then it is rlx's, the owner's own, or a dataclass
        tops = {"rlx", "torch", str(getattr(owner, "__module__", "")).partition(".")[0]}
        return dataclasses.is_dataclass(kind) or str(getattr(target, "__module__", "")).partition(".")[0] in tops
    if getattr(hint, "_is_protocol", False) or (origin or hint) is Callable:
        return True
    return isinstance(kind, type) and issubclass(kind, origin or hint)


def parameters_of(target: Any) -> dict[str, Parameter] | None:
    """What a dataclass's fields or a signature take, by name; None where any keyword is taken."""
    if isinstance(target, type) and "__dataclass_fields__" in vars(_of_init(target)):
        hints = _hints(target)
        fields = [item for item in dataclasses.fields(target) if item.init]
        return {
            item.name: Parameter(item.name, hints.get(item.name, Any), _default(item), allowed=item.metadata.get("range"))
            for item in fields
        }
    function = vars(target).get("__init__", target) if isinstance(target, type) else target
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    if any(item.kind is item.VAR_KEYWORD for item in signature.parameters.values()):
        return None
    hints = _hints(function)
    found = {}
    for item in signature.parameters.values():
        if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY):
            default = REQUIRED if item.default is item.empty else item.default
            found[item.name] = Parameter(item.name, hints.get(item.name, Any), default, given_by_caller=item.name == "params")
    return found


def with_run_loss(config: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a run's algorithm, with the run's loss under `loss` where its class declares one."""
    node = dict(config["algorithm"])
    if reads_run_loss(node):
        node["loss"] = config.get("loss")
    return node


def reads_run_loss(algorithm: Mapping[str, Any]) -> bool:
    """Whether the class of an algorithm's node declares a loss, which its node leaves to the run."""
    target = locate(algorithm["_target_"], "algorithm._target_")
    return "loss" not in algorithm and "loss" in (parameters_of(target) or {})


def _of_init(kind: type) -> type:
    """The class that a class has its constructor from."""
    return next(ancestor for ancestor in kind.__mro__ if "__init__" in vars(ancestor))


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return REQUIRED if item.default_factory is dataclasses.MISSING else item.default_factory()


def _hints(target: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of a class or function; one that cannot be evaluated (an import for type checkers alone) is Any."""
    try:
        return typing.get_type_hints(target)
    except Exception:
        pass
    found: dict[str, Any] = {}
    for owner in reversed(getattr(target, "__mro__", (target,))):
        space = vars(sys.modules.get(owner.__module__, object)) if hasattr(owner, "__module__") else {}
        for name, text in getattr(owner, "__annotations__", {}).items():
            try:
                found[name] = eval(text, dict(space), dict(vars(typing))) if isinstance(text, str) else text
            except Exception:
                found[name] = Any
    return found


# Which classes and functions a config may name. A config from a run record is data: it passes here like any other.

OWN: tuple[str, ...] = ("rlx.*", "torch.optim.*")
# rlx's own functions that build nothing: a config has no business to call them
_REFUSED: tuple[str, ...] = ("rlx.cli.*", "rlx.config.*", "rlx.experiment.*", "rlx.training.*", "rlx.load", "rlx.sweep.*")
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
