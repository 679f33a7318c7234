"""Trains a policy with an algorithm and writes the record of the run; with -m, a sweep."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from rlx.config.schema import RunConfig

if TYPE_CHECKING:
    from rlx.config.compose import Composed
    from rlx.record.run import AlgorithmResult


SCHEMA = RunConfig


def narrow(composed: Composed) -> Composed:
    """With resume or rerun the run's own config, and what may be given with it."""
    from rlx.config.recorded import asked_run, continued
    from rlx.record.run import read_run
    from rlx.record.trust import again, require_named, trusted_targets

    if composed.config.resume is None and composed.config.rerun is None:
        return composed
    record, verb = read_run(asked_run(composed.config)), "rerun" if composed.config.resume is None else "resume"
    composed = replace(composed, allowed=composed.allowed | trusted_targets(record))
    require_named(record, composed.allowed, verb)
    return continued(composed, record, again=again(record, verb))


def run(composed: Composed) -> int:
    """One run of the composed config; returns the exit code."""
    from rlx.record.run import read_run
    from rlx.record.trust import again
    from rlx.training.stop import Stopped

    try:
        trained(composed)
    except Stopped as stopped:
        resumed = "run it again"
        if stopped.directory is not None:
            resumed = f"go on with: {again(read_run(stopped.directory))}"
        print(f"rlx: {stopped}; {resumed}", file=sys.stderr)
        return stopped.exit_code
    return 0


def trained(composed: Composed) -> AlgorithmResult:
    """The result of the run."""
    from rlx.training.run import train

    return train(
        composed.config,
        algorithm=composed.algorithm,
        command=list(composed.command),
        overrides=list(composed.overrides),
        directory=composed.directory,
    )
