"""Which code a record may call again: classes whose files the user has unchanged. For others, it gives the command to type."""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.config.groups import RUN_GROUPS
from rlx.config.recorded import places_to_give
from rlx.config.targets import is_allowed, targets_of
from rlx.errors import ConfigError
from rlx.record.files import relative
from rlx.record.run import RunRecord
from rlx.record.sources import imported_modules, own_file, source_of


def trusted_targets(record: RunRecord) -> frozenset[str]:
    """The names in a record's config that may be called without being typed again."""
    found = {target for _, target in targets_of(dict(record.config)) if isinstance(target, str)}
    return trusted_names(found, record.sources, Path(record.directory))


def trusted_names(names: Iterable[str], sources: Iterable[Mapping[str, Any]], directory: Path) -> frozenset[str]:
    """Those of the names in a record that may be called without being typed again.

    sources: the user's own files with their hashes, as the record lists them. directory: the record's. A name is trusted if the
    user's own file that defines it computes the same as before: its hash, and those of the packages that contain it and of the
    user's files that it imports, equal those in the record. A file in the record's own directory belongs to the record, not to
    the user. Only packages whose hash is the recorded one are imported.
    """
    recorded = {
        str(source["module"]): source
        for source in sources
        if isinstance(source, Mapping) and isinstance(source.get("module"), str)
    }
    return frozenset(name for name in names if _is_trusted(name, recorded, directory.resolve()))


def _is_trusted(target: str, recorded: Mapping[str, Mapping[str, Any]], directory: Path) -> bool:
    names = [module for module in recorded if target.startswith(f"{module}.")]
    if not names or target.partition(".")[0] == "rlx":
        return False
    module = max(names, key=len)
    if not _is_recorded(module, recorded, directory, set()):
        return False
    file = own_file(module)
    return file is not None and target.removeprefix(f"{module}.").partition(".")[0] in _defined(file)


def _is_recorded(module: str, recorded: Mapping[str, Mapping[str, Any]], run: Path, seen: set[str]) -> bool:
    """Whether a module, its parent packages and the user's files that it imports are as recorded; from the top package down."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        file = None if name in seen else own_file(name)
        if file is None:
            continue
        seen.add(name)
        if file.is_relative_to(run) or name not in recorded or not source_of(name, file).computes_as(recorded[name]):
            return False
        if not all(_is_recorded(other, recorded, run, seen) for other in imported_modules(name, file)):
            return False
    return True


def _defined(file: Path) -> set[str]:
    """The classes and functions that a file defines or imports at its top level."""
    found: set[str] = set()
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def require_named(record: RunRecord, allowed: Collection[str], verb: str) -> None:
    """Refuse a record that names classes which are neither rlx's, nor allowed, nor as recorded: with the command that names them.

    allowed: names or patterns that the command line allows, and the trusted ones. verb: resume or rerun. Raises ConfigError.
    """
    foreign = [target for _, target in _foreign(record, allowed)]
    if not foreign:
        return
    modules = tuple(f"{source.get('module')}." for source in record.sources)
    changed = [name for name in dict.fromkeys(foreign) if name.startswith(modules)]
    why = "whose code is missing or differs from the recorded code" if changed else "not part of rlx"
    named = command_for(record, verb, changed="code" if changed and verb == "resume" else "", allowed=allowed)
    raise ConfigError(f"the record names {', '.join(dict.fromkeys(foreign))}, {why}; if you trust it, name it again: {named}")


def command_for(record: RunRecord, verb: str = "resume", *, changed: str = "", allowed: Collection[str] | None = None) -> str:
    """The complete command that resumes or reruns a run, quoted for a shell.

    It includes the places to write in that a record alone may not decide, and the classes that it may not call by itself.
    changed: code or data, if a change of it has to be allowed. allowed: as in `require_named`.
    """
    named = trusted_targets(record) if allowed is None else allowed
    classes = [
        f"{path}={target}" if path in RUN_GROUPS else f"++{path}._target_={target}" for path, target in _foreign(record, named)
    ]
    places = [text for _, text in places_to_give(record.config, record.directory)]
    extra = [f"allow_changed=[{changed}]"] if changed else []
    return shlex.join(["rlx", "train", f"{verb}={relative(record.directory)}", *places, *classes, *extra])


def _foreign(record: RunRecord, allowed: Collection[str]) -> Iterator[tuple[str, str]]:
    for path, target in targets_of(dict(record.config)):
        if not is_allowed(str(target), allowed):
            yield path, str(target)


# The config folders in a recorded command. Standard library only.


_DIRECTORY = ("--config-dir", "-cd")
_SEARCH_PATH = "hydra.searchpath"
_KEY_ENDS = re.compile(r"[.=/@]")
_OF_ONE_RUN = ("seed", "resume", "rerun", "allow_changed", "ranks", "parallel", "hydra")
_CHECKED = ("algorithm", "loss", "task", "policy", "optimizer", "rollout")  # the overrides of a run that a check reads


def folder_words(command: Sequence[str]) -> list[str]:
    """The words of a command that name folders of configs, as typed."""
    words = []
    for word, after in zip(command, [*command[1:], ""], strict=False):
        key, equals, _ = word.partition("=")
        if key in (*_DIRECTORY, _SEARCH_PATH):
            words += [word] if equals else [word, after]
    return words


def words_again(record: RunRecord) -> list[str]:
    """The words after `rlx` that repeat a run with another seed: folders of configs, and the overrides of the run.

    What belongs to one run alone is left out. A resumed run has the number of steps that it was resumed with.
    """
    own = {*_OF_ONE_RUN, *(["num_steps"] if record.resumed else [])}
    kept = [override for override in record.overrides if _KEY_ENDS.split(override.lstrip("+~"))[0] not in own]
    steps = [f"num_steps={record.config['num_steps']}"] if record.resumed else []
    return [*folder_words(record.command), *kept, *steps]


def check_command(record: RunRecord) -> str:
    """The complete command that checks a run's algorithm with its loss on its task."""
    words = words_again(record)
    folders = folder_words(record.command)
    kept = [word for word in words[len(folders) :] if _KEY_ENDS.split(word.lstrip("+~"))[0] in _CHECKED]
    loss = record.config.get("loss")
    if any(word.startswith("experiment=") for word in words) and isinstance(loss, Mapping):
        kept = [f"loss={loss['_target_']}", *kept]  # a choice on the command line replaces it
    if not any(word.startswith("algorithm=") for word in kept):
        kept = [f"algorithm={record.algorithm}", *kept]
    return shlex.join(["rlx", "check", *folders, *kept])


def search_path(command: Sequence[str]) -> str | None:
    """The same folders as one override, `hydra.searchpath=[...]`, so that --config-dir stays free; None without any."""
    words = folder_words(command)
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        key, equals, value = word.partition("=")
        if key == _SEARCH_PATH:
            found += value.strip("[]").split(",")
        elif key in _DIRECTORY:
            found.append(f"file://{os.path.abspath(os.path.expanduser(value if equals else after))}")
    return f"{_SEARCH_PATH}=[{','.join(found)}]" if found else None
