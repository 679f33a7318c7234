"""One start of a sweep, from its command line to its exit code: plan, directory, jobs and the final report."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from rlx.comparison.wording import quantity
from rlx.config.recorded import check_places
from rlx.errors import STOP_SIGNALS, ConfigError, ExitCode, RlxError
from rlx.interrupt import EARLY, handled, postponed
from rlx.record.provenance import code_hash
from rlx.record.trust import folder_words
from rlx.report.sweep import SweepView, lasting_console, opening_lines, plan_lines
from rlx.sweep.cluster.launcher import Launch, LauncherRunner
from rlx.sweep.directory import SweepDirectory, claim_directory, name_latest
from rlx.sweep.finish import finish_sweep, print_how_to_go_on
from rlx.sweep.kept import KeptModule, keep_sources
from rlx.sweep.plan.plan import Composer, PlannedJob, checked_ends, job_of, job_overrides, plan_digest, plan_sweep
from rlx.sweep.plan.settings import SearchSettings, settings_of
from rlx.sweep.plan.space import Space, dimension_of, space_of
from rlx.sweep.pool.pool import Pool, preload_comparison, start_pool
from rlx.sweep.pool.resources import num_workers
from rlx.sweep.pool.runner import JobQueue, JobSource, Runner
from rlx.sweep.resume import resume_command, take_over_completed
from rlx.sweep.state import ENDED, JobState, SweepState, new_facts

_TASK = "rlx.sweep.job:run"


class _Stopped(KeyboardInterrupt):
    """SIGTERM or SIGUSR2 arrived while no jobs ran."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _stopped(number: int, frame: FrameType | None) -> None:
    if not postponed(number, frame):
        raise _Stopped(number)


@dataclass(frozen=True)
class SweepCommand:
    """The command line that began a sweep.

    allowed: returns the classes that its jobs may name. directory: of a resumed sweep, else None. given: the keys that the user
    typed (not the record); the places that they name may be written to.
    """

    argv: tuple[str, ...]
    allowed: Callable[[], Iterable[str]]
    directory: Path | None = None
    given: frozenset[str] = frozenset()


@dataclass
class SweepRun:
    """One start of a sweep. launch: calls one of Hydra's launchers; None: the pool of workers runs the jobs."""

    config: DictConfig
    loader: ConfigLoader
    command: SweepCommand
    launch: Launch | None = None
    pool: Pool | None = None
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.settings = settings_of(OmegaConf.to_container(self.config.sweep, resolve=True))  # type: ignore[arg-type]
        self.composer = Composer(self.loader, self.config, self.command.allowed, self._inspect)

        if isinstance(self.settings, SearchSettings) and self.settings.ranks_per_job > 1 and self.settings.pruner != "none":
            raise ConfigError(
                f"sweep.pruner={self.settings.pruner} ends jobs of one process alone; leave it out, or sweep.ranks_per_job"
            )
        for key in ("nodes", "tasks_per_node"):
            number = OmegaConf.select(self.config, f"hydra.launcher.{key}")
            if self.launch is not None and isinstance(number, int) and number > 1:
                raise ConfigError(
                    f"hydra.launcher.{key}={number}: every task of a job would run the whole of it, into one record; for several "
                    "ranks on a node say sweep.ranks_per_job, and for a run over nodes take the script of `rlx guide ranks`"
                )

    def _inspect(self, config: Mapping[str, Any]) -> None:
        """Refuse `ranks`, which is for a single run, and a place to write to that only the record of a resumed sweep names."""
        if config["ranks"] != 1:
            raise ConfigError(
                f"ranks={config['ranks']} is for a single run; in a sweep set sweep.ranks_per_job={config['ranks']}"
            )
        if (directory := self.command.directory) is not None:
            plan = {"command": ["rlx", *self.command.argv]}

            def again(places: list[str]) -> str:
                return resume_command(os.path.relpath(directory), plan, (), *places)

            check_places(config, directory, again, given=self.command.given)

    def run(self, arguments: Sequence[str]) -> int:
        """Plan the jobs and run them; returns the exit code."""
        settings, self.overrides = self.settings, job_overrides(arguments)
        space = space_of(self.composer.parse(self.overrides), zipped=settings.zip, seeds=settings.seeds)
        if self.launch is None and not settings.dry_run:
            self.pool = start_pool(_TASK, settings, space, default_threads=self.config.threads)
            preload_comparison(settings)
        try:
            return self._search(space, settings) if isinstance(settings, SearchSettings) else self._list(space)
        except KeyboardInterrupt:
            print(EARLY.format("SIGINT"), file=sys.stderr)
            return ExitCode.INTERRUPTED
        finally:
            if self.pool is not None:
                self.pool.close()

    def _list(self, space: Space) -> int:
        """Run the jobs of a plan: a grid or random variants."""
        plan = plan_sweep(space, self.composer, self.settings)
        if self.settings.dry_run:
            print("\n".join(plan_lines(plan.jobs)))
            return 0
        with closing(self._directory(plan.digest)) as place, self._stoppable(plan.digest, place) as state:
            state.jobs = {job.name: JobState.of(job) for job in plan.jobs}
            kept = self._kept(state, plan.jobs)
            if place.previous_plan is not None:
                state.take_over(place.previous_plan)
            state.write(force=True)
            name_latest(place.directory)
            if self.settings.reuse:
                take_over_completed(state, Path(str(self.config.output_dir)))
            jobs = {job.name: job for job in plan.jobs}
            waiting = [job for job in state.jobs.values() if job.state not in ENDED]
            size = self._size(plan.jobs, len(waiting))
            console = None if self.launch is None else lasting_console()
            view = SweepView(state.jobs, workers=size, total=len(state.jobs), console=console)
            goes_on = place.previous_plan is not None
            view.start(opening_lines(state.jobs, state.directory, size=size, repeated=plan.repeated, goes_on=goes_on))
            stop_signal = None
            if waiting and self.launch is not None:
                stop_signal = self._run_launcher(self.launch, jobs, state, waiting, view, kept)
            elif waiting:
                stop_signal = self._run_pool(jobs, state, JobQueue(deque(waiting)), view, kept, size, place)
            return finish_sweep(state, self.settings, stop_signal, is_group=self.composer.is_group)

    def _search(self, space: Space, settings: SearchSettings) -> int:
        from rlx.sweep.search.search import Search
        from rlx.sweep.search.study import Study, import_optuna

        import_optuna()
        if self.launch is not None:
            raise ConfigError("sweep=optuna runs its jobs on this machine; leave out hydra/launcher, or use sweep=random with it")
        dimensions = [dimension_of(axis) for axis in space.axes]
        checked = checked_ends(dimensions, space, self.composer)
        if settings.dry_run:
            print(f"a search over {', '.join(dimension.name for dimension in dimensions)}: {settings.trials} trials")
            return 0
        digest = plan_digest([*(job.composed.identity for job in checked), *map(str, space.seeds), *map(repr, dimensions)])
        with closing(self._directory(digest)) as place, self._stoppable(digest, place) as state:
            study = Study(place.directory, dimensions, settings)
            make = lambda differs, seed: job_of(differs, seed, space, self.composer)  # noqa: E731
            search = Search(study, state, settings, space.seeds, make)
            if place.previous_plan is not None:
                state.facts |= {
                    key: place.previous_plan[key] for key in ("started", "spent_seconds") if key in place.previous_plan
                }
                state.jobs |= {job.name: job for job in map(JobState.of_plan, place.previous_plan["jobs"])}
            search.take_up()
            kept = self._kept(state, checked)
            state.write(force=True)
            name_latest(place.directory)
            most = study.limit() * len(space.seeds)
            size = self._size(checked, most)
            view = SweepView(state.jobs, workers=size, total=most + settings.confirm)
            counts = f"{quantity(study.limit(), 'trial')} x {quantity(len(space.seeds), 'seed')}"
            lines = [f"search of {counts} in {os.path.relpath(place.directory)}, {size} at once"]
            if search.trials:
                over = sum(trial.is_over for trial in search.trials.values())
                lines.append(f"going on with a search over the same space: {over} of its trials are over")
            view.start(lines)
            stop_signal = self._run_pool(search.jobs, state, search, view, kept, size, place, more=search.confirm)
            return finish_sweep(state, settings, stop_signal, is_group=self.composer.is_group, search=search)

    def _directory(self, digest: str) -> SweepDirectory:
        shelf = Path(str(self.config.output_dir)) / "sweep"
        named = self.command.directory
        for override in self.config.hydra.overrides.hydra:
            if str(override).startswith("hydra.sweep.dir="):
                named = named or Path(str(self.config.hydra.sweep.dir))
        if self.settings.name is not None:
            named = named or shelf / self.settings.name

        return claim_directory(
            shelf,
            digest=digest,
            code=code_hash(),
            named=named,
            fresh=self.settings.new and self.command.directory is None,
            patience=self.settings.grace + 30,
            begin=lambda directory: self._state(digest, directory).write(force=True),
        )

    def _state(self, digest: str, directory: Path) -> SweepState:
        command = ["rlx", *self.command.argv]
        facts = new_facts(command, self.overrides, method=self.settings.method, digest=digest, code=code_hash())
        return SweepState(directory, facts)

    @contextmanager
    def _stoppable(self, digest: str, place: SweepDirectory) -> Iterator[SweepState]:
        """The state of the sweep. A signal that arrives while no jobs run ends the sweep; sweep.json and the output say so."""
        state = self._state(digest, place.directory)
        with handled(_stopped, (signal.SIGTERM, signal.SIGUSR2)):
            try:
                yield state
            except KeyboardInterrupt as stop:
                number = signal.Signals(stop.number if isinstance(stop, _Stopped) else signal.SIGINT)
                if state.facts["ended"] is None:
                    state.give_up(f"stopped by {number.name}")
                print(f"stopped by {number.name}", file=sys.stderr)
                print_how_to_go_on(state)
                raise SystemExit(int(STOP_SIGNALS[number])) from None

    def _kept(self, state: SweepState, jobs: Iterable[PlannedJob]) -> tuple[KeptModule, ...]:
        """Make copies of the user's modules, which the jobs import; sweep.json lists them."""
        files = {file.copy: file for job in jobs for file in job.composed.sources}
        kept = keep_sources(state.directory, files.values())
        state.facts["sources"] = [{"module": copy.module, "sha256": copy.sha256, "code": copy.code} for copy in kept]
        return kept

    def _size(self, jobs: Iterable[PlannedJob], most: int) -> int:
        threads = max((job.composed.threads or 1 for job in jobs), default=1)
        return min(num_workers(self.settings.workers, threads=threads, ranks=self.settings.ranks_per_job), max(1, most))

    def _run_pool(
        self,
        jobs: Mapping[str, PlannedJob],
        state: SweepState,
        work: JobSource,
        view: SweepView,
        kept: Sequence[KeptModule],
        size: int,
        place: SweepDirectory,
        more: Callable[[], bool] = lambda: False,
    ) -> int | None:
        """Run `work` repeatedly as long as there is `more`; returns the signal that stopped it, if any."""
        assert self.pool is not None
        self.pool.set_up(size, path=_python_path(), log=state.directory / ".workers.log", lock=place.lock, kept=kept)
        runner = Runner(
            state,
            work,
            self.pool,
            self.settings,
            view,
            assignment_of(jobs, folder_words(self.command.argv), self.settings.ranks_per_job),
        )
        try:
            runner.run()
            while runner.stop_signal is None and not runner.halted and more():
                runner.run()
        except RlxError as error:
            state.give_up(str(error))
            raise
        finally:
            self.pool.close()
            view.close()
        return runner.stop_signal

    def _run_launcher(
        self,
        launch: Launch,
        jobs: Mapping[str, PlannedJob],
        state: SweepState,
        waiting: Sequence[JobState],
        view: SweepView,
        kept: Sequence[KeptModule],
    ) -> int | None:
        with open_dict(self.config):
            self.config.hydra.sweep.dir = os.path.abspath(state.directory)
        assignment = assignment_of(jobs, folder_words(self.command.argv), self.settings.ranks_per_job)
        runner = LauncherRunner(state, self.settings, view, launch, assignment, _python_path(), kept)
        try:
            runner.run(waiting)
        finally:
            view.close()
        return runner.stop_signal


def _python_path() -> list[str]:
    return [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]


def assignment_of(jobs: Mapping[str, PlannedJob], folders: Sequence[str], ranks: int) -> Callable[[JobState], Any]:
    """What a worker needs for a job. folders: of configs, as the sweep's command names them. ranks: of each job."""
    from rlx.sweep.job import Training

    def assignment(job: JobState) -> Training:
        known = jobs[job.name]
        return Training(known.composed.cfg, known.composed.algorithm, known.overrides, tuple(folders), ranks)

    return assignment


# The Hydra sweeper and its registration.


NAME = "hydra_plugins.rlx_sweeper"


class RlxSweeper(Sweeper):
    """Plans a sweep and runs it; the program exits with its exit code. command: the command line that this process runs."""

    __module__ = NAME
    command: SweepCommand | None = None  # on the class, because Hydra passes a sweeper nothing but its config
    config: DictConfig  # set by `setup`, like the next one
    hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        if self.command is None:
            raise RuntimeError("rlx's sweeper runs under the command rlx; call rlx.sweep.run.register_sweeper first")
        launch = self._launch if self._has_launcher() else None
        raise SystemExit(SweepRun(self.config, self.hydra_context.config_loader, self.command, launch).run(arguments))

    def _has_launcher(self) -> bool:
        """Whether the user chose one of Hydra's launchers instead of the pool of workers."""
        chosen = any(str(text).startswith("hydra/launcher=") for text in self.config.hydra.overrides.hydra)
        return chosen or self.config.hydra.runtime.choices["hydra/launcher"] != "basic" or self.config.sweep.workers == 0

    def _launch(self, task: Callable[[Any], Any], overrides: Sequence[Sequence[str]]) -> Any:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=task, config=self.config
        )
        return launcher.launch(overrides, initial_job_idx=0)


def register_sweeper(command: SweepCommand | None = None) -> None:
    """Register the sweeper with Hydra; may be called again. command: the command line, if it is a sweep's."""
    RlxSweeper.command = command
    plugins = Plugins.instance()  # its scan must come first, because it would replace the package that is made here
    if NAME not in sys.modules:
        if importlib.util.find_spec("hydra_plugins") is None:
            package = ModuleType("hydra_plugins")
            package.__path__ = []
            sys.modules["hydra_plugins"] = package
        sys.modules[NAME] = sys.modules[__name__]
        importlib.import_module("hydra_plugins").__dict__["rlx_sweeper"] = sys.modules[__name__]
    plugins.register(RlxSweeper)
