"""What is declared about a comparison before its data are looked at. The values stand in conf/compare.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rlx.comparison.serializable import Serializable
from rlx.errors import ConfigError

ALLOWED = {
    "single": "one seed a variant",
    "tasks": "several tasks",
    "missing": "variants that did not run every task",
    "budget": "unequal budgets",
    "unfinished": "runs that are not finished",
    "damaged": "records that cannot be read",
}


@dataclass(frozen=True)
class Choices(Serializable):
    """Declared choices; conf/compare.yaml says what each does."""

    by: tuple[str, ...] | None
    baseline: str | None
    metric: str
    score: str
    paired: bool
    margin: float | None
    failed: str
    allow: tuple[str, ...]
    level: float
    target: float
    num_resamples: int
    where: str | None

    def __post_init__(self) -> None:
        for name in ("level", "target", "num_resamples", *(("margin",) if self.margin is not None else ())):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"{name}={value}: it is a number")
        require_flag("paired", self.paired)
        require_one_of("score", self.score, ("last", "best"))
        require_one_of("failed", self.failed, ("worst", "exclude"))
        for name in self.allow:
            require_one_of("allow", name, tuple(ALLOWED))
        if not 0.5 <= self.level < 1:
            raise ConfigError(f"level is {self.level}; it is the share of repetitions that an interval covers, 0.5 to below 1")
        if self.margin is not None and not self.margin > 0:
            raise ConfigError(f"margin is {self.margin}; it is the largest difference that does not matter, above 0 (or null)")
        if self.num_resamples < 100 or self.num_resamples != int(self.num_resamples):
            raise ConfigError(f"num_resamples is {self.num_resamples}; it is a whole number of 100 or more")

    @property
    def alpha(self) -> float:
        """The chance of a false claim that is accepted."""
        return 1 - self.level

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Choices:
        """Choices out of the values of conf/compare.yaml; other keys are left out, a single word serves as a list."""
        kept = {item.name: values[item.name] for item in fields(cls)}
        kept["by"] = _words(kept["by"]) or None
        kept["allow"] = _words(kept["allow"])
        return cls(**kept)


def require_flag(key: str, value: Any) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={value}: it is true or false")


def require_one_of(key: str, value: Any, options: tuple[str, ...]) -> None:
    """Refuses a value that is not among the options, naming the nearest one."""
    if value not in options:
        from rlx.config.suggest import did_you_mean, nearest

        raise ConfigError(f"{key}={value}: it is one of {', '.join(options)}{did_you_mean(nearest(str(value), options))}")


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    if isinstance(value, Sequence):
        return tuple(str(word) for word in value)
    raise ConfigError(f"{value!r} is no name and no list of names")
