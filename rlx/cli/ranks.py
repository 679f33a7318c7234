"""How a command line becomes several processes that train together: how many, and starting them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rlx.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from rlx.config.compose import Composed
    from rlx.parallel.launch import Outcome
    from rlx.record.run import AlgorithmResult


def with_number(composed: Composed) -> Composed:
    """The same, whose `ranks` is a number: how many torchrun has started, else how many the config asks for.

    Raises ConfigError for a value that is no number of ranks, and for another one on the command line than torchrun has started.
    """
    asked = composed.config.ranks
    given = any(override.startswith("ranks=") for override in composed.overrides)
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if started > 1:
        from rlx.parallel.launch import ranks_of_environment

        started = ranks_of_environment()
    if asked != "auto" and (not isinstance(asked, int) or isinstance(asked, bool) or asked < 1):
        raise ConfigError(f"ranks={asked}: it is a number of processes from 1 on, or auto for one a GPU")
    if given and started > 1 and asked not in (1, started, "auto"):
        raise ConfigError(f"ranks={asked}, and {started} ranks were started; leave out ranks, which rlx train alone starts")
    if started > 1:
        composed.config.ranks = started
    elif asked == "auto":
        from rlx.sweep.pool.resources import gpus

        composed.config.ranks = max(1, len(gpus()))
    return composed


def is_first() -> bool:
    """Whether this process speaks for the run."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def starts_ranks(composed: Composed) -> bool:
    """Whether this process only starts the ranks of the run."""
    return bool(composed.config.ranks > 1 and "RANK" not in os.environ)


def launched(composed: Composed) -> Outcome:
    """The same command line as processes that train together."""
    from rlx.parallel.launch import launch
    from rlx.sweep.pool.resources import num_cores

    ranks = composed.config.ranks
    return launch(
        composed.command[1:],
        ranks=ranks,
        timeout=composed.config.parallel.timeout,
        threads=composed.config.threads or max(1, num_cores() // ranks),
    )


def result_of_ranks(composed: Composed) -> AlgorithmResult:
    """The result of a run of several ranks, out of its record. Raises TrainingError where they failed."""
    from rlx.record.run import read_run

    outcome = launched(composed)
    result = None if outcome.directory is None or outcome.code else read_run(outcome.directory).result
    if result is None:
        where = "" if outcome.directory is None else f"; {outcome.directory / 'run.json'} says more"
        raise TrainingError(outcome.message or f"the ranks of this run ended with exit code {outcome.code}{where}")
    return result
