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
from rlx.task.base import Curriculum, Prompt, Text
from rlx.task.messages import with_line_breaks
from rlx.task.reward.base import Reward
from rlx.task.rewarded import RewardedTask

SCORER = "scorer"
# The package generates problem i of a data set from seed + i; with this offset held-out and training problems share no seed.
HELD_OUT_SEED = 1 << 40
LEVEL_SEED = 1 << 42  # likewise between the levels of a curriculum
_COMPOSITE, _FIELDS = "composite", ("field_name", "lower_field_name", "upper_field_name")
_SET_BY_RLX = {"seed": "task.data_seed", "size": "task.num_prompts"}


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(RewardedTask):
    """A data set of reasoning-gym with its own scorer (the reward `scorer`, 0 to 1) and any further rewards.

    dataset: its name. parameters: parameters of the data set, by the package's names.
    num_prompts, num_held_out: how many are generated, before duplicates are dropped.
    data_seed: the seed of the problems, independent of the run's seed.
    answer_tag: the scorer gets the text in the last <tag>...</tag>, or None without one; null: the whole completion.
    instruction: a text appended to each problem on a separate line; null: none.
    scorer_weight: weight of the scorer in the sum of rewards.
    difficulty: the level of the data set's curriculum at which training begins, 0 is the easiest; null: no curriculum, only the
    given parameters. num_prompts are generated for each level up to max_difficulty (null: the package's last), and the held-out
    problems, which determine the score, come equally from all these levels.
    raise_at, raise_after: the level rises by one when the share of correct completions over raise_after steps is at least
    raise_at; null: it never rises. The level is logged as train/difficulty.
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
    difficulty: int | None = count(at_least=0, optional=True, default=None)
    max_difficulty: int | None = count(at_least=0, optional=True, default=None)
    raise_at: float | None = within(above=0, at_most=1, optional=True, default=None)
    raise_after: int = count(default=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parameters(self.dataset, self.parameters)
        _ = self._levels

    def all_rewards(self) -> Mapping[str, Reward]:
        return {SCORER: self._scorer, **super().all_rewards()}

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(weight=self.scorer_weight, task=self)

    @cached_property
    def problems(self) -> Mapping[int, Any]:
        """Level -> the package's data set of training prompts; its scorer also scores the held-out prompts."""
        return {level: self._generated(self.data_seed, self.num_prompts, level) for level in self._levels}

    @cached_property
    def _levels(self) -> range:
        """The levels of the curriculum; without one only level 0, with the given parameters."""
        if self.difficulty is None:
            if self.raise_at is not None or self.max_difficulty is not None:
                raise ConfigError("task.raise_at and task.max_difficulty are of a curriculum; begin one with task.difficulty=0")
            return range(1)
        known = self._curriculum()
        fields_of = (getattr(item, name, None) for item in known.attributes.values() for name in _FIELDS)
        taken = sorted(set(self.parameters) & set(fields_of))
        if taken:
            raise ConfigError(
                f"task.parameters.{taken[0]} is set by the curriculum of {self.dataset}; leave it out, or task.difficulty=null"
            )
        last = max((len(item.levels) for item in known.attributes.values()), default=1) - 1
        highest = last if self.max_difficulty is None else self.max_difficulty
        if not self.difficulty <= highest <= last:
            raise ConfigError(
                f"task.difficulty={self.difficulty} and task.max_difficulty={self.max_difficulty}: the curriculum of "
                f"{self.dataset} has the levels 0 to {last}, and the first is not above the second"
            )
        return range(self.difficulty, highest + 1)

    def _curriculum(self) -> Any:
        package()
        from reasoning_gym.factory import create_curriculum, has_curriculum

        if not has_curriculum(self.dataset):
            raise ConfigError(f"reasoning-gym has no curriculum for {self.dataset}; leave out task.difficulty")
        return create_curriculum(self.dataset)

    def _generated(self, seed: int, size: int, level: int) -> Any:
        given = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        parameters = {"seed": seed + (level - self._levels[0]) * LEVEL_SEED, "size": size, **self.parameters}
        try:
            if self.dataset == _COMPOSITE:
                parameters["datasets"] = _specifications(self.parameters.get("datasets"))
            if self.difficulty is None:
                return package().create_dataset(self.dataset, **parameters)
            curriculum = self._curriculum()
            curriculum.set_global_level(level)
            return package().create_dataset(self.dataset, **vars(curriculum.generate_configuration(parameters)))
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"task.parameters: {self.dataset} refuses {given or 'its own defaults'}: {error}") from error

    @cached_property
    def curriculum(self) -> Curriculum | None:
        if self.difficulty is None:
            return None
        levels = tuple(prompt.columns["level"] for prompt in self.prompts())
        return Curriculum(levels, self.difficulty, self.raise_at, self.raise_after)

    @cached_property
    def _split(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        """(training prompts, held-out prompts). No question is in both; questions are compared as text."""
        parts = len(self._levels)
        shares = [(part + 1) * self.num_held_out // parts - part * self.num_held_out // parts for part in range(parts)]
        held_out: dict[str, tuple[Mapping[str, Any], int]] = {}
        for level, share in zip(self._levels, shares, strict=True):
            if share:
                others = self._generated(self.data_seed + HELD_OUT_SEED, share, level)
                held_out = {entry["question"]: (entry, level) for entry in self._entries(others)} | held_out
        learn = [
            (entry, level)
            for level, problems in self.problems.items()
            for entry in self._entries(problems)
            if entry["question"] not in held_out
        ]
        if not learn:
            raise DataError(
                f"all {self.num_prompts} problems of {self.dataset} are among the {len(held_out)} held-out ones; "
                "lower task.num_held_out, or make the problems more varied with task.parameters"
            )
        return tuple(self._prompt(*one) for one in learn), tuple(self._prompt(*one) for one in held_out.values())

    def _entries(self, problems: Any) -> Sequence[Mapping[str, Any]]:
        try:
            return [problems[index] for index in range(len(problems))]
        except Exception as error:  # a generator may raise any type
            raise DataError(f"reasoning-gym cannot generate {self.dataset}: {type(error).__name__}: {error}") from error

    def _prompt(self, entry: Mapping[str, Any], level: int) -> Prompt:
        text = entry["question"] if self.instruction is None else f"{entry['question']}\n{with_line_breaks(self.instruction)}"
        return Prompt(text, {"answer": entry["answer"], "entry": entry, "level": level})

    def prompts(self) -> Sequence[Prompt]:
        return self._split[0]

    def held_out_prompts(self) -> Sequence[Prompt]:
        return self._split[1]

    def facts(self) -> Mapping[str, str]:
        learn, held_out = len(self.prompts()), len(self.held_out_prompts())
        dropped = self.num_prompts * len(self._levels) - learn, self.num_held_out - held_out
        also = f"; repeated ones dropped: {dropped[0]} and {dropped[1]}" if any(dropped) else ""
        found = {"prompts": f"{learn} to learn from, {held_out} held out, of {self.dataset}{also}", "reward": self.reward_facts()}
        if self.difficulty is None:
            return found
        rises = "" if self.raise_at is None else f", rises where {self.raise_at:.0%} are right in {self.raise_after} steps"
        return {**found, "difficulty": f"{self._levels[0]} of {self._levels[0]} to {self._levels[-1]}{rises}"}


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
        return float(self.task.problems[columns["level"]].score_answer(answer=said, entry=columns["entry"]))


def package() -> Any:
    """reasoning-gym, or a ConfigError that says how to install it."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise ConfigError(
            f"task=reasoning_gym needs the package reasoning-gym: pip install 'rlx[reasoning]' ({error})"
        ) from error
    return reasoning_gym


def _specifications(given: Any) -> list[Any]:
    """The parts of a composite in the package's format. Raises ValueError for invalid ones."""
    from reasoning_gym.composite import DatasetSpec

    names = {"name", "weight", "config"}
    if not isinstance(given, Sequence) or not all(isinstance(item, Mapping) and set(item) <= names for item in given):
        raise ValueError('datasets is a list of parts like {"name": "chain_sum", "weight": 1, "config": {"max_terms": 3}}')
    return [
        DatasetSpec(**{"weight": 1.0, "config": {}, **{str(key): _plain(value) for key, value in item.items()}}) for item in given
    ]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def check_parameters(dataset: str, parameters: Mapping[str, Any]) -> None:
    """Raise ConfigError for a data set, or a parameter, that the package does not have."""
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
            raise ConfigError(f"task.parameters.{name} is not a parameter of {dataset}{hint}")
