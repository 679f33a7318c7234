"""The base of tasks whose reward is a weighted sum of named rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from rlx.errors import ConfigError, TrainingError
from rlx.fields import one_of, shown, within
from rlx.task.base import Earned, Graded, Prompt, Task, finite
from rlx.task.reward.base import REWARD_FORMS, FunctionReward, Measured, Reward, earned_of

ROUNDING = 1e-6  # tolerance for a sum of weighted rewards
FAILED = "failed"
_TAKEN = ("reward", FAILED)


@dataclass(frozen=True, kw_only=True)
class RewardedTask(Task):
    """A task that sums named rewards. Each is also logged separately, as reward/NAME.

    rewards: name -> reward; a function without a weight has weight 1.
    on_reward_error: what to do if a reward raises or does not return a finite number. "stop": the run ends; "fail": the sample
    gets failed_reward, and the share of such samples is logged as reward/failed.
    full_reward: a completion with at least this reward counts as correct, and the score is the share of held-out prompts whose
    greedy completion is correct. "auto": the largest possible sum, if every reward has bounds. null, or "auto" if a reward has
    no bounds: no completion counts as correct, and the score is the mean reward of the greedy completions.
    reward_noise: share of the completions of a draw whose rewards are permuted at random. At 1 the rewards carry no
    information, for a control experiment. Evaluations use the true rewards.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"rewards"})

    rewards: Mapping[str, Reward | Callable[..., Any]]
    on_reward_error: str = one_of(("stop", "fail"))
    failed_reward: float = within()
    full_reward: float | Literal["auto"] | None = within(also=("auto",), optional=True)
    reward_noise: float = within(at_least=0, at_most=1, default=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rewards", {name: as_reward(name, given) for name, given in self.rewards.items()})
        if not self.all_rewards():
            raise ConfigError("task.rewards is empty; choose one or several: task/reward=[exact_match]")

    @property
    def score(self) -> str:  # type: ignore[override]
        """The metric used as the score: accuracy, or greedy_reward if no completion counts as correct."""
        return "greedy_reward" if self.full_reward_value() is None else "accuracy"

    def all_rewards(self) -> Mapping[str, Reward]:
        """Name -> reward: first the task's own, then those of the config."""
        return self.rewards  # type: ignore[return-value]

    def full_reward_value(self) -> float | None:
        if self.full_reward != "auto":
            return None if self.full_reward is None else float(self.full_reward) - ROUNDING
        largest = [reward.largest for reward in self.all_rewards().values()]
        known = [value for value in largest if value is not None]
        return sum(known) - ROUNDING if len(known) == len(largest) and sum(known) > ROUNDING else None

    def reward(self, prompt: Prompt, completion: str) -> Mapping[str, float]:
        return self.reward_all([prompt], [completion])[0]

    def reward_all(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[dict[str, float]]:
        if type(self).reward is not RewardedTask.reward:  # a subclass overrides `reward`
            return super().reward_all(prompts, completions)
        return [graded.parts for graded in self._graded(prompts, completions)]

    def grade_all(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Graded]:
        if type(self).reward is not RewardedTask.reward or "reward_all" in vars(self):
            return super().grade_all(prompts, completions)
        return self._graded(prompts, completions)

    def _graded(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Graded]:
        samples = list(zip(prompts, completions, strict=True))
        rewards = self.all_rewards()
        given = {name: reward.score_all(samples) for name, reward in rewards.items()}
        values = {name: [one.value if isinstance(one, Measured) else one for one in column] for name, column in given.items()}
        rows = []
        for row, (prompt, completion) in enumerate(samples):
            turns = prompt.columns.get("turns", (completion,))
            found = {name: earned_of(summed(column[row]), turns) for name, column in values.items()}
            bad = [name for name, pieces in found.items() if pieces is None]
            if bad and self.on_reward_error == "stop":
                raise reward_error(bad[0], values[bad[0]][row], prompt, completion)
            kept = {name: () if pieces is None else pieces for name, pieces in found.items()}
            parts = {name: float(sum(piece.value for piece in pieces)) for name, pieces in kept.items()}
            total = float(self.failed_reward if bad else sum(rewards[name].weight * part for name, part in parts.items()))
            earned: tuple[Earned, ...] = (Earned(total, len(turns) - 1),)
            at_end = all(pieces == (Earned(parts[name], len(turns) - 1),) for name, pieces in kept.items())
            if not bad and not at_end:
                earned = tuple(
                    replace(piece, value=rewards[name].weight * piece.value) for name, pieces in kept.items() for piece in pieces
                )
            counted = {FAILED: float(bool(bad))} if self.on_reward_error == "fail" else {}
            shares = {
                f"{name}_{key}": 0.0 if (share := finite(value)) is None else share
                for name, column in given.items()
                for key, value in _figures(column[row]).items()
            }
            rows.append(Graded({"reward": total, **parts, **shares, **counted}, earned))
        return rows

    def score_facts(self) -> str:
        full = self.full_reward_value()
        if full is not None:
            return f"accuracy, the share of held-out prompts whose greedy completion has a reward of {full + ROUNDING:g}"
        unbounded = [name for name, reward in self.all_rewards().items() if reward.largest is None]
        names = ", ".join(unbounded)
        why = f" (task.full_reward={shown(self.full_reward)}"
        if self.full_reward == "auto" and unbounded:
            why += f", and {names} {'names' if len(unbounded) == 1 else 'name'} no largest value"
        return f"greedy_reward, the mean reward of greedy completions on held-out prompts; no reward is known to mean right{why})"

    def reward_facts(self) -> str:
        """The rewards and their weights as text."""
        terms = ((name, reward.weight) for name, reward in self.all_rewards().items())
        return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in terms)


def _figures(outcome: Any) -> Mapping[str, Any]:
    """The named numbers of a reward's outcome: the parts of its sum, and its metrics."""
    if isinstance(outcome, Measured):
        return {**_figures(outcome.value), **outcome.figures}
    return outcome if isinstance(outcome, Mapping) else {}


def summed(outcome: Any) -> Any:
    """The value of a reward's outcome; for several named numbers their sum, or None if one of them is not finite."""
    if not isinstance(outcome, Mapping):
        return outcome
    values = [finite(value) for value in outcome.values()]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def as_reward(name: str, given: Any) -> Reward:
    """The reward `given` under a name in `rewards`; a function becomes a FunctionReward. Raises ConfigError for anything else."""
    if name in _TAKEN:
        raise ConfigError(f"task.rewards.{name}: {name} is a name that rlx reserves; rename your reward")
    if isinstance(given, Reward):
        return given
    if callable(given):
        return FunctionReward.of(given)
    raise ConfigError(
        f"task.rewards.{name} is {given!r}, not a reward; give a node whose _target_ is one, or a function of yours"
    )


def reward_error(name: str, outcome: Any, prompt: Prompt, completion: str) -> TrainingError:
    """The error for a reward that raised, or did not return a finite number, for one completion."""
    raised = isinstance(outcome, BaseException)
    forms = REWARD_FORMS.format(turns=len(prompt.columns.get("turns", (completion,))))
    what = f"raised {type(outcome).__name__}: {outcome}" if raised else f"gave {outcome!r:.80}, {forms},"
    error = TrainingError(
        f"reward {name} {what} for the completion {completion!r} of the prompt {prompt.text!r}; fix it, or count such samples "
        "as failed with task.on_reward_error=fail"
    )
    error.__cause__ = outcome if raised else None
    return error
