"""Which way each metric is better: declared here once for the metrics that rlx measures, by the user for any other."""

from __future__ import annotations

from fnmatch import fnmatchcase

from rlx.errors import ConfigError

HIGHER_IS_BETTER = (
    *("eval/score", "eval/accuracy", "eval/pair_accuracy", "eval/reward", "eval/greedy_reward", "eval/reward/*"),
    *("eval/pass_at_*", "eval/log_ratio_margin", "train/reward_mean", "train/accuracy", "train/margin"),
)
LOWER_IS_BETTER = (
    *("eval/kl", "eval/loss", "eval/perplexity", "eval/truncated_fraction", "*_standard_error"),
    *("train/loss", "train/*_loss", "train/kl", "train/truncated_fraction", "cost/*", "time/*"),
)


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
