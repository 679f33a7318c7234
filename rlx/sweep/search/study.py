"""The Optuna study of a search: its journal file, and the samplers and pruners that conf/sweep names."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.errors import ConfigError, DataError, RlxError
from rlx.record.files import read_regular
from rlx.sweep.plan.settings import SearchSettings
from rlx.sweep.plan.space import Dimension

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.log"
DIFFERS = "differs"  # the trial attribute that holds its overrides


def import_optuna() -> Any:
    """Import Optuna and silence its log. Raises ConfigError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("sweep=optuna needs Optuna: pip install 'rlx[optuna]' (sweep=random needs nothing)") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def signs_of(objectives: Sequence[str]) -> dict[str, int]:
    """Metric -> 1 to maximise it, -1 to minimise it."""
    if not objectives:
        raise ConfigError("sweep.objectives is empty; name what to maximise: sweep.objectives=[eval/score]")
    return {name.lstrip("+-"): -1 if name.startswith("-") else 1 for name in objectives}


def mend_journal(file: Path) -> None:
    """Repair the journal after a kill during a write, which leaves half a line and a lock. The caller holds the directory."""
    Path(f"{file}.lock").unlink(missing_ok=True)
    if file.exists():
        data = read_regular(file)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(file, whole)


@dataclass
class Study:
    """The trials of a search. A trial is a variant; its values are means over its seeds."""

    directory: Path
    dimensions: Sequence[Dimension]
    settings: SearchSettings
    study: Any = None

    def __post_init__(self) -> None:
        optuna = import_optuna()
        journal = optuna.storages.journal
        self.signs = signs_of(self.settings.objectives)
        directions = ["maximize" if sign > 0 else "minimize" for sign in self.signs.values()]
        if len(directions) > 1 and (self.settings.pruner != "none" or self.settings.seed_pruner != "none"):
            raise ConfigError(
                "pruners compare one figure; with several sweep.objectives use sweep.pruner=none sweep.seed_pruner=none"
            )
        if len(directions) > 1 and self.settings.sampler == "cmaes":
            raise ConfigError("sweep.sampler=cmaes optimises one objective; for several use nsga2, tpe, gp, qmc or random")
        file = str(self.directory / JOURNAL)
        sampler = make_sampler(self.settings, seed=self.settings.sampler_seed)
        pruner = make_pruner(self.settings.pruner, startup=self.settings.startup_trials)
        try:
            mend_journal(self.directory / JOURNAL)
            storage = optuna.storages.JournalStorage(journal.JournalFileBackend(file, lock_obj=journal.JournalFileOpenLock(file)))
            self.study = optuna.create_study(
                storage=storage,
                study_name="search",
                load_if_exists=True,
                directions=directions,
                sampler=sampler,
                pruner=pruner,
            )
            damage = self._damage(directions)
        except (RlxError, OSError):  # a full disk is not damage
            raise
        except Exception as error:  # for damaged lines Optuna may raise anything
            damage = f"{type(error).__name__}: {error}"
        if damage:
            raise DataError(f"{file} is damaged ({damage:.200}); put it back, or begin a new search with another sweep.name")
        for trial in self.study.get_trials(deepcopy=False):
            if DIFFERS not in trial.user_attrs and not trial.state.is_finished():  # the process was killed while asking for it
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def _damage(self, directions: Sequence[str]) -> str:
        """What is wrong with the journal; empty if it is valid."""
        if [direction.name.lower() for direction in self.study.directions] != list(directions):
            return "it seeks other objectives"
        changed = [one.number for one in self.begun() if tuple(one.user_attrs[DIFFERS]) != self._differs(one.params)]
        return f"the parameters of trial {changed[0]} are not its overrides" if changed else ""

    def _differs(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(text for dimension in self.dimensions for text in dimension.overrides(parameters[dimension.name]))

    def limit(self) -> int:
        """The number of trials: as many as requested, or as the grid has points."""
        if self.settings.sampler != "grid":
            return self.settings.trials
        return min(self.settings.trials, math.prod(len(_grid(dimension)) for dimension in self.dimensions))

    def begun(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that this or earlier starts have begun."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if DIFFERS in trial.user_attrs]

    def ask(self) -> tuple[int, tuple[str, ...]]:
        """Begin a new trial; returns its number and the overrides of its variant.

        The sampler is made anew for each trial, seeded by the number of earlier trials. A killed and resumed search therefore
        asks for the same trials as an uninterrupted one, if the trials end in the same order.
        """
        self.study.sampler = make_sampler(self.settings, seed=self.settings.sampler_seed + len(self.begun()))
        if self.settings.sampler == "grid":
            self.study.enqueue_trial(self._grid_point(len(self.begun())))
        trial = self.study.ask({dimension.name: distribution_of(dimension) for dimension in self.dimensions})
        differs = self._differs(trial.params)
        trial.set_user_attr(DIFFERS, list(differs))
        return trial.number, differs

    def _grid_point(self, index: int) -> dict[str, Any]:
        point = {}
        for dimension in reversed(self.dimensions):
            values = _grid(dimension)
            index, place = divmod(index, len(values))
            point[dimension.name] = values[place]
        return point

    def is_open(self, number: int) -> bool:
        """Whether a trial has no recorded result yet."""
        return not self.study.get_trials(deepcopy=False)[number].state.is_finished()

    def values_of(self, figures: Sequence[Mapping[str, float]]) -> list[float] | None:
        """The objectives' means over seeds; None if one is missing or not a number."""
        try:
            means = [sum(one[name] for one in figures) / len(figures) for name in self.signs]
        except (KeyError, ZeroDivisionError):
            return None
        return means if all(math.isfinite(mean) for mean in means) else None

    def tell(self, number: int, figures: Sequence[Mapping[str, float]] | None, *, pruned: bool = False) -> bool:
        """End a trial: with the figures of its seeds, pruned, or failed (None); returns whether it has a value."""
        states = import_optuna().trial.TrialState
        if not self.is_open(number):
            return False
        values = self.values_of(figures) if figures else None
        state = states.PRUNED if pruned else states.COMPLETE if values is not None else states.FAIL
        self.study.tell(number, values if state == states.COMPLETE else None, state=state)
        return values is not None

    def shall_prune(self, number: int, step: int, figures: Mapping[str, float]) -> bool:
        """Report an evaluation of a trial's first seed; returns whether the pruner stops the trial."""
        (name,) = self.signs
        if name not in figures or not math.isfinite(figures[name]):
            return False
        trial = self._trial(number)
        trial.report(figures[name], step)
        return bool(trial.should_prune())

    def _trial(self, number: int) -> Any:
        trials = self.study.get_trials(deepcopy=False)
        return import_optuna().trial.Trial(self.study, trials[number]._trial_id)

    def best(self) -> list[optuna.trial.FrozenTrial]:
        """The best trial; with several objectives, the trials on the Pareto front; empty while no trial is complete."""
        complete = import_optuna().trial.TrialState.COMPLETE
        if not any(trial.state == complete for trial in self.begun()):
            return []
        return list(self.study.best_trials)

    def importances(self) -> dict[str, float]:
        """Dimension -> its share in what decides whether a trial is among the best; empty with too few trials."""
        optuna = import_optuna()
        done = [trial for trial in self.begun() if trial.state == optuna.trial.TrialState.COMPLETE]
        if len(done) < 4 or len(self.dimensions) < 2:
            return {}
        first = next(iter(self.signs.values()))
        target = (lambda trial: first * -1 * trial.values[0]) if len(self.signs) > 1 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                return dict(optuna.importance.get_param_importances(self.study, evaluator=evaluator, target=target))
            except (ValueError, RuntimeError, ImportError):
                return {}


def _grid(dimension: Dimension) -> list[Any]:
    if dimension.points:
        return list(range(len(dimension.points)))
    if dimension.step is None:
        raise ConfigError(f"sweep.sampler=grid cannot list {dimension.name}, an interval; give range(...) or values")
    count = round((dimension.high - dimension.low) / dimension.step) + 1
    values = [float(f"{dimension.low + dimension.step * place:.12g}") for place in range(count)]
    return [int(value) for value in values] if dimension.whole else values


def distribution_of(dimension: Dimension) -> Any:
    """The dimension as an Optuna distribution."""
    distributions = import_optuna().distributions
    if dimension.points:
        return distributions.CategoricalDistribution(list(range(len(dimension.points))))
    if dimension.whole:
        return distributions.IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def make_sampler(settings: SearchSettings, *, seed: int) -> Any:
    """The sampler with this name."""
    samplers = import_optuna().samplers
    startup = settings.startup_trials
    makers = {
        "grid": lambda: samplers.RandomSampler(seed=seed),  # the grid points are queued one by one
        "random": lambda: samplers.RandomSampler(seed=seed),
        "qmc": lambda: samplers.QMCSampler(seed=settings.sampler_seed, scramble=True, warn_independent_sampling=False),
        "tpe": lambda: samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True),
        "gp": lambda: samplers.GPSampler(seed=seed, n_startup_trials=startup),
        "cmaes": lambda: samplers.CmaEsSampler(seed=seed, n_startup_trials=max(1, startup), warn_independent_sampling=False),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed, population_size=max(2, startup)),
    }
    try:
        return makers[settings.sampler]()
    except ImportError as error:
        raise ConfigError(f"sweep.sampler={settings.sampler} needs a package that is not installed: {error}") from error


def make_pruner(name: str, *, startup: int) -> Any:
    """The pruner with this name."""
    pruners = import_optuna().pruners
    makers = {
        "none": pruners.NopPruner,
        "median": lambda: pruners.MedianPruner(n_startup_trials=max(1, startup)),
        "halving": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
    }
    return makers[name]()
