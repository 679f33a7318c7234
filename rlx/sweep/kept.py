"""A sweep's copies of the user's modules, and their import: only these modules, and only from text with the known hash.

The folder of copies is never on the Python path, so nothing else in it is imported, not even bytecode.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from rlx.errors import ConfigError
from rlx.record.files import full_disk_explained, write_atomic
from rlx.record.sources import Source, imported_modules, is_users_module, syntax_hash

_FOLDER = "sources"


@dataclass(frozen=True)
class KeptModule:
    """A copy of a module. sha256: of its text. beside: for a package, the folder of the original with its other modules.

    code: the `rlx.record.sources.syntax_hash` of the text.
    """

    module: str
    file: str
    sha256: str
    beside: str | None = None
    code: str = ""

    @property
    def is_package(self) -> bool:
        """Whether the copy is the `__init__.py` of a package."""
        return Path(self.file).name == "__init__.py"


class _Loader(SourceFileLoader):
    """Compiles the text of a copy if it has the known hash, and reads no bytecode."""

    def __init__(self, kept: KeptModule) -> None:
        super().__init__(kept.module, kept.file)
        self._sha256 = kept.sha256

    def path_stats(self, path: Any) -> Mapping[str, Any]:
        raise OSError("bytecode beside a copy is not read")

    def get_data(self, path: Any) -> bytes:
        data = super().get_data(path)
        if hashlib.sha256(data).hexdigest() != self._sha256:
            raise ImportError(f"{path} was changed since the sweep copied it; put it back, or begin a new sweep")
        return data


class KeptFinder(MetaPathFinder):
    """Finds the modules that a sweep keeps copies of, before the Python path is searched."""

    def __init__(self, modules: Iterable[KeptModule]) -> None:
        self.modules = {kept.module: kept for kept in modules}
        self._above = {name[:dot] for name in self.modules for dot in _dots(name)} - set(self.modules)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        kept = self.modules.get(name)
        if kept is not None:
            folders = [kept.beside] if kept.beside is not None else []
            search = folders if kept.is_package else None
            return importlib.util.spec_from_file_location(
                name, kept.file, loader=_Loader(kept), submodule_search_locations=search
            )
        if (
            name in self._above and PathFinder.find_spec(name, path) is None
        ):  # a folder without an __init__.py that no longer exists
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = []
            return spec
        return None


def _dots(name: str) -> Iterator[int]:
    return (place for place, mark in enumerate(name) if mark == ".")


def serve_kept(modules: Iterable[KeptModule]) -> None:
    """From now on, import these modules from their copies; earlier imports of them are forgotten."""
    finder = KeptFinder(modules)
    sys.meta_path[:] = [finder, *(other for other in sys.meta_path if not isinstance(other, KeptFinder))]
    for name in finder.modules:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


@contextmanager
def served(modules: Iterable[KeptModule]) -> Iterator[None]:
    """A context in which these modules are imported from their copies, see `serve_kept`."""
    serve_kept(modules)
    try:
        yield
    finally:
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, KeptFinder)]


def keep_sources(directory: Path, files: Iterable[Source]) -> tuple[KeptModule, ...]:
    """Copy the user's modules into the sweep. Its jobs import the copies, so later edits do not affect them.

    Raises ConfigError if an earlier copy computes something different from the current module.
    """
    kept = []
    for source in {source.copy: source for source in files}.values():
        copy = directory / source.copy
        data = copy.read_bytes() if copy.is_file() else source.file.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if copy.is_file() and sha256 != source.sha256 and syntax_hash(data) != source.code:
            raise ConfigError(
                f"{copy} is not the code of {source.file}, which the sweep was planned with; put it back, or begin a new sweep"
            )
        if not copy.is_file():
            if sha256 != source.sha256:
                raise ConfigError(f"{source.file} was edited while the sweep was planned; start it again")
            with full_disk_explained(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(copy, data)
        beside = str(source.file.parent) if source.file.name == "__init__.py" else None
        kept.append(KeptModule(source.module, str(copy.absolute()), sha256, beside, source.code))
    return tuple(kept)


def kept_before(directory: Path, plan: Mapping[str, Any], names: Iterable[str]) -> tuple[KeptModule, ...]:
    """A sweep's copies of the modules with these dotted names, and of the modules that they import.

    plan: the content of its sweep.json, which lists the modules with their hashes. Nothing is imported. Raises ConfigError if a
    copy is missing or has another hash.
    """
    listed = {module: sha256 for module, sha256 in _listed(plan) if is_users_module(module)}
    waiting = [name.rpartition(".")[0] for name in names]
    kept: dict[str, KeptModule] = {}
    while waiting:
        name = waiting.pop()
        waiting += [name.rpartition(".")[0]] if "." in name else []
        if name not in listed or name in kept:
            continue
        path = directory / _FOLDER / Path(*name.split("."))
        file = next((place for place in (path / "__init__.py", path.with_suffix(".py")) if place.is_file()), None)
        data = b"" if file is None else file.read_bytes()
        if file is None or hashlib.sha256(data).hexdigest() != listed[name]:
            problem = "is gone" if file is None else "is not the one that sweep.json lists"
            raise ConfigError(f"the copy of {name} in {directory / _FOLDER} {problem}; put it back, or begin a new sweep")
        kept[name] = KeptModule(name, str(file.absolute()), listed[name])
        waiting += imported_modules(name, file)
    return tuple(kept.values())


def _listed(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for item in plan.get("sources", ()):
        module, sha256 = (item.get("module"), item.get("sha256")) if isinstance(item, Mapping) else (None, None)
        if isinstance(module, str) and isinstance(sha256, str) and all(part.isidentifier() for part in module.split(".")):
            yield module, sha256
