"""Which classes and functions a config may name. A config out of a run record is data: it passes here like any other.

A `_target_` is refused, before anything is called, unless all of this holds:

1. its text is rlx's own, an optimizer of torch, torchao or bitsandbytes, or named by the user: on the command line, in a folder
   that it searches, or by an installed plugin; the standard library is never named;
2. it resolves to an object whose own module and qualified name it is (`rlx.config.classes.locate`);
3. one of rlx's or torch's functions is named by a YAML file of conf/, and of rlx's modules those that run commands serve nothing;
4. it is of the base of its group, or of the annotation of the field that holds it.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rlx.config.classes import hints_of, locate, own_name
from rlx.config.groups import GROUPS
from rlx.config.schema import conf_dir
from rlx.errors import ConfigError
from rlx.nested import walk

OWN: tuple[str, ...] = ("rlx.*", "torch.optim.*", "torchao.optim.*", "bitsandbytes.optim.*")
# rlx's modules that build nothing: a config has no business to import or to call them
_REFUSED: tuple[str, ...] = ("rlx.cli.*", "rlx.config.*", "rlx.experiment.*", "rlx.training.*", "rlx.load", "rlx.sweep.*")
_IN_YAML = re.compile(r"""^\s*(?:-\s+)?["']?_target_["']?\s*:\s*["']?([\w.]+)""", re.MULTILINE)


def targets_of(container: Any, path: str = "") -> list[tuple[str, Any]]:
    """(dotted path of the node, its `_target_`) for every node of plain dicts and lists that names one."""
    found = [(place.rpartition("."), value) for place, value in walk(container, path, lists=True)]
    return [(node, value) for (node, _, key), value in found if key == "_target_"]


def is_allowed(target: str, allowed: Iterable[str]) -> bool:
    """Whether a dotted name may be imported: it is rlx's own, torch's, or matches one of the patterns in `allowed`."""
    parts = target.split(".")
    if any(not part.isidentifier() or part.startswith("__") for part in parts) or parts[0] in sys.stdlib_module_names:
        return False
    if parts[0] == "rlx" and any(fnmatchcase(target, pattern) for pattern in _REFUSED):
        return False
    return any(fnmatchcase(target, pattern) for pattern in (*OWN, *allowed))


def check_targets(container: Any, allowed: Iterable[str] = ()) -> None:
    """Refuse a config that names what it may not, wherever it stands: rules 1 to 3. Nothing is called.

    allowed: names, or patterns of names, that the user's own command line serves. A module is imported only where the names of
    all nodes pass the first rule. Raises ConfigError with the key.
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
    """Refuse a function of rlx's or torch's that no YAML of conf/ names. Classes are held against the field they stand in."""
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


def fits_group(target: Any, group: str) -> bool:
    """Whether a class, or what a function is annotated to return, is what the nodes of a group are."""
    kind = _kind(target)
    bases = tuple(locate(name, group) for name in GROUPS[group].base)
    return kind is not None and issubclass(kind, bases)


def accepts(hint: Any, target: Any, owner: Any, *, partial: bool = False) -> bool:
    """Whether a field annotated `hint` of `owner` may hold what the target of a nested node makes.

    A class fits its bases, a function what it is annotated to return: one that returns None, or says nothing, fits no field.
    `X | None` takes what X takes. A field annotated Any takes what conf/ names and what fits a group; one of a class of the
    user's own also a dataclass out of the same package. A Callable is taken as in `_is_function_for`.
    partial: whether the node is bound and not called, which makes a function of any target.
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
    if getattr(base, "_is_protocol", False):  # by its bases, not by the names of its methods
        return base in kind.__mro__
    return issubclass(kind, base)


def _kind(target: Any) -> type | None:
    """The class that a node with this target makes an object of; None where nobody says."""
    if not isinstance(target, type):
        returned = hints_of(target).get("return") if callable(target) else None
        target = typing.get_origin(returned) or returned
    return target if isinstance(target, type) and target not in (type(None), Any, object) else None


def _fits_any(target: Any, owner: Any) -> bool:
    if own_name(target) in shipped_targets() or any(fits_group(target, group) for group in GROUPS):
        return True
    return isinstance(target, type) and is_dataclass(target) and _top(target) == _top(owner) != "rlx"


def _is_function_for(hint: Any, target: Any, *, partial: bool) -> bool:
    """Whether a node makes a Callable: a function that is bound, a class with `__call__`, or what is annotated to return one.

    A bound one of rlx's or of torch's fits only where the Callable says what it returns and the target is that.
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
    """The package that a class or function is defined in."""
    return str(getattr(target, "__module__", "")).partition(".")[0]
