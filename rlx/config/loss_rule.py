"""The rules of the group `loss`: it is optional by default, so a mistyped or unread one would vanish without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

_INTERPOLATION = re.compile(r"\$\{(\.*)([\w.]*)\}")


def check_loss(cfg: DictConfig, *, choices: Mapping[str, Any], options: Iterable[str], overrides: Iterable[str] = ()) -> None:
    """A chosen loss exists, and somebody reads it.

    choices: group -> the option chosen (Hydra's runtime.choices); options: the losses there are; overrides: the command line's.
    A loss that came along only because it bears the algorithm's name, and that nobody reads, is dropped.
    """
    chosen = choices.get("loss")
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    if raw.get("loss") is None:
        if chosen is not None and chosen != choices.get("algorithm"):
            hint = did_you_mean(nearest(str(chosen), options)) or "; rlx --help lists them"
            raise ConfigError(f"there is no loss {chosen}{hint}")
        return
    if not any(path == "loss" or path.startswith("loss.") for path in read_paths(raw)):
        if chosen == choices.get("algorithm") and not any(re.match(r"\+*loss[.=]", override) for override in overrides):
            cfg.loss = None
            return
        nested = list(nested_losses(raw.get("algorithm"), "algorithm"))
        algorithm = choices.get("algorithm")
        where = "it has no loss of its own"
        if nested:
            first = nested[0]
            where = f"its losses are {', '.join(nested)}: choose with loss@{first}={chosen}, set with {first}.beta=..."
        raise ConfigError(f"nobody reads loss={chosen} under algorithm={algorithm}; {where}")


def check_chosen(overrides: Iterable[str], options: Iterable[str]) -> None:
    """Refuse `loss=NAME` (or `loss=A,B` of a sweep) where there is no such loss, before anything is composed."""
    known = list(options)
    for override in overrides:
        key, _, value = override.partition("=")
        for name in value.split(",") if key == "loss" and re.fullmatch(r"[\w,-]+", value) else ():
            if name not in known and name != "null":
                raise ConfigError(f"there is no loss {name}{did_you_mean(nearest(name, known)) or '; rlx --help lists them'}")


def read_paths(raw: Any, path: str = "") -> Iterator[str]:
    """The absolute path that each ${interpolation} in an unresolved config leads to."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield from read_paths(value, f"{path}.{key}" if path else str(key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from read_paths(value, f"{path}.{index}")
    elif isinstance(raw, str):
        for dots, target in _INTERPOLATION.findall(raw):
            above = path.split(".")[: -len(dots)] if dots else []
            yield ".".join([*above, target]) if above else target


def nested_losses(raw: Any, path: str) -> Iterator[str]:
    """Paths below the algorithm whose node is a loss."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            below = f"{path}.{key}"
            if key == "loss" and isinstance(value, Mapping):
                yield below
            else:
                yield from nested_losses(value, below)
