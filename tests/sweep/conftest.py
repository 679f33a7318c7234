"""Sweeps from the command line down to worker processes, with a stand-in for training in these."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlx.cli import main
from rlx.record.run import read_run
from tests.sweep.stand_in import LOG, content_of

HERE = Path(__file__).parent
FEW_STEPS = ("num_steps=3", "eval_every=1", "logger=[]", "sweep.compare=false", "sweep.workers=2")


@dataclass
class Ran:
    """What a sweep came to."""

    code: int
    out: str
    err: str
    directory: Path

    @property
    def plan(self) -> dict:
        return json.loads((self.directory / "sweep.json").read_text())

    @property
    def states(self) -> dict[str, str]:
        """Name without its hash -> state."""
        return {job["name"].rpartition("_")[0]: job["state"] for job in self.plan["jobs"]}

    def job(self, start: str) -> dict:
        (found,) = [job for job in self.plan["jobs"] if job["name"].startswith(start)]
        return found

    def steps(self, start: str = "") -> list[str]:
        """The steps that were made, of jobs whose names begin so, in their order."""
        lines = (self.directory / LOG).read_text().splitlines()
        return [line for line in lines if line.startswith(start)]

    def record(self, start: str):
        return read_run(self.directory / self.job(start)["name"])


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory of its own, and a stand-in for training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("rlx.sweep.run._TASK", "stand_in:run")
    monkeypatch.setattr("rlx.sweep.pool.pool._PRELOADED", ())
    monkeypatch.setattr("rlx.sweep.run.assignment_of", lambda jobs, folders, ranks: lambda job: content_of(jobs[job.name]))
    return tmp_path


@pytest.fixture
def sweep(place, capfd) -> Callable[..., Ran]:
    """Runs `rlx -m algorithm=wild.Wild ...` in this process."""

    def run(*arguments: str, plain: bool = False) -> Ran:
        begin = () if plain else ("algorithm=wild.Wild", *FEW_STEPS)
        code, message = main.invoke(["-m", *begin, *arguments])
        out, err = capfd.readouterr()
        named = next((word.partition("=")[2] for word in arguments if word.startswith("sweep.name=")), None)
        shelf = place / "outputs" / "sweep"
        return Ran(code, out, f"{err}{message}", shelf / named if named else Path(os.path.realpath(shelf / "latest")))

    return run
