"""Tasks of the package reasoning-gym, which generates problems and scores their answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError, DataError
from rlx.fields import count, within
from rlx.task.base import Prompt, Text
from rlx.task.messages import with_line_breaks
from rlx.task.reward.base import Reward
from rlx.task.rewarded import RewardedTask

SCORER = "scorer"
# The package makes problem i of a data set from seed + i; with this offset the held-out problems share no seed with the others.
HELD_OUT_SEED = 1 << 40
_SET_BY_RLX = {"seed": "task.data_seed", "size": "task.num_prompts"}


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(RewardedTask):
    """A data set of reasoning-gym with its own scorer (the reward `scorer`, 0 to 1) and any further rewards.

    dataset: its name. parameters: parameters of the data set, by the package's names.
    num_prompts, num_held_out: how many are generated, before repeated problems are dropped.
    data_seed: the seed of the problems, apart from the run's seed.
    answer_tag: the scorer gets the text in the last <tag>...</tag>, or None without one; null: the whole completion.
    instruction: a text put after each problem, on a line of its own; null: none.
    scorer_weight: weight of the scorer in the sum of rewards.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"rewards"})

    dataset: str
    parameters: Mapping[str, Any]
    num_prompts: int = count()
    num_held_out: int = count()
    data_seed: int = within(at_least=0, below=HELD_OUT_SEED >> 1, whole=True)
    answer_tag: str | None
    instruction: str | None
    scorer_weight: float = within()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parameters(self.dataset, self.parameters)

    def all_rewards(self) -> Mapping[str, Reward]:
        return {SCORER: self._scorer, **super().all_rewards()}

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(weight=self.scorer_weight, task=self)

    @cached_property
    def problems(self) -> Any:
        """The package's data set of the prompts to learn from; its scorer also scores the held-out prompts."""
        return self._generated(self.data_seed, self.num_prompts)

    def _generated(self, seed: int, size: int) -> Any:
        given = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        try:
            return package().create_dataset(self.dataset, seed=seed, size=size, **self.parameters)
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"task.parameters: {self.dataset} refuses {given or 'its own defaults'}: {error}") from error

    @cached_property
    def _split(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        """(prompts to learn from, prompts held out). No question is in both; questions are compared as text."""
        others = self._generated(self.data_seed + HELD_OUT_SEED, self.num_held_out)
        held_out = {entry["question"]: entry for entry in self._entries(others)}
        learn = [entry for entry in self._entries(self.problems) if entry["question"] not in held_out]
        if not learn:
            raise DataError(
                f"all {self.num_prompts} problems of {self.dataset} are among the {len(held_out)} held-out ones; "
                "lower task.num_held_out, or make the problems more varied with task.parameters"
            )
        return tuple(map(self._prompt, learn)), tuple(map(self._prompt, held_out.values()))

    def _entries(self, problems: Any) -> Sequence[Mapping[str, Any]]:
        try:
            return [problems[index] for index in range(len(problems))]
        except Exception as error:  # a generator may raise anything
            raise DataError(f"reasoning-gym cannot generate {self.dataset}: {type(error).__name__}: {error}") from error

    def _prompt(self, entry: Mapping[str, Any]) -> Prompt:
        text = entry["question"] if self.instruction is None else f"{entry['question']}\n{with_line_breaks(self.instruction)}"
        return Prompt(text, {"answer": entry["answer"], "entry": entry})

    def prompts(self) -> Sequence[Prompt]:
        return self._split[0]

    def held_out_prompts(self) -> Sequence[Prompt]:
        return self._split[1]

    def facts(self) -> Mapping[str, str]:
        learn, held_out = len(self.prompts()), len(self.held_out_prompts())
        dropped = self.num_prompts - learn, self.num_held_out - held_out
        also = f"; repeated ones dropped: {dropped[0]} and {dropped[1]}" if any(dropped) else ""
        return {"prompts": f"{learn} to learn from, {held_out} held out, of {self.dataset}{also}", "reward": self.reward_facts()}


@dataclass(frozen=True, kw_only=True)
class Scorer(Reward):
    """The score of an answer, 0 to 1, by the data set's own scorer."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    task: ReasoningGym

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        said: str | None = completion.strip()
        if self.task.answer_tag is not None:
            tag = re.escape(self.task.answer_tag)
            inside = re.findall(rf"<{tag}>(.*?)</{tag}>", completion, re.DOTALL)
            said = inside[-1].strip() if inside else None
        return float(self.task.problems.score_answer(answer=said, entry=columns["entry"]))


def package() -> Any:
    """reasoning-gym, or a ConfigError that says how to install it."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise ConfigError(
            f"task=reasoning_gym needs the package reasoning-gym: pip install 'rlx[reasoning]' ({error})"
        ) from error
    return reasoning_gym


def check_parameters(dataset: str, parameters: Mapping[str, Any]) -> None:
    """Refuse the name of a data set, or of a parameter, that the package does not know."""
    package()
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        hint = did_you_mean(nearest(dataset, DATASETS)) or f"; some of its {len(DATASETS)}: {', '.join(sorted(DATASETS)[:8])}"
        raise ConfigError(f"task.dataset={dataset}: reasoning-gym has no such data set{hint}")
    known = [item.name for item in fields(DATASETS[dataset][1]) if item.name not in _SET_BY_RLX]
    for name in parameters:
        if name in _SET_BY_RLX:
            raise ConfigError(f"task.parameters.{name} is set by {_SET_BY_RLX[name]}")
        if name not in known:
            hint = did_you_mean(nearest(name, known)) or f"; it has {', '.join(known)}"
            raise ConfigError(f"task.parameters.{name} is no parameter of {dataset}{hint}")
