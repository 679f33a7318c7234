"""The choices declared for a comparison before looking at its data. Defaults are in conf/compare.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from rlx.comparison.serializable import Serializable
from rlx.config.schema import conf_dir
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError
from rlx.fields import check_range, count, one_of, range_of, texts_of, within

FEWEST = 5  # below this many seeds a verdict is exploratory
ALLOWED = {
    "single": "one seed a variant",
    "tasks": "several tasks",
    "missing": "variants that did not run every task",
    "budget": "unequal budgets",
    "unfinished": "runs that are not finished",
    "damaged": "records that cannot be read",
}


@dataclass(frozen=True, kw_only=True)
class Choices(Serializable):
    """Declared choices; conf/compare.yaml explains each."""

    by: tuple[str, ...] | None
    baseline: str | None
    metric: str
    score: str = one_of(("last", "best"))
    paired: bool
    margin: float | None = within(above=0, optional=True, advice="it is the largest difference that does not matter")
    failed: str = one_of(("worst", "exclude"))
    allow: tuple[str, ...] = one_of(tuple(ALLOWED), each=True)
    level: float = within(at_least=0.5, below=1, advice="it is the share of repetitions that an interval covers")
    target: float = within()
    num_resamples: int = count(at_least=100, at_most=1_000_000)
    where: str | None
    prompts: str = one_of(("random", "fixed"), default="random")
    question: str = one_of(("mean", "chance"), default="mean")
    lower_is_better: bool | None = None
    at: str | None = None
    collapse: float | None = within(optional=True, default=None)

    def __post_init__(self) -> None:
        for item in fields(self):
            check_range(item.name, getattr(self, item.name), range_of(type(self), item.name))
        require_flag("paired", self.paired)
        if self.question == "chance" and (self.paired or self.margin is not None):
            raise ConfigError(
                "question=chance compares independent runs by which of them is better: it takes no margin and no pairs"
            )
        if self.lower_is_better is not None:
            require_flag("lower_is_better", self.lower_is_better)
        if self.at is not None:
            budget_of(self.at)

    @property
    def alpha(self) -> float:
        """The accepted probability of a false claim."""
        return 1 - self.level

    @property
    def is_lower_better(self) -> bool:
        """Whether a lower score is better, as the metric declares or the user says."""
        return is_lower_better(self.metric, declared=self.lower_is_better)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Choices:
        """Choices from the values of conf/compare.yaml; other keys are ignored, a single word becomes a list."""
        kept = {item.name: values[item.name] for item in fields(cls)}
        for name in ("by", "allow"):
            words = texts_of(name, kept[name])
            kept[name] = tuple(part.strip() for word in words for part in word.split(",") if part.strip())
        kept["by"] = kept["by"] or None
        if str(kept["metric"]).startswith("-"):
            if kept["lower_is_better"] is False:
                raise ConfigError(f"metric={kept['metric']} says that lower is better, lower_is_better=false that it is not")
            kept |= {"metric": str(kept["metric"])[1:], "lower_is_better": True}
        return cls(**kept)

    @classmethod
    def declared(cls, **changes: Any) -> Choices:
        """The defaults of conf/compare.yaml, replaced by the given values. Raises ConfigError for an unknown choice."""
        from rlx.config.compose import read_yaml

        known = cls.__dataclass_fields__
        for name in changes:
            if name not in known:
                raise ConfigError(
                    f"{name} is not a choice of a comparison{did_you_mean(nearest(name, known))}; there are {', '.join(known)}"
                )
        return cls.of({**{str(key): value for key, value in read_yaml(conf_dir() / "compare.yaml").items()}, **changes})


_BUDGET = re.compile(r"(tokens|seconds|steps):([0-9][0-9_.]*)([kKM]?)")


def budget_of(at: str) -> tuple[str, float]:
    """The unit and the amount of `at=tokens:200k`, `seconds:60` or `steps:100`."""
    found = _BUDGET.fullmatch(str(at).strip())
    try:
        amount = float(found[2]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[found[3]] if found else 0.0
    except ValueError:
        amount = 0.0
    if found is None or not amount > 0:
        raise ConfigError(f"at={at}: write a budget such as at=tokens:200k, at=seconds:60 or at=steps:100")
    return found[1], amount


def require_flag(key: str, value: Any) -> None:
    """Raise ConfigError for a value that is neither true nor false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={value}: it is true or false")


# The better direction of each metric: declared here for rlx's own metrics, and by the user for others.


HIGHER_IS_BETTER = (
    *(
        "eval/score",
        "eval/accuracy",
        "eval/pair_accuracy",
        "eval/reward",
        "eval/greedy_reward",
        "eval/reward/*",
        "eval/log_likelihood",
    ),
    *("eval/pass_at_*", "eval/log_ratio_margin", "train/reward_mean", "train/accuracy", "train/margin"),
)
LOWER_IS_BETTER = (
    *("eval/kl", "eval/loss", "eval/perplexity", "eval/truncated_fraction", "*_standard_error"),
    *("train/loss", "train/*_loss", "train/kl", "train/truncated_fraction", "cost/*", "time/*"),
)


SPENT = ("eval/kl", "train/kl", "cost/*", "time/*")
"""Metrics that every training adds to: the policy before it has the least, so these know neither a gain nor a collapse."""


def is_spent(metric: str) -> bool:
    """Whether the metric is a cost, which every training increases."""
    return any(fnmatchcase(metric, pattern) for pattern in SPENT)


def known_direction(metric: str) -> bool | None:
    """Whether a lower value of the metric is better; None if rlx does not know."""
    if any(fnmatchcase(metric, pattern) for pattern in LOWER_IS_BETTER):
        return True
    return False if any(fnmatchcase(metric, pattern) for pattern in HIGHER_IS_BETTER) else None


def is_lower_better(metric: str, *, declared: bool | None = None) -> bool:
    """Whether a lower value of the metric is better. declared: by the user (`lower_is_better=`, or `metric=-eval/kl`).

    Raises ConfigError for a metric without a direction, such as a length or an entropy, that the user has not declared.
    """
    known = known_direction(metric) if declared is None else declared
    if known is not None:
        return known
    raise ConfigError(
        f"metric={metric}: rlx does not know whether more of it is better; say lower_is_better=true (or metric=-{metric}), "
        "or lower_is_better=false"
    )
