"""`best.yaml`: the overrides of the winning variant as an experiment, `rlx train --config-dir SWEEP experiment=best`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from rlx.record.command import search_path
from rlx.record.files import write_atomic
from rlx.report.text import count
from rlx.sweep.state import SCORE

_HEAD = """\
# @package _global_
# The best variant of the sweep in {place}: {variant}, {score} over {seeds}.
#     {command}
"""


def write_best(
    directory: Path, best: dict[str, Any], *, place: str, command: Sequence[str], is_group: Callable[[str], bool]
) -> Path:
    """Write best.yaml, and again as experiment/best.yaml, where --config-dir finds it.

    command: of the sweep, which may name folders of configs. is_group: whether a key chooses a file.
    """
    name = best.get("objective", SCORE)
    score = f"{'score' if name == SCORE else name} {best['score']:.6g}"
    folders = search_path(command)
    usage = shlex.join(["rlx", "train", "--config-dir", place, *filter(None, [folders]), "experiment=best"])
    head = _HEAD.format(
        command=usage, place=place, variant=best["variant"], score=score, seeds=count(len(best["scores"]), "seed")
    )
    text = head + yaml.safe_dump(experiment_of(best["overrides"], is_group), sort_keys=False, allow_unicode=True, width=10_000)
    experiment = directory / "experiment" / "best.yaml"
    experiment.parent.mkdir(exist_ok=True)
    write_atomic(experiment, text)
    write_atomic(directory / "best.yaml", text)
    return experiment


def experiment_of(overrides: Sequence[str], is_group: Callable[[str], bool]) -> dict[str, Any]:
    """Overrides as the content of a YAML file: choices in its defaults list, values below."""
    added: list[Any] = []
    replaced: list[Any] = []
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = str(override.key_or_group)
        if override.package is None and not is_group(key):
            _put(values, key.split("."), _value(override))
        elif key == "experiment":
            added.insert(0, _value(override))  # a file beside this one
        else:
            package = f"@{override.package}" if override.package is not None else ""
            choices, word = (added, "") if override.is_add() else (replaced, "override ")
            choices.append({f"{word}/{key}{package}": _value(override)})
    return {"defaults": [*added, *replaced], **values} if added or replaced else values  # Hydra wants them in this order


def _value(override: Override) -> Any:
    value = override.value()
    return value.text if isinstance(value, QuotedString) else value


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value
