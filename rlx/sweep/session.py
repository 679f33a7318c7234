"""A sweep from its command line to its exit code: plan, directory, run, and what is said at the end."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict

from rlx.errors import ConfigError
from rlx.record.provenance import code_hash
from rlx.record.sources import Source
from rlx.report.sweep import SweepView, plan_lines
from rlx.report.text import count
from rlx.sweep.compose import Composer, job_overrides
from rlx.sweep.delegate import Delegate, Launch
from rlx.sweep.dimension import Dimension, dimension_of, random_variants
from rlx.sweep.directory import Place, keep_sources, name_latest, take
from rlx.sweep.ending import end
from rlx.sweep.plan import Job, Plan, digest_of, grid_plan, job_of, plan_of
from rlx.sweep.pool import Pool
from rlx.sweep.resources import num_workers
from rlx.sweep.reuse import take_over_completed
from rlx.sweep.runner import Queue, Runner, Work
from rlx.sweep.settings import RandomSettings, SearchSettings, Settings, settings_of
from rlx.sweep.space import Space, space_of
from rlx.sweep.state import ENDED, JobState, SweepState, new_facts
from rlx.sweep.warm import warm_comparison, warming_pool

_TASK = "rlx.sweep.job:run"


@dataclass(frozen=True)
class Surroundings:
    """What a sweep must know of the command line that began it.

    allowed: classes that its jobs may name; losses: the options of the group loss; directory: of the sweep that goes on.
    """

    argv: tuple[str, ...]
    allowed: Callable[[], Iterable[str]]
    losses: tuple[str, ...]
    directory: Path | None = None


@dataclass
class Session:
    """One start of a sweep. launch: how one of Hydra's launchers is called; None: the pool of workers runs the jobs."""

    config: DictConfig
    loader: ConfigLoader
    around: Surroundings
    launch: Launch | None = None
    pool: Pool | None = None

    def run(self, arguments: Sequence[str]) -> int:
        """Plan and run; returns the exit code."""
        settings = settings_of(OmegaConf.to_container(self.config.sweep, resolve=True))  # type: ignore[arg-type]
        composer = Composer(self.loader, self.config, self.around.allowed, self.around.losses)
        overrides = job_overrides(arguments)
        space = space_of(composer.parse(overrides), zipped=settings.zip, seeds=settings.seeds)
        if self.launch is None and not settings.dry_run:
            self.pool = warming_pool(_TASK, settings, space, default_threads=self.config.threads)
            warm_comparison(settings)
        try:
            if isinstance(settings, SearchSettings):
                return self._search(space, composer, settings, overrides)
            return self._grid(space, composer, settings, overrides)
        finally:
            if self.pool is not None:
                self.pool.close()

    def _grid(self, space: Space, composer: Composer, settings: Settings, overrides: Sequence[str]) -> int:
        plan = planned(space, composer, settings)
        if settings.dry_run:
            print("\n".join(plan_lines(plan.jobs)))
            return 0
        place = self._place(plan.digest, settings)
        try:
            return self._run(plan, place, settings, overrides, composer)
        finally:
            place.close()

    def _place(self, digest: str, settings: Settings) -> Place:
        shelf = Path(str(self.config.output_dir)) / "sweep"
        named = self.around.directory
        for override in self.config.hydra.overrides.hydra:
            if str(override).startswith("hydra.sweep.dir="):
                named = named or Path(str(self.config.hydra.sweep.dir))
        if settings.name is not None:
            named = named or shelf / settings.name

        def say(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        patience = settings.grace + 30
        fresh = settings.new and self.around.directory is None
        return take(shelf, digest=digest, code=code_hash(), named=named, fresh=fresh, patience=patience, say=say)

    def _run(self, plan: Plan, place: Place, settings: Settings, overrides: Sequence[str], composer: Composer) -> int:
        jobs = {job.name: job for job in plan.jobs}
        state = self._state(plan.digest, place, overrides, settings)
        state.jobs = {job.name: JobState.of(job) for job in plan.jobs}
        if place.before is not None:
            state.take_over(place.before)
        state.write(force=True)
        name_latest(place.directory)
        if settings.reuse:
            take_over_completed(state, Path(str(self.config.output_dir)))
        waiting = [job for job in state.jobs.values() if job.state not in ENDED]
        path = self._path(place, [file for job in plan.jobs for file in job.composed.sources])
        size = self._size(settings, list(plan.jobs), len(waiting))
        view = SweepView(state.jobs, workers=size, total=len(state.jobs))
        view.start(_opening(state, plan, place, waiting, size))
        asked = None
        if waiting and self.launch is not None:
            asked = self._run_launcher(jobs, state, waiting, settings, view, path)
        elif waiting:
            runner = self._runner(jobs, state, Queue(deque(waiting)), settings, view, path, size, place)
            asked = _run_to_end(runner, lambda: False)
        return end(state, settings, asked, is_group=composer.is_group)

    def _search(self, space: Space, composer: Composer, settings: SearchSettings, overrides: Sequence[str]) -> int:
        from rlx.sweep.search import Search
        from rlx.sweep.study import Study, import_optuna

        import_optuna()
        if self.launch is not None:
            raise ConfigError("sweep=optuna runs its jobs on this machine; leave out hydra/launcher, or use sweep=random with it")
        dimensions = [dimension_of(axis) for axis in space.axes]
        checked = checked_ends(dimensions, space, composer)
        if settings.dry_run:
            print(f"a search over {', '.join(dimension.name for dimension in dimensions)}: {settings.trials} trials")
            return 0
        digest = digest_of([*(job.composed.identity for job in checked), *map(str, space.seeds), *map(repr, dimensions)])
        place = self._place(digest, settings)
        try:
            state = self._state(digest, place, overrides, settings)
            study = Study(place.directory, dimensions, settings)
            search = Search(study, state, settings, space.seeds, lambda differs, seed: job_of(differs, seed, space, composer))
            if place.before is not None:
                state.facts |= {key: place.before[key] for key in ("started", "spent_seconds") if key in place.before}
                state.jobs |= {job.name: job for job in map(JobState.of_plan, place.before["jobs"])}
            search.take_up()
            state.write(force=True)
            name_latest(place.directory)
            path = self._path(place, [file for job in checked for file in job.composed.sources])
            size = self._size(settings, checked, study.limit() * len(space.seeds))
            total = study.limit() * len(space.seeds) + settings.confirm
            view = SweepView(state.jobs, workers=size, total=total)
            counts = f"{study.limit()} trials x {len(space.seeds)} seeds"
            lines = [f"search of {counts} in {os.path.relpath(place.directory)}, {size} at once"]
            if search.trials:
                over = sum(trial.is_over for trial in search.trials.values())
                lines.append(f"going on with a search over the same space: {over} of its trials are over")
            view.start(lines)
            runner = self._runner(search.jobs, state, search, settings, view, path, size, place)
            asked = _run_to_end(runner, search.confirm)
            return end(state, settings, asked, is_group=composer.is_group, search=search)
        finally:
            place.close()

    def _state(self, digest: str, place: Place, overrides: Sequence[str], settings: Settings) -> SweepState:
        facts = new_facts(["rlx", *self.around.argv], overrides, method=settings.method, digest=digest, code=code_hash())
        return SweepState(place.directory, facts)

    def _path(self, place: Place, files: Iterable[Source]) -> list[str]:
        """The Python path of the jobs: the sweep's copies of the user's modules first."""
        path = [str(keep_sources(place.directory, files)), *sys.path]
        return [os.path.abspath(entry) if entry else os.getcwd() for entry in path]

    def _size(self, settings: Settings, jobs: Sequence[Job], most: int) -> int:
        threads = max((job.composed.threads or 1 for job in jobs), default=1)
        return min(num_workers(settings.workers, threads=threads), max(1, most))

    def _runner(
        self,
        jobs: Mapping[str, Job],
        state: SweepState,
        work: Work,
        settings: Settings,
        view: SweepView,
        path: Sequence[str],
        size: int,
        place: Place,
    ) -> Runner:
        assert self.pool is not None
        self.pool.lead(size, path=path, log=state.directory / ".workers.log", lock=place.lock)
        return Runner(state, work, self.pool, settings, view, order_of(jobs))

    def _run_launcher(
        self,
        jobs: Mapping[str, Job],
        state: SweepState,
        waiting: Sequence[JobState],
        settings: Settings,
        view: SweepView,
        path: Sequence[str],
    ) -> int | None:
        assert self.launch is not None
        with open_dict(self.config):
            self.config.hydra.sweep.dir = os.path.abspath(state.directory)
        delegate = Delegate(state, settings, view, self.launch, order_of(jobs), path)
        try:
            delegate.run(waiting)
        finally:
            view.close()
        return delegate.asked


def _run_to_end(runner: Runner, more: Callable[[], bool]) -> int | None:
    """Run with the pool open, and again as long as there is `more`; returns the signal that stopped it, if one did."""
    try:
        runner.run()
        while runner.asked is None and not runner.halted and more():
            runner.run()
    finally:
        runner.pool.close()
        runner.view.close()
    return runner.asked


def planned(space: Space, composer: Composer, settings: Settings) -> Plan:
    """The plan of a grid or a random search, every job of it composed and checked."""
    if isinstance(settings, RandomSettings):
        dimensions = [dimension_of(axis) for axis in space.axes]
        checked_ends(dimensions, space, composer)
        return plan_of(random_variants(dimensions, trials=settings.trials, seed=settings.sampler_seed), space, composer)
    if space.intervals:
        raise ConfigError(
            f"{space.intervals[0]} is an interval, which a grid cannot list; search it with sweep=random or sweep=optuna"
        )
    return grid_plan(space, composer)


def checked_ends(dimensions: Sequence[Dimension], space: Space, composer: Composer) -> list[Job]:
    """A job at each end of each dimension, composed and checked, so that no trial meets an error of the command line."""
    if not dimensions:
        raise ConfigError("there is nothing to search: give a key several values or 'KEY=interval(LOW,HIGH)'")
    first = [dimension.ends()[0] for dimension in dimensions]
    jobs = []
    for place, dimension in enumerate(dimensions):
        for point in dimension.ends():
            differs = [text for texts in [*first[:place], point, *first[place + 1 :]] for text in texts]
            try:
                jobs.append(job_of(differs, space.seeds[0], space, composer))
            except ConfigError as error:
                if dimension.points or dimension.whole or "whole number" not in str(error):
                    raise
                ends = f"{dimension.low:g},{dimension.high:g}"
                raise ConfigError(f"{error}; draw whole numbers with '{dimension.name}=int(interval({ends}))'") from error
    return jobs


def order_of(jobs: Mapping[str, Job]) -> Callable[[JobState], Any]:
    """What a worker needs for a job."""
    from rlx.sweep.job import Training

    def order(job: JobState) -> Training:
        known = jobs[job.name]
        return Training(known.composed.cfg, known.composed.algorithm, known.overrides)

    return order


def _opening(state: SweepState, plan: Plan, place: Place, waiting: Sequence[JobState], size: int) -> list[str]:
    variants = len({job.variant for job in state.jobs.values()})
    jobs = f"{count(len(state.jobs), 'job')} ({count(variants, 'variant')})"
    lines = [f"sweep of {jobs} in {os.path.relpath(place.directory)}, {size} at once"]
    if plan.repeated:
        lines.append(f"{plan.repeated} jobs are the same as others and run once")
    if place.before is not None:
        done = len(state.jobs) - len(waiting)
        lines.append(f"going on with a sweep of the same plan: {done} of its jobs are done (sweep.new=true begins anew)")
    reused = sum(job.reused_from is not None for job in state.jobs.values())
    if reused:
        lines.append(f"{reused} jobs were completed elsewhere with the same config and code")
    return lines
