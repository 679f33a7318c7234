"""Options that are functions of rlx: `loss=ipo` is the function ipo under its decorator, and needs no YAML for its name.

Names and nodes are read from the source, so that listing, completing and composing import no torch.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlx.config.groups import GROUPS

_ROOT = Path(__file__).parents[1]
_VALUE = {"within", "one_of", "field", "non_empty"}  # calls that give a field of a dataclass its default


@functools.cache
def declared(group: str) -> dict[str, str]:
    """Option -> dotted name, of the functions of rlx that a decorator makes an option of the group; none in most groups."""
    decorators = GROUPS[group].decorators if group in GROUPS else {}
    if not decorators:
        return {}
    function = re.compile(rf"^@(?:{'|'.join(decorators)})\b(?:(?!^def ).)*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
    rooms = sorted({_file(base.rpartition(".")[0]).parent for base in decorators.values()})
    files = [file for room in rooms for file in sorted(room.glob("*.py"))]
    return {name: f"{_module(file)}.{name}" for file in files for name in function.findall(file.read_text(encoding="utf-8"))}


@functools.cache
def declared_node(group: str, option: str) -> dict[str, Any]:
    """The node of such an option: the function's keyword arguments, then what its decorator adds, with their defaults."""
    target = declared(group)[option]
    module, _, name = target.rpartition(".")
    function = next(item for item in _tree(module).body if isinstance(item, ast.FunctionDef) and item.name == name)
    node = {"_target_": target, **_own(function, module)}
    decorator = next(item for item in function.decorator_list if _called(item) in GROUPS[group].decorators)
    given = {item.arg: item.value for item in decorator.keywords} if isinstance(decorator, ast.Call) else {}
    for key, value, place in _fields(GROUPS[group].decorators[_called(decorator)]):
        node[key] = _value(given[key], module) if key in given else _value(value, place)
    return node


def _own(function: ast.FunctionDef, module: str) -> dict[str, Any]:
    """The keyword arguments of a function with their defaults."""
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {item.arg: "???" if default is None else _value(default, module) for item, default in pairs}


def _fields(base: str) -> Iterator[tuple[str, ast.expr, str]]:
    """(field, its default, module) of a dataclass that a decorator derives its classes from."""
    module, _, name = base.rpartition(".")
    kind = next(item for item in _tree(module).body if isinstance(item, ast.ClassDef) and item.name == name)
    for item in kind.body:
        if isinstance(item, ast.AnnAssign) and item.value is not None and not ast.unparse(item.annotation).startswith("ClassVar"):
            yield ast.unparse(item.target), item.value, module


def _value(written: ast.expr, module: str) -> Any:
    """A default as YAML has it: a literal, what `within(default=...)` or `field(default_factory=...)` gives, or a node."""
    if isinstance(written, ast.Call) and _called(written) in _VALUE:
        given = {item.arg: item.value for item in written.keywords}
        if "default" in given:
            return _value(given["default"], module)
        made = given["default_factory"]
        return {} if ast.unparse(made) == "dict" else _node(ast.unparse(made), module)
    if isinstance(written, ast.Call):
        return _node(_called(written), module)
    found = ast.literal_eval(written)
    return list(found) if isinstance(found, tuple) else found


def _node(name: str, module: str) -> dict[str, Any]:
    """The node of a function that a module defines or imports, such as `token_mean`."""
    for item in _tree(module).body:
        if isinstance(item, ast.FunctionDef) and item.name == name:
            return {"_target_": f"{module}.{name}", **_own(item, module)}
        if isinstance(item, ast.ImportFrom) and item.module and name in [alias.name for alias in item.names]:
            return _node(name, item.module)
    raise LookupError(f"{module} neither defines nor imports {name}")


def _called(written: ast.expr) -> str:
    """The name of a decorator or call, without its arguments."""
    return ast.unparse(written.func if isinstance(written, ast.Call) else written)


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    return _ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _module(file: Path) -> str:
    return ".".join(("rlx", *file.relative_to(_ROOT).with_suffix("").parts))
