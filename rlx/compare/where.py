"""`where`: which of the runs count, by conditions on their records and configs: 'task=arithmetic, seed<5, lr>=1e-4'."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from rlx.compare.scores import RunScore
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

_CONDITION = re.compile(r"^\s*([\w.]+)\s*(!=|<=|>=|==|=|<|>)\s*(.*?)\s*$", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


def keep(runs: Sequence[RunScore], where: str | None) -> list[RunScore]:
    """The runs that meet every condition; conditions are separated by commas or `and`."""
    kept = list(runs)
    for text in re.split(r",|\band\b", where) if where else []:
        found = _CONDITION.match(text)
        if found is None:
            raise ConfigError(f"where={where}: {text.strip()!r} is no condition; write task=arithmetic, seed<5 or lr!=0.1")
        key, sign, wanted = found.groups()
        kept = [run for run in kept if _meets(_value(run, key, runs), sign, wanted)]
    return kept


def _value(run: RunScore, key: str, runs: Sequence[RunScore]) -> Any:
    facts = {
        **run.config,
        **{name: getattr(run.record, name) for name in ("algorithm", "task", "variant", "seed", "status", "id")},
        "score": run.score,
        "state": run.state,
    }
    if key in facts:
        return facts[key]
    found = [name for name in facts if name.endswith("." + key)]
    if not found:
        known = {name for other in runs for name in other.config} | set(facts)
        elsewhere = [name for name in known if name == key or name.endswith("." + key)]
        if elsewhere:
            return None
        raise ConfigError(f"where: no run has a key {key}{did_you_mean(nearest(key, known))}")
    return facts[min(found, key=lambda name: (name.count("."), name))]


def _meets(value: Any, sign: str, wanted: str) -> bool:
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    left, right = _as_number(text), _as_number(wanted)
    both = left is not None and right is not None
    if sign in _ORDER:
        return both and _ORDER[sign](left, right)
    equal = left == right if both else text == wanted.strip("'\"")
    return equal is (sign != "!=")


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
