"""Why does nothing learn? What the metrics of a run show, one line a finding, with the number and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WINDOW = 20  # steps: a finding is about the last ones


@dataclass(frozen=True)
class Symptom:
    """A figure that is out of the ordinary. metric: its name without stage and term; words: with {value} in them."""

    metric: str
    shows: Callable[[float], bool]
    words: str


SYMPTOMS = (
    Symptom(
        "groups_without_signal",
        lambda share: share > 0.5,
        "{value:.0%} of the groups have no signal, all their rewards are equal: raise algorithm.group_size, draw other prompts "
        "by algorithm.resample_attempts=3, or take easier or harder prompts",
    ),
    Symptom(
        "truncated_fraction",
        lambda share: share > 0.3,
        "{value:.0%} of the completions are cut off before they end: raise task.max_new_tokens",
    ),
    Symptom(
        "clip_fraction",
        lambda share: share > 0.3,
        "{value:.0%} of the tokens are clipped and teach nothing: lower optimizer.lr or algorithm.updates_per_batch",
    ),
)


def diagnose(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Findings about a run from the lines of its metrics, the last WINDOW training steps and all evaluations."""
    recent = [line for line in lines if "train/loss" in line][-WINDOW:]
    findings = []
    for symptom in SYMPTOMS:
        value = mean_of_metric(recent, symptom.metric)
        if value is not None and symptom.shows(value):
            findings.append(symptom.words.format(value=value))
    return [*findings, *_dead_reward(recent), *_zero_loss(recent), *_runaway(lines)]


def mean_of_metric(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a training metric over lines, whatever term it belongs to, or None; parts `<name>_...` are added up."""
    found = [
        [value for key, value in line.items() if key.startswith("train/") and key.rpartition("/")[2].startswith(name)]
        for line in lines
    ]
    sums = [sum(values) for values in found if values]
    return sum(sums) / len(sums) if sums else None


def _dead_reward(recent: Sequence[Mapping[str, Any]]) -> list[str]:
    spread, mean = mean_of_metric(recent, "reward_std"), mean_of_metric(recent, "reward_mean")
    if spread is None or mean is None or spread > 0:
        return []
    return [f"every completion has the reward {mean:g}: the reward tells nothing apart; look at completions with `rlx sample`"]


def _zero_loss(recent: Sequence[Mapping[str, Any]]) -> list[str]:
    """Advantages of a group add up to zero, so that on policy a policy-gradient loss is 0 whatever its gradient."""
    ratio = mean_of_metric(recent, "ratio_mean")
    if ratio is None or not recent or any(abs(line["train/loss"]) > 1e-3 for line in recent) or abs(ratio - 1) > 1e-3:
        return []
    finding = (
        "the loss is 0 by construction: one on-policy update and advantages that add up to 0; its gradient is not. "
        "Nothing to worry about, watch train/reward_mean"
    )
    return [finding]


def _runaway(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    evaluations = [line for line in lines if "eval/score" in line and "eval/kl" in line]
    if len(evaluations) < 2:
        return []
    first, last = evaluations[0], evaluations[-1]
    if last["eval/kl"] <= 10 or last["eval/score"] > first["eval/score"]:
        return []
    finding = (
        f"the policy is {last['eval/kl']:.1f} nats a completion away from the reference and scores {last['eval/score']:.3f}, "
        f"no more than the {first['eval/score']:.3f} it began with: raise loss.beta or lower optimizer.lr"
    )
    return [finding]
