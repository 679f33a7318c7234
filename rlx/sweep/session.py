"""A sweep from its command line to its exit code: plan, directory, run, and what is said at the end."""

from __future__ import annotations

import os
import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict

from rlx.errors import ConfigError
from rlx.record.files import number
from rlx.record.provenance import code_hash
from rlx.report.sweep import SweepView, plan_lines, print_failures
from rlx.sweep.compose import Composer, job_overrides
from rlx.sweep.delegate import Delegate, Launch
from rlx.sweep.directory import Place, keep_sources, name_latest, take
from rlx.sweep.plan import Job, Plan, grid_plan
from rlx.sweep.pool import Pool
from rlx.sweep.resources import environments, num_workers
from rlx.sweep.reuse import take_over_completed
from rlx.sweep.runner import EXIT_CODES, Queue, Runner
from rlx.sweep.settings import Settings, settings_of
from rlx.sweep.space import Space, space_of
from rlx.sweep.state import COMPLETED, ENDED, FAILED, JobState, SweepState, new_facts, now

FAILED_JOBS = 3
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
    """One start of a sweep."""

    config: DictConfig
    loader: ConfigLoader
    around: Surroundings
    launch: Launch | None = None

    def run(self, arguments: Sequence[str]) -> int:
        """Plan and run; returns the exit code."""
        settings = settings_of(OmegaConf.to_container(self.config.sweep, resolve=True))  # type: ignore[arg-type]
        composer = Composer(self.loader, self.config, self.around.allowed, self.around.losses)
        overrides = job_overrides(arguments)
        space = space_of(composer.parse(overrides), zipped=settings.zip, seeds=settings.seeds)
        plan = self._plan(space, composer, settings)
        if settings.dry_run:
            print("\n".join(plan_lines(plan.jobs)))
            return 0
        place = self._place(plan.digest, settings)
        try:
            return self._run(plan, place, settings, overrides)
        finally:
            place.close()

    def _plan(self, space: Space, composer: Composer, settings: Settings) -> Plan:
        if space.intervals:
            raise ConfigError(
                f"{space.intervals[0]} is an interval, which a grid cannot list; search it with sweep=random or sweep=optuna"
            )
        return grid_plan(space, composer)

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

    def _run(self, plan: Plan, place: Place, settings: Settings, overrides: Sequence[str]) -> int:
        state = self._state(plan, place, overrides, settings)
        name_latest(place.directory)
        path = [str(keep_sources(place.directory, [file for job in plan.jobs for file in job.composed.sources])), *sys.path]
        if settings.reuse:
            take_over_completed(state, Path(str(self.config.output_dir)))
        waiting = [job for job in state.jobs.values() if job.state not in ENDED]
        threads = max((job.composed.threads or 1 for job in plan.jobs), default=1)
        size = min(num_workers(settings.workers, threads=threads), max(1, len(waiting)))
        view = SweepView(state.jobs, workers=size, total=len(state.jobs))
        view.start(_opening(state, plan, place, waiting, size))
        path = [os.path.abspath(entry) if entry else os.getcwd() for entry in path]
        asked = None
        if waiting and self.launch is not None:
            asked = self._run_launcher(plan, state, waiting, settings, view, path=path)
        elif waiting:
            asked = self._run_pool(plan, state, waiting, settings, view, path=path, size=size, lock=place.lock)
        view.close()
        return self._close(state, settings, asked)

    def _state(self, plan: Plan, place: Place, overrides: Sequence[str], settings: Settings) -> SweepState:
        command = ["rlx", *self.around.argv]
        facts = new_facts(command, overrides, method=settings.method, digest=plan.digest, code=code_hash())
        state = SweepState(place.directory, facts, {job.name: JobState.of(job) for job in plan.jobs})
        if place.before is not None:
            state.take_over(place.before)
        state.write(force=True)
        return state

    def _run_pool(
        self,
        plan: Plan,
        state: SweepState,
        waiting: Sequence[JobState],
        settings: Settings,
        view: SweepView,
        *,
        path: Sequence[str],
        size: int,
        lock: int | None,
    ) -> int | None:
        pool = Pool(
            size,
            _TASK,
            path,
            state.directory / ".workers.log",
            grace=settings.grace,
            lock=lock,
            environments=environments(size),
        )
        runner = Runner(state, Queue(deque(waiting)), pool, settings, view, order_of(plan))
        try:
            pool.start()
            runner.run()
        finally:
            pool.close()
            view.close()
        return runner.asked

    def _run_launcher(
        self,
        plan: Plan,
        state: SweepState,
        waiting: Sequence[JobState],
        settings: Settings,
        view: SweepView,
        *,
        path: Sequence[str],
    ) -> int | None:
        assert self.launch is not None
        with open_dict(self.config):
            self.config.hydra.sweep.dir = os.path.abspath(state.directory)
        delegate = Delegate(state, settings, view, self.launch, order_of(plan), path)
        try:
            delegate.run(waiting)
        finally:
            view.close()
        return delegate.asked

    def _close(self, state: SweepState, settings: Settings, asked: int | None) -> int:
        counts = state.counts()
        unfinished = len(state.jobs) - sum(counts[name] for name in ENDED)
        status = "interrupted" if unfinished else FAILED if counts[FAILED] else COMPLETED
        state.facts |= {"status": status, "ended": now()}
        state.write(force=True)
        place = os.path.relpath(state.directory)
        if settings.compare and counts[COMPLETED] > 1 and asked is None:
            print_comparison_of(state.directory)
        print(f"\n{', '.join(f'{count} {name}' for name, count in counts.items())}; the sweep is in {place}", flush=True)
        print_failures(list(state.jobs.values()), place=place)
        if unfinished or counts[FAILED]:
            again = f"rlx -m resume={shlex.quote(place)}"
            print(f"go on with what is not completed: {again} (or the same command again)", file=sys.stderr, flush=True)
        if asked is not None:
            return EXIT_CODES[asked]  # type: ignore[index]
        return FAILED_JOBS if unfinished or counts[FAILED] else 0


def order_of(plan: Plan) -> Callable[[JobState], Any]:
    """What a worker needs for a job of the plan."""
    from rlx.sweep.job import Training

    jobs: Mapping[str, Job] = {job.name: job for job in plan.jobs}

    def order(job: JobState) -> Training:
        planned = jobs[job.name]
        return Training(planned.composed.cfg, planned.composed.algorithm, planned.overrides)

    return order


def _opening(state: SweepState, plan: Plan, place: Place, waiting: Sequence[JobState], size: int) -> list[str]:
    variants = len({job.variant for job in state.jobs.values()})
    lines = [f"sweep of {len(state.jobs)} jobs ({variants} variants) in {os.path.relpath(place.directory)}, {size} at once"]
    if plan.repeated:
        lines.append(f"{plan.repeated} jobs are the same as others and run once")
    if place.before is not None:
        done = len(state.jobs) - len(waiting)
        lines.append(f"going on with a sweep of the same plan: {done} of its jobs are done (sweep.new=true begins anew)")
    reused = sum(job.reused_from is not None for job in state.jobs.values())
    if reused:
        lines.append(f"{reused} jobs were completed elsewhere with the same config and code")
    return lines


def print_comparison_of(directory: Path) -> None:
    """The comparison of the sweep's variants, as `rlx compare` prints it; a sweep that cannot be compared says why."""
    from rlx.compare.choices import Choices
    from rlx.compare.comparison import compare_runs
    from rlx.config import conf_dir
    from rlx.config.compose import read_yaml
    from rlx.errors import RlxError
    from rlx.report.comparison import print_comparison

    values = read_yaml(conf_dir() / "compare.yaml")
    choices = {str(key): number(values[key]) for key in values if key not in ("defaults", "hydra")}
    choices |= {"allow": ["single", "tasks", "missing", "budget", "unfinished", "damaged"]}
    try:
        print()
        print_comparison(compare_runs([str(directory)], Choices.of(choices), command=["rlx", "compare", str(directory)]))
    except RlxError as error:
        print(f"no comparison: {error}", file=sys.stderr)
