"""Why does nothing learn? What the metrics of a run show, one line a finding, with the number and what to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

WINDOW = 20  # steps: a finding is about the last ones
FAR = 2.0  # nats a completion; runs that learn stay below it, or have a better score to show for it


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


@dataclass(frozen=True)
class Finding:
    """name: of what was found, and of the term of a mixture that it was found in. is_fault: something should be mended."""

    name: str
    words: str
    is_fault: bool = True


class View(Protocol):
    """What shows a run while it runs."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def warn(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class Watched:
    """A view that says each finding once, as soon as WINDOW steps show it."""

    view: View
    _recent: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _first: list[Mapping[str, Any]] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.view.step(step, metrics)
        self._recent.append(metrics)
        if len(self._recent) == WINDOW:
            found = diagnose([*self._first, *self._recent])
            tell(self.view, [finding for finding in found if finding.name not in self._said])
            self._said |= {finding.name for finding in found}

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.view.evaluated(step, metrics)
        self._first = self._first or [metrics]


def tell(view: View, findings: Iterable[Finding]) -> None:
    """Show findings, one line each."""
    for finding in findings:
        (view.warn if finding.is_fault else view.note)(finding.words)


def diagnose(lines: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Findings about a run from the lines of its metrics, the last WINDOW training steps and all evaluations.

    A term of a mixture is diagnosed for itself, and named.
    """
    recent = [line for line in lines if "train/loss" in line][-WINDOW:]
    found = []
    for term in terms_of(recent):
        own = _of_term(recent, term)
        said = [*_symptoms(own), *_dead_reward(own), *_zero_loss(own, alone=not term)]
        found += [
            replace(finding, name=f"{term}/{finding.name}", words=f"{term}: {finding.words}") if term else finding
            for finding in said
        ]
    return [*found, *_runaway(lines)]


def terms_of(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The terms that have figures of rollouts: "" for the algorithm itself, and "grpo" of a mixture that has it."""
    marks = ("/groups_without_signal", "/truncated_fraction", "/reward_std", "/ratio_mean", "/clip_fraction_low")
    keys = {key for line in lines for key in line if key.startswith("train/") and key.endswith(marks)}
    return sorted({key.removeprefix("train/").rpartition("/")[0] for key in keys})


def _of_term(lines: Iterable[Mapping[str, Any]], term: str) -> list[dict[str, float]]:
    """Name -> value of the training figures of one term, line by line."""
    start = f"train/{term}/" if term else "train/"
    named = [{key.removeprefix(start): value for key, value in line.items() if key.startswith(start)} for line in lines]
    return [{name: value for name, value in figures.items() if "/" not in name} for figures in named]


def mean_of(lines: Iterable[Mapping[str, float]], name: str) -> float | None:
    """The mean of a figure over the lines that have it, `<name>_low` and `<name>_high` added up. None if none has it."""
    names = (name, f"{name}_low", f"{name}_high")
    sums = [sum(line[part] for part in names if part in line) for line in lines if any(part in line for part in names)]
    return sum(sums) / len(sums) if sums else None


def _symptoms(own: Sequence[Mapping[str, float]]) -> Iterable[Finding]:
    for symptom in SYMPTOMS:
        value = mean_of(own, symptom.metric)
        if value is not None and symptom.shows(value):
            yield Finding(symptom.metric, symptom.words.format(value=value))


def _dead_reward(own: Sequence[Mapping[str, float]]) -> list[Finding]:
    spread, mean = mean_of(own, "reward_std"), mean_of(own, "reward_mean")
    if spread is None or mean is None or spread > 0:
        return []
    words = f"every completion has the reward {mean:g}: the reward tells nothing apart; look at completions with `rlx sample`"
    return [Finding("dead_reward", words)]


def _zero_loss(own: Sequence[Mapping[str, float]], *, alone: bool) -> list[Finding]:
    """Advantages of a group add up to zero, so that on policy a policy-gradient loss is 0 whatever its gradient."""
    name = "loss" if alone and not any("policy_loss" in line for line in own) else "policy_loss"
    losses = [line[name] for line in own if name in line]
    ratio, gradient = mean_of(own, "ratio_mean"), mean_of(own, "grad_norm")
    if ratio is None or not losses or max(map(abs, losses)) > 1e-3 or abs(ratio - 1) > 1e-3 or not gradient:
        return []
    words = (
        "the loss is 0 by construction: one on-policy update and advantages that add up to 0; its gradient is not, the norm is "
        f"{gradient:.2g}. Nothing to worry about, watch reward_mean"
    )
    return [Finding("zero_loss", words, is_fault=False)]


def _runaway(lines: Sequence[Mapping[str, Any]]) -> list[Finding]:
    evaluations = [line for line in lines if "eval/score" in line and "eval/kl" in line]
    if len(evaluations) < 2:
        return []
    first, last = evaluations[0], evaluations[-1]
    if last["eval/kl"] <= FAR or last["eval/score"] > first["eval/score"]:
        return []
    words = (
        f"the policy is {last['eval/kl']:.1f} nats a completion away from the reference and scores {last['eval/score']:.3f}, no "
        f"more than the {first['eval/score']:.3f} it began with: raise loss.beta, lower optimizer.lr, or look at the reward"
    )
    return [Finding("runaway", words)]
