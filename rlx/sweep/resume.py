"""`rlx -m resume=SWEEP`: the command of a sweep, read from its plan as data, followed by the overrides given now."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rlx.errors import ConfigError
from rlx.record.command import folder_words
from rlx.record.files import follow_latest
from rlx.sweep.directory import PLAN, read_plan

_OWN_CLASS = re.compile(r"[\"'\[,={: ]((?!rlx\.|torch\.optim\.)[A-Za-z_]\w*(?:\.\w+)*\.[A-Z]\w*)")
_FOLDERS = ("--config-dir", "-cd", "hydra.searchpath")


def sweep_to_resume(overrides: Sequence[str]) -> Path | None:
    """The directory that `resume=` names, if it is a sweep's."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "resume" and value not in ("", "null"):
            place = follow_latest(Path(value.strip("'\"")).expanduser())
            place = place.parent if place.name == PLAN else place
            if not (place / PLAN).exists():
                raise ConfigError(
                    f"resume={value}: no sweep is there (no {PLAN}); `rlx runs` lists those there are, "
                    "and a single run goes on without -m: rlx train resume=RUN"
                )
            return place.resolve()
    return None


def resumed_arguments(directory: Path, given: Sequence[str]) -> list[str]:
    """The arguments of the sweep's command, then those given now without `resume`, which replace equal keys.

    Raises ConfigError if the command names classes or folders of the user's own that are not named again.
    """
    plan = read_plan(directory)
    if plan is None:
        raise ConfigError(f"{directory / PLAN} cannot be read, so the sweep cannot go on; run its command again")
    command = [str(word) for word in plan.get("command", ())][1:]
    rest = [word for word in given if word.partition("=")[0] != "resume"]
    foreign = [name for name in own_names(command) if not any(name in word for word in rest)]
    if foreign:
        raise ConfigError(
            f"{directory / PLAN} names {', '.join(foreign)}, not of rlx's own; if you trust it, give its command again: "
            f"rlx {shlex.join(command)}"
        )
    kept = [word for word in command if not _is_replaced(word, rest)]
    return [*kept, *(word for word in rest if word not in ("-m", "--multirun", "train") and word not in kept)]


def resume_command(place: str, command: Sequence[str]) -> str:
    """What to type to resume a sweep.

    command: the sweep's. Classes and folders of the user's own that it names have to be named again.
    """
    classes = [word for word in command if _OWN_CLASS.search(word)]
    return shlex.join(["rlx", "-m", f"resume={place}", *folder_words(command), *classes])


def own_names(command: Sequence[str]) -> list[str]:
    """The classes in a command that are not rlx's, and folders of configs, which may name such classes."""
    found = [name for word in command for name in _OWN_CLASS.findall(word)]
    folders = [word for word in command if word.partition("=")[0] in _FOLDERS]
    return list(dict.fromkeys([*found, *folders]))


def _is_replaced(word: str, given: Sequence[str]) -> bool:
    key = word.partition("=")[0]
    return "=" in word and any(other.partition("=")[0] == key for other in given)
