"""Avoids repeating work: resumes sweeps, and reuses runs that were completed elsewhere.

`rlx -m resume=SWEEP` runs the command of a sweep, read from its plan as data, followed by the words given now.

Anything outside rlx that the plan names is refused unless the user's words name it too: folders of configs, what Hydra itself
would call or write, and classes and functions, except those whose code the user has unchanged (`rlx.record.trust`).
"""

from __future__ import annotations

import datetime
import re
import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.config.compose import dotted_names
from rlx.config.groups import GROUPS
from rlx.config.targets import is_allowed, loaders_in
from rlx.errors import ConfigError, DataError
from rlx.record.directory import require_own_files
from rlx.record.files import follow_latest, write_atomic
from rlx.record.provenance import code_hash
from rlx.record.run import PLAN, RunRecord, find_run_directories, read_plan, read_run
from rlx.record.trust import folder_words, trusted_names
from rlx.sweep.state import COMPLETED, ENDED, SweepState

_MULTIRUN = ("-m", "--multirun")
# The Hydra keys that a recorded command may set: the sweep's place, and one of the installed launchers.
_HYDRA = re.compile(r"hydra\.sweep\.dir=.*|hydra/launcher=\w+", re.DOTALL)


@dataclass(frozen=True)
class ResumedCommand:
    """The arguments of a resumed sweep.

    recorded: those that come only from its plan. trusted: names in them that may be called. plan: the content of sweep.json.
    """

    arguments: tuple[str, ...]
    recorded: frozenset[str]
    trusted: frozenset[str]
    plan: Mapping[str, Any]


def sweep_to_resume(overrides: Sequence[str]) -> Path | None:
    """The directory that `resume=` names. Raises ConfigError if it does not hold a sweep."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "resume" and value == "auto":
            raise ConfigError("a sweep resumes by itself when its command is given again; leave out resume=auto, or leave out -m")
        if key == "resume" and value not in ("", "null"):
            place = follow_latest(Path(value.strip("'\"")).expanduser())
            place = place.parent if place.name == PLAN else place
            if not (place / PLAN).exists():
                raise ConfigError(
                    f"resume={value}: there is no sweep (no {PLAN}); `rlx runs` lists those there are, "
                    "and a single run is resumed without -m: rlx train resume=RUN"
                )
            return place.resolve()
    return None


def resumed_command(directory: Path, given: Sequence[str]) -> ResumedCommand:
    """The arguments of the sweep's command, then those given now without `resume`, which replace equal keys.

    Raises ConfigError if the plan has no sweep command, if the command names code that is not named again, or if the directory
    contains a link that leads out of it.
    """
    require_own_files(directory)
    plan = read_plan(directory)
    if plan is None:
        raise ConfigError(f"{directory / PLAN} cannot be read, so the sweep cannot be resumed; run its command again")
    command = _command_of(plan, directory / PLAN)
    rest = [word for word in given if word.partition("=")[0] != "resume"]
    trusted = trusted_in(plan, directory)
    left = [word for word in words_to_repeat(command, trusted) if word not in rest and not _is_replaced(word, rest)]
    if left:
        raise ConfigError(
            f"{directory / PLAN} says {shlex.join(left)}, which is neither part of rlx nor unchanged code of yours; "
            f"if you trust it, give it again: {resume_command(str(directory), plan, trusted)}"
        )
    kept = [word for word in command if not _is_replaced(word, rest)]
    new = [word for word in rest if word not in (*_MULTIRUN, "train") and word not in kept]
    return ResumedCommand((*kept, *new), frozenset(kept) - set(rest), trusted, plan)


def _command_of(plan: Mapping[str, Any], file: Path) -> list[str]:
    """The words after `rlx` of the command in a plan."""
    words = plan.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or words[:1] != ["rlx"]:
        raise ConfigError(f"{file} holds no command, so the sweep cannot be resumed; run its command again")
    command = words[1:]
    folders = folder_words(command)
    strange = [word for word in command if "=" not in word and word not in (*_MULTIRUN, "train", *folders) and word[:1] != "~"]
    strange += [word for word in command if word.startswith("-") and word not in (*_MULTIRUN, *folders)]
    strange += [word for word in command if word.lstrip("+~").partition("=")[0] in ("resume", "rerun")]
    if strange or not set(_MULTIRUN) & set(command):
        problem = f"has {strange[0]!r} in its command" if strange else f"holds a command without {_MULTIRUN[0]}"
        raise ConfigError(f"{file} {problem}, which is not a command of a sweep: rlx {shlex.join(command)}")
    return command


def trusted_in(plan: Mapping[str, Any], directory: Path) -> frozenset[str]:
    """The names in a plan's command that may be called without being typed again."""
    names = {name for word in plan["command"] for name in (*dotted_names(word.partition("=")[2]), *loaders_in(word))}
    listed = [source for source in plan.get("sources", ()) if isinstance(source, Mapping)]
    return trusted_names(names, listed, directory)


def words_to_repeat(command: Sequence[str], trusted: Collection[str] = ()) -> list[str]:
    """The words of a command that name untrusted things outside rlx: folders, classes and functions, Hydra's internals."""
    folders = folder_words(command)
    return [word for word in command if word in folders or _names_own_class(word, trusted) or _is_hydras(word)]


def resume_command(place: str, plan: Mapping[str, Any], trusted: Collection[str] = (), *further: str) -> str:
    """The command that resumes a sweep, with the words that must be given again. further: additional overrides."""
    return shlex.join(["rlx", "-m", f"resume={place}", *words_to_repeat(plan["command"][1:], trusted), *further])


def _names_own_class(word: str, trusted: Collection[str]) -> bool:
    key, equals, value = word.lstrip("+~").partition("=")
    chooses = bool(equals) and ("/" in key or key.partition("@")[0] in GROUPS)
    names = [*loaders_in(word), *(dotted_names(value) if chooses or "_target_" in word else ())]
    return any(not is_allowed(name, trusted) for name in names)


def _is_hydras(word: str) -> bool:
    return bool(re.match(r"[+~]*hydra[./@=]", word)) and not _HYDRA.fullmatch(word)


def _is_replaced(word: str, given: Sequence[str]) -> bool:
    key = word.partition("=")[0]
    return "=" in word and any(other.partition("=")[0] == key for other in given)


# Runs completed elsewhere with the same config, sources and code: their records are copied instead of running them again.


# run.json comes last: with it the copy counts as a run
_EVIDENCE = ("config.yaml", "metrics.jsonl", "samples.jsonl", "answers.jsonl", "completions.jsonl")


def take_over_completed(state: SweepState, shelf: Path) -> None:
    """Give every waiting job the record of a completed run with its config hash, if there is one below `shelf`."""
    wanted = {job.config_hash: job for job in state.jobs.values() if job.state not in ENDED}
    if not wanted or not shelf.is_dir():
        return
    for directory in find_run_directories(shelf):
        try:
            record = read_run(directory)
        except DataError:
            continue
        job = wanted.get(record.config_hash)
        if job is None or not _is_usable(record):
            continue
        place = state.directory / job.name
        if (place / "run.json").exists() or place.resolve() == directory.resolve():
            continue
        copy_record(directory, place)
        job.end(COMPLETED, figures=dict(record.result.performance_metrics) if record.result else None)
        job.reused_from = str(directory)
        del wanted[record.config_hash]
    state.write(force=True)


def _is_usable(record: RunRecord) -> bool:
    is_whole = record.status == COMPLETED and record.result is not None
    return is_whole and record.provenance.get("rlx", {}).get("code") == code_hash() and not _has_newer_files(record)


def _has_newer_files(record: RunRecord) -> bool:
    """Whether a file of the task or the policy was written after the run; its content is not part of the config's hash."""
    nodes = [value for key in ("task", "policy") if isinstance(value := record.config.get(key), Mapping)]
    try:
        begun = datetime.datetime.fromisoformat(record.started).timestamp()
        named = [Path(value).expanduser() for node in nodes for value in node.values() if isinstance(value, str)]
        files = [file for path in named for file in ((path, *path.iterdir()) if path.is_dir() else (path,))]
        return any(file.exists() and file.stat().st_mtime > begun for file in files)
    except (OSError, ValueError, RuntimeError):  # unknown: a damaged record, or a folder without read permission
        return True


def copy_record(source: Path, place: Path) -> None:
    """Copy a run's record and metrics, but not its checkpoints."""
    place.mkdir(parents=True, exist_ok=True)
    for name in _EVIDENCE:
        if (source / name).exists():
            shutil.copy2(source / name, place / name)
    write_atomic(place / "run.json", (source / "run.json").read_bytes())
