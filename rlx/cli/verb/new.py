"""Writes the first version of an algorithm, a loss, an advantage or a reward, with its YAML and its test."""

from __future__ import annotations

import keyword
import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from rlx.config.groups import GROUPS
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

if TYPE_CHECKING:
    from rlx.config.compose import Composed

WORDS = "words"
TEMPLATES = Path(__file__).parent / "template"
# what can be written: the groups that have a template
FOLDER = {
    group.leaf: group.name
    for group in sorted(GROUPS.values(), key=lambda group: group.name)
    if (TEMPLATES / f"{group.leaf}.py.txt").is_file()
}
KINDS: dict[str, tuple[str, ...]] = {"algorithm": ("pairs", "rollouts")}  # what it learns from; the first is the default
NEXT = {
    "algorithm": ("rlx check algorithm={name}.{kind}", "rlx train algorithm={name}.{kind}"),
    "loss": ("rlx check loss={name}.{name}", "rlx train loss={name}.{name} loss.beta=0.3"),
    "advantage": (
        "rlx check algorithm=custom_grpo algorithm/advantage={name}.{name}",
        "rlx train algorithm=custom_grpo algorithm/advantage={name}.{name} algorithm.advantage.power=0.3",
    ),
    "reward": (
        "rlx check algorithm=custom_grpo 'task/reward=[{name}.{kind}]'",
        "rlx train algorithm=custom_grpo 'task/reward=[exact_match,{name}.{kind}]'",
    ),
}


@dataclass
class NewConfig:
    """The keys of rlx new."""

    words: Any = MISSING
    kind: str | None = MISSING
    out: str = MISSING
    force: bool = MISSING


SCHEMA = NewConfig
NO_SWEEP = "one thing is written at a time"


def run(composed: Composed) -> int:
    """Write the files and print the next commands; returns the exit code."""
    cfg = composed.config
    what, name = asked_for([str(word) for word in cfg.words])
    files = texts(what, name, kind=template_kind(what, cfg.kind))
    out = Path(cfg.out).expanduser()
    there = [str(out / file) for file in files if os.path.exists(out / file)]
    if there and not cfg.force:
        raise ConfigError(f"{there[0]} exists already; choose another name, or force=true to replace it")
    for file, text in files.items():
        place = out / file
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"out={cfg.out}: {place} cannot be written: {error.strerror}") from error
        print(f"wrote {place}")
    folder = "" if out.resolve() == Path.cwd() else f"cd {out} && "
    test = f"python -m pytest test_{name}.py"
    if find_spec("pytest") is None:
        test = f"python -m pip install pytest && {test}"
    for command in (*NEXT[what], test):
        print(f"  {folder}{command.format(name=name, kind=class_name(name))}")
    return 0


def asked_for(words: list[str]) -> tuple[str, str]:
    """(what to write, its name) from the words after the verb. Raises ConfigError if they cannot be used."""
    if not words or words[0] not in FOLDER:
        near = did_you_mean(nearest(words[0], FOLDER)) if words else ""
        said = f"rlx new {words[0]}: " if words else "rlx new: "
        raise ConfigError(f"{said}it is one of {', '.join(FOLDER)}, then a name: rlx new algorithm my_idea{near}")
    if len(words) != 2:
        raise ConfigError(f"rlx new {words[0]} takes one name, such as my_idea; it got {' '.join(words[1:]) or 'none'}")
    what, name = words
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        better = re.sub(r"\W+|(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("_").lower()
        better = f"my_{better}" if better in sys.stdlib_module_names or keyword.iskeyword(better) else better
        hint = did_you_mean(better) if re.fullmatch(r"[a-z][a-z0-9_]*", better) else ""
        raise ConfigError(f"rlx new {what} {name}: a name is that of a Python module, lower-case words joined by _{hint}")
    if name in sys.stdlib_module_names or is_installed(name):
        raise ConfigError(f"rlx new {what} {name}: there is a module {name} already, which yours would hide; try my_{name}")
    return what, name


def is_installed(name: str) -> bool:
    """Whether a module outside the current folder has this name."""
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        return False
    return found is not None and (found.origin is None or Path(found.origin).resolve().parent != Path.cwd())


def class_name(name: str) -> str:
    """A name as a class name: my_idea gives MyIdea."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def template_kind(what: str, kind: str | None) -> str:
    """The requested kind of template: one of KINDS, or empty if there is only one. Raises ConfigError."""
    kinds = KINDS.get(what, ())
    if kind is None:
        return ""
    if kind not in kinds:
        there = f"it is one of {', '.join(kinds)}" if kinds else "leave it out"
        raise ConfigError(f"kind={kind}: {there}{did_you_mean(nearest(kind, kinds))}")
    return "" if kind == kinds[0] else kind


def texts(what: str, name: str, *, kind: str = "") -> dict[str, str]:
    """File -> text: the module, its YAML and its test. kind: as `template_kind` gives it."""
    start = f"{what}_{kind}" if kind else what
    files = {
        f"{name}.py": f"{start}.py.txt",
        f"conf/{FOLDER[what]}/{name}.yaml": f"{start}.yaml.txt",
        f"test_{name}.py": f"{start}_test.py.txt",
    }
    return {file: _filled((TEMPLATES / template).read_text(encoding="utf-8"), name) for file, template in files.items()}


def _filled(text: str, name: str) -> str:
    return re.sub(r"\bNAME\b", name, re.sub(r"\bCLASS\b", class_name(name), text))
