"""The user's own modules that a config names. A run keeps copies of them with their hashes.

Nothing is imported: modules are found by their specs and read by their syntax.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.nested import walk


@dataclass(frozen=True)
class Source:
    """A file of the user's own that a run depends on.

    sha256: of the file's bytes. code: of its syntax, so that a changed comment does not count.
    """

    module: str
    file: Path
    sha256: str
    code: str
    targets: tuple[str, ...] = ()

    @property
    def copy(self) -> str:
        """Its copy in the run directory, importable with `sources/` on the Python path."""
        path = "/".join(self.module.split("."))
        return f"sources/{path}/__init__.py" if self.file.name == "__init__.py" else f"sources/{path}.py"

    def computes_as(self, recorded: Mapping[str, Any]) -> bool:
        """Whether the file computes the same as in a record: by its code hash or, if the record lacks one, by its bytes."""
        return bool(self.code == recorded["code"] if "code" in recorded else self.sha256 == recorded.get("sha256"))

    def to_dict(self) -> dict[str, Any]:
        """The source as stored in `run.json`."""
        place = {"file": str(self.file), "sha256": self.sha256, "code": self.code, "copy": self.copy}
        return {"module": self.module, "targets": list(self.targets), **place}


def sources(config: Mapping[str, Any]) -> list[Source]:
    """The user's own files behind the targets of a config, and the user's files that those import.

    Left out are rlx itself and installed packages (their versions are recorded), modules without a file, and loggers, which do
    not affect numbers.
    """
    named: dict[str, set[str]] = {}
    for key, target in walk({key: value for key, value in config.items() if key != "logger"}, lists=True):
        is_named = key.rpartition(".")[2] == "_target_" and isinstance(target, str)
        if is_named and (module := _module_of(target)) is not None:
            named.setdefault(module, set()).add(target)
    files: dict[str, Path] = {}
    waiting = list(named)
    while waiting:
        module = waiting.pop()
        file = own_file(module)
        if module in files or file is None:
            continue
        files[module] = file
        waiting += imported_modules(module, file)
    return [source_of(module, file, named.get(module, ())) for module, file in sorted(files.items())]


def source_of(module: str, file: Path, targets: Iterable[str] = ()) -> Source:
    """A file with its current hashes. targets: the names in it that a config calls."""
    data = file.read_bytes()
    return Source(module, file, hashlib.sha256(data).hexdigest(), syntax_hash(data), tuple(sorted(targets)))


def _spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None


def _module_of(target: str) -> str | None:
    """The longest importable module of a dotted name, if it may be the user's own."""
    parts = target.split(".")
    if parts[0] == "rlx" or parts[0] in sys.stdlib_module_names or _is_installed(_spec(parts[0])):
        return None
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        if _spec(name) is not None:
            return name
    return None


def own_file(module: str) -> Path | None:
    """The source file of a module; None if it belongs to rlx, is installed, or is not a Python file."""
    if _spec(module.partition(".")[0]) is None or not is_users_module(module):
        return None  # the top package first, because looking for a submodule imports its parents
    spec = _spec(module)
    return Path(spec.origin).resolve() if spec is not None and str(spec.origin).endswith(".py") else None


def is_users_module(module: str) -> bool:
    """Whether a module, present or not, belongs neither to rlx, nor to Python, nor to an installed package."""
    top = module.partition(".")[0]
    if top in {"rlx", "__main__"} or top in sys.stdlib_module_names:
        return False
    spec = _spec(top)
    return spec is None or not _is_installed(spec)


def _is_installed(spec: Any) -> bool:
    if spec is None:
        return True
    places = [spec.origin] if spec.origin is not None else list(spec.submodule_search_locations or [])
    return any({"site-packages", "dist-packages"} & set(Path(place).resolve().parts) for place in places)


def imported_modules(module: str, file: Path) -> list[str]:
    """The modules that a source file imports, and the packages that contain it."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return []
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names = {package} if package else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return [name for name in names if name]


# A hash of Python code that changes with what the code computes, not with its comments and messages. Standard library only.


# Types are not executed; `kind` is the prefix of a string (u"..."); `ctx` follows from the position of a name.
_IGNORED = frozenset({"annotation", "returns", "kind", "ctx", "type_comment", "type_ignores", "type_params"})


def syntax_hash(source: bytes) -> str:
    """SHA-256 of a module's syntax tree without comments, layout, docstrings, annotations and error messages.

    It is the same for every Python version that can parse the module. Text that cannot be parsed is hashed unchanged.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest()
    found: list[str] = []
    _add_tokens(tree, found, in_raise=False)
    return hashlib.sha256("\0".join(found).encode("utf-8", "surrogatepass")).hexdigest()


def _add_tokens(node: ast.AST, found: list[str], *, in_raise: bool) -> None:
    """Append the names of the nodes and fields, and the constants, in the order of the tree."""
    in_raise = in_raise or isinstance(node, ast.Raise)
    if in_raise and _is_text(node):
        found.append("text")
        return
    found.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == [] or name in _IGNORED:
            continue
        found.append(name)
        items = value if isinstance(value, list) else [value]
        for item in _without_docstring(node, items) if name == "body" else items:
            if isinstance(item, ast.AST):
                _add_tokens(item, found, in_raise=in_raise)
            else:
                found.append(repr(item))
    found.append("end")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _without_docstring(node: ast.AST, body: list[ast.AST]) -> list[ast.AST]:
    """The statements of a module, class or function after its docstring."""
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not body:
        return body
    first = body[0]
    return body[1:] if isinstance(first, ast.Expr) and _is_text(first.value) else body
