"""Which of the two runs the jobs: the pool of workers, or one of Hydra's launchers."""

import pytest

from rlx.cli import main
from rlx.sweep.session import Session


@pytest.fixture
def launch_of(monkeypatch, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Session, "run", lambda self, arguments: seen.append(self.launch) or 0)

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
    monkeypatch.setattr(Session, "run", lambda self, arguments: 3)
    assert main.invoke(["-m", "seed=0,1"])[0] == 3
