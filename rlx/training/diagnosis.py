"""Diagnoses of a run that does not learn, from its metrics: one line each, with the value and what to change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

WINDOW = 20  # steps: a diagnosis covers the last ones
CLIPPED = 1e4  # ratio of the gradient norm before clipping to that after
FAR = 2.0  # nats per completion; runs that learn stay below it, or have a better score


@dataclass(frozen=True)
class Symptom:
    """A metric with an unusual value. metric: its name without stage and term; words: the message, containing {value}."""

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
        "{value:.0%} of the tokens are clipped and have no effect: lower optimizer.lr or algorithm.updates_per_batch",
    ),
)


@dataclass(frozen=True)
class Diagnosis:
    """A line for the user. name: the symptom, with its term in a mixture; is_fault: whether something should be changed."""

    name: str
    words: str
    is_fault: bool = True


class TrainingView(Protocol):
    """Shows a run during training."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def warn(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class Watched:
    """A view that also shows each diagnosis once, as soon as WINDOW steps support it.

    first_step: called after the first step with its metrics; returns (name, sentence) for each problem.
    """

    view: TrainingView
    first_step: Callable[[Mapping[str, float]], Iterable[tuple[str, str]]] | None = None
    _recent: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _first: list[Mapping[str, Any]] = field(default_factory=list)
    _shown: set[str] = field(default_factory=set)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.view.step(step, metrics)
        ask, self.first_step = self.first_step, None
        if ask is not None:
            show_diagnoses(self.view, [Diagnosis(name, words) for name, words in ask(metrics)])
        self._recent.append(metrics)
        if len(self._recent) == WINDOW:
            found = diagnose([*self._first, *self._recent])
            show_diagnoses(self.view, [diagnosis for diagnosis in found if diagnosis.name not in self._shown])
            self._shown |= {diagnosis.name for diagnosis in found}

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.view.evaluated(step, metrics)
        self._first = self._first or [metrics]


def show_diagnoses(view: TrainingView, diagnoses: Iterable[Diagnosis]) -> None:
    """Show the diagnoses, one line each."""
    for diagnosis in diagnoses:
        (view.warn if diagnosis.is_fault else view.note)(diagnosis.words)


def diagnose(lines: Sequence[Mapping[str, Any]]) -> list[Diagnosis]:
    """Diagnose a run from its metrics lines: the last WINDOW training steps and all evaluations.

    The terms of a mixture are diagnosed separately and named.
    """
    recent = [line for line in lines if "train/loss" in line][-WINDOW:]
    found = []
    for term in terms_of(recent):
        own = _of_term(recent, term)
        of_term = [*_symptoms(own), *_dead_reward(own), *_zero_loss(own, alone=not term)]
        found += [
            replace(diagnosis, name=f"{term}/{diagnosis.name}", words=f"{term}: {diagnosis.words.replace('algorithm.', 'its ')}")
            if term
            else diagnosis
            for diagnosis in of_term
        ]
    has_reason = any(diagnosis.name.endswith(("groups_without_signal", "dead_reward")) for diagnosis in found)
    return [*found, *_gradients(recent, has_reason=has_reason), *_runaway(lines)]


def terms_of(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The terms with rollout metrics: "" for the algorithm itself, or e.g. "grpo" in a mixture."""
    marks = ("/groups_without_signal", "/truncated_fraction", "/reward_std", "/ratio_mean", "/clip_fraction_low")
    keys = {key for line in lines for key in line if key.startswith("train/") and key.endswith(marks)}
    return sorted({key.removeprefix("train/").rpartition("/")[0] for key in keys})


def _of_term(lines: Iterable[Mapping[str, Any]], term: str) -> list[dict[str, float]]:
    """Name -> value of the training metrics of one term, line by line."""
    start = f"train/{term}/" if term else "train/"
    named = [{key.removeprefix(start): value for key, value in line.items() if key.startswith(start)} for line in lines]
    return [{name: value for name, value in figures.items() if "/" not in name} for figures in named]


def mean_figure(lines: Iterable[Mapping[str, float]], name: str) -> float | None:
    """The mean of a metric over the lines that have it, with `<name>_low` and `<name>_high` summed. None if no line has it."""
    names = (name, f"{name}_low", f"{name}_high")
    sums = [sum(line[part] for part in names if part in line) for line in lines if any(part in line for part in names)]
    return sum(sums) / len(sums) if sums else None


def _symptoms(own: Sequence[Mapping[str, float]]) -> Iterable[Diagnosis]:
    for symptom in SYMPTOMS:
        value = mean_figure(own, symptom.metric)
        if value is not None and symptom.shows(value):
            yield Diagnosis(symptom.metric, symptom.words.format(value=value))


def _dead_reward(own: Sequence[Mapping[str, float]]) -> list[Diagnosis]:
    spread, mean = mean_figure(own, "reward_std"), mean_figure(own, "reward_mean")
    if spread is None or mean is None or spread > 0:
        return []
    words = (
        f"every completion has the reward {mean:g}, so that nothing can be learned from it; look at completions with `rlx sample`"
    )
    return [Diagnosis("dead_reward", words)]


def _zero_loss(own: Sequence[Mapping[str, float]], *, alone: bool) -> list[Diagnosis]:
    """Explain a zero loss: a group's advantages sum to zero, so an on-policy policy-gradient loss is 0 whatever its gradient."""
    name = "loss" if alone and not any("policy_loss" in line for line in own) else "policy_loss"
    losses = [line[name] for line in own if name in line]
    ratio, gradient = mean_figure(own, "ratio_mean"), mean_figure(own, "grad_norm")
    if ratio is None or not losses or max(map(abs, losses)) > 1e-3 or abs(ratio - 1) > 1e-3 or not gradient:
        return []
    words = (
        "the loss is 0 by construction: one on-policy update and advantages that add up to 0; its gradient is not 0, the norm is "
        f"{gradient:.2g}. This is as it should be; watch reward_mean"
    )
    return [Diagnosis("zero_loss", words, is_fault=False)]


def _gradients(recent: Sequence[Mapping[str, Any]], *, has_reason: bool) -> list[Diagnosis]:
    """The gradient is zero in every step, or clipped to almost nothing. has_reason: another diagnosis already explains it."""
    names = ("train/grad_norm", "train/grad_norm_clipped")
    norms = [(line[names[0]], line.get(names[1], line[names[0]])) for line in recent if names[0] in line]
    if norms and not has_reason and not any(norm for norm, _ in norms):
        words = f"none of the last {len(norms)} steps had a gradient, so nothing is learned: look at the weights of the loss"
        return [Diagnosis("no_gradient", words)]
    if norms and all(norm > CLIPPED * max(clipped, 1e-300) for norm, clipped in norms[-len(norms) // 2 :]):
        norm, clipped = norms[-1]
        words = (
            f"the gradients have norms such as {norm:.2g} and are clipped to {clipped:.2g}: look at the scale of the loss and of "
            "its terms (loss.beta, task.rewards), or raise algorithm.max_grad_norm"
        )
        return [Diagnosis("clipped", words)]
    return []


def _runaway(lines: Sequence[Mapping[str, Any]]) -> list[Diagnosis]:
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
    return [Diagnosis("runaway", words)]
