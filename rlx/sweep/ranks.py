"""A job of a sweep with several ranks, started by the worker that has the job, with the sweep's copies of the code."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.errors import ExitCode, RlxError
from rlx.parallel.launch import launch
from rlx.sweep.kept import KeptFinder, KeptModule, serve_kept

MODULE = "rlx.sweep.ranks"


@dataclass(frozen=True)
class RankJob:
    """What every rank of a job needs. options: of rlx.training.run.train; the config is a pickle, read while `kept` is served."""

    path: tuple[str, ...]
    kept: tuple[KeptModule, ...]
    config: bytes
    options: dict[str, Any]


def run_ranks(cfg: Any, ranks: int, options: dict[str, Any]) -> tuple[int, str]:
    """Train in `ranks` processes; returns the exit code, and details of a failure that may be missing from the record."""
    cfg.ranks = ranks
    kept = [module for finder in sys.meta_path if isinstance(finder, KeptFinder) for module in finder.modules.values()]
    job = RankJob(tuple(sys.path), tuple(kept), pickle.dumps(cfg), options)
    with tempfile.NamedTemporaryFile(suffix=".job") as file:
        file.write(pickle.dumps(job))
        file.flush()
        outcome = launch([file.name], ranks=ranks, timeout=cfg.parallel.timeout, threads=cfg.threads or 1, module=MODULE)
    if outcome.message:
        print(outcome.message, flush=True)
    return outcome.code, outcome.message.partition("\n")[0].removeprefix("rlx: ")


def main(file: str) -> int:
    """One rank of a job; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGUSR2):  # until the run handles signals there is nothing to save
        signal.signal(number, lambda *_: os._exit(ExitCode.STOPPED))
    job: RankJob = pickle.loads(Path(file).read_bytes())
    sys.path[:] = list(job.path)
    serve_kept(job.kept)
    from rlx.training.run import train
    from rlx.training.stop import Stopped

    try:
        train(pickle.loads(job.config), **job.options)
    except Stopped as stopped:
        print(stopped, flush=True)
        return stopped.exit_code
    except RlxError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    except Exception:  # a bug in the user's code: shown, and the process must end
        traceback.print_exc()
        return ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    from rlx.parallel.distributed import end_process

    end_process(main(sys.argv[1]))
