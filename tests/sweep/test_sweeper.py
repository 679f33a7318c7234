"""The sweeper is known to Hydra wherever rlx comes from, and picks who runs the jobs: the pool, or one of Hydra's launchers."""

import sys

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from rlx.cli import main
from rlx.sweep import run as sweeper
from rlx.sweep.run import SweepRun


@pytest.fixture
def launch_of(monkeypatch, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SweepRun, "run", lambda self, arguments: seen.append(self.launch) or 0)

    def of(*arguments):
        assert main.invoke(["-m", "seed=0,1", *arguments]) == (0, "")
        return seen.pop()

    return of


def test_the_pool_runs_jobs_unless_a_launcher_is_asked_for(launch_of):
    assert launch_of() is None
    assert launch_of("hydra/launcher=basic") is not None
    assert launch_of("sweep.workers=0") is not None


def test_its_exit_code_is_that_of_the_program(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SweepRun, "run", lambda self, arguments: 3)
    assert main.invoke(["-m", "seed=0,1"])[0] == 3


def test_it_may_be_registered_twice():
    sweeper.register_sweeper()
    sweeper.register_sweeper()
    found = [kind for kind in Plugins.instance().discover(Sweeper) if kind.__name__ == "RlxSweeper"]
    assert found == [sweeper.RlxSweeper]
    assert sys.modules[sweeper.NAME].RlxSweeper is sweeper.RlxSweeper
