"""What an algorithm's class says of itself, read from its source: help needs it, and must not import torch for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import rlx
from rlx.config.compose import option_node


@dataclass(frozen=True)
class Summary:
    """The kind of an algorithm, what it needs of the task and the run, and in one line what it is."""

    kind: str = ""
    needs: tuple[str, ...] = ()
    text: str = ""


def summary_of(option: str, folders: Iterable[Path]) -> Summary:
    """The summary of the class that an option of the group algorithm targets; empty for a class that is not of rlx."""
    places = list(folders)
    target = str(option_node("algorithm", option, places).get("_target_"))
    module, _, name = target.rpartition(".")
    found = _class(module, name)
    if found is None:
        return Summary(text=comment_of(option, places))
    kind = re.search(r"AlgorithmType\.(\w+)", _declared(found, "kind", module) or "")
    needs = re.findall(r"Need\.(\w+)", _declared(found, "needs", module) or "")
    text = comment_of(option, places) or (ast.get_docstring(found) or "").partition("\n")[0]
    return Summary(kind[1].lower() if kind else "", tuple(sorted(need.lower() for need in needs)), text)


def comment_of(option: str, folders: Iterable[Path]) -> str:
    """The comment that an option's file begins with, if any: an option that builds on another says there what it is."""
    files = (folder / "algorithm" / f"{option}.yaml" for folder in folders)
    first = next((file.read_text(encoding="utf-8").partition("\n")[0] for file in files if file.is_file()), "")
    return "" if not first.startswith("# ") or first.startswith("# @") else first.removeprefix("# ")


def _tree(module: str) -> ast.Module | None:
    """The syntax of one of rlx's modules."""
    parts = module.split(".")
    base = Path(rlx.__file__).parent.joinpath(*parts[1:])
    files = (base.with_suffix(".py"), base / "__init__.py")
    file = next((file for file in files if file.is_file()), None) if parts[0] == "rlx" else None
    return None if file is None else ast.parse(file.read_text(encoding="utf-8"))


def _class(module: str, name: str) -> ast.ClassDef | None:
    tree = _tree(module)
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None) if tree else None


def _declared(found: ast.ClassDef, name: str, module: str) -> str | None:
    """The source of a class variable's value, looked up along the base classes."""
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name and node.value:
            return ast.unparse(node.value)
    for base in found.bases:
        base_name = ast.unparse(base).partition("[")[0]
        place = _imported_from(module, base_name)
        above = _class(place, base_name)
        if above is not None and (place, base_name) != (module, found.name):
            value = _declared(above, name, place)
            if value is not None:
                return value
    return None


def _imported_from(module: str, name: str) -> str:
    """The module that a name of `module` was imported from; itself if it was not."""
    tree = _tree(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom) and node.module and any((alias.asname or alias.name) == name for alias in node.names):
            return node.module
    return module
