"""The rules of choosing an option of a group, checked before Hydra composes: it would answer in words of its own insides."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

_SEVERAL = ("logger",)  # groups of which several options are chosen at once
_OPTIONAL = {"loss": "the algorithm's own", "experiment": "none"}  # what there is without one
_NOTHING = ("", "null", "none", "false")


def check_choices(overrides: Iterable[str], known: Mapping[str, Sequence[str]], *, multirun: bool) -> None:
    """Refuse `group=` that names no option, or several where one is chosen. known: group -> its options."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key in known and "/" not in key:
            _check_choice(key, value.strip(), known[key], multirun=multirun)


def _check_choice(group: str, value: str, options: Sequence[str], *, multirun: bool) -> None:
    if value.lower() in _NOTHING and value not in options:
        _refuse_nothing(group, value, options)
    elif value.startswith("[") and group not in _SEVERAL:
        first = value.strip("[]").partition(",")[0].strip()
        raise ConfigError(f"{group}={value} is a list, and one {group} is chosen: {group}={first or 'NAME'}")
    elif "," in value and not multirun and group not in _SEVERAL:
        for name in value.split(",") if value.replace(",", "").isidentifier() else ():
            if name not in options:
                raise ConfigError(f"there is no {group} {name}{did_you_mean(nearest(name, options))}")
        raise ConfigError(f"{group}={value} is several: one {group} is chosen, or add -m to sweep over them")
    else:
        _check_file(group, value, options)


def _refuse_nothing(group: str, value: str, options: Sequence[str]) -> None:
    if group in _SEVERAL:
        raise ConfigError(f"{group}={value}: for no {group} at all write {group}=[]; else it is any of {', '.join(options)}")
    if group in _OPTIONAL:
        raise ConfigError(
            f"{group}={value} chooses nothing; leave it out for {_OPTIONAL[group]}, or choose one (rlx --help lists them)"
        )
    raise ConfigError(f"{group}={value} chooses nothing; it is one of {', '.join(options)}")


def _check_file(group: str, value: str, options: Sequence[str]) -> None:
    """A file or module of the user's own, where a class in it is meant."""
    file = Path(value if value.endswith(".py") else f"{value}.py")
    if value in options or not (value.endswith(".py") or (value.isidentifier() and file.is_file())):
        return
    if not file.is_file():
        raise ConfigError(f"{group}={value}: there is no such file; one's own {group} is a class: {group}={file.stem}.CLASS")
    try:
        names = [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{group}={value}: {file} cannot be read as Python: {error}") from error
    example = f"{file.stem}.{names[-1] if names else 'CLASS'}"
    where = "" if file.parent == Path() else f", with {file.parent} on the Python path (PYTHONPATH)"
    raise ConfigError(f"{group}={value} is a file, and a class in it is chosen: {group}={example}{where}")
