"""What begins before the plan is there: no more than it can use."""

import dataclasses
import sys
import time

import pytest

from rlx.sweep.plan.space import Space, SweepAxis
from rlx.sweep.pool import pool as pools
from rlx.sweep.pool.pool import Pool
from tests.sweep.search.test_study import settings


def space_of(num_points, seeds=(0,), fixed=()):
    points = tuple((f"x={value}",) for value in range(num_points))
    return Space(fixed, (SweepAxis(("x",), points),), tuple(seeds))


@pytest.fixture
def size_of(monkeypatch):
    monkeypatch.setattr(Pool, "start", lambda self: None)
    monkeypatch.setattr("rlx.sweep.pool.resources.num_cores", lambda: 8)
    monkeypatch.setattr("rlx.sweep.pool.resources.gpus", list)

    def size(space, default_threads=None, **changes):
        pool = pools.start_pool("trivial:run", settings(**changes), space, default_threads=default_threads)
        pool.close()
        return pool.size

    return size


def test_as_many_processes_as_cores_jobs_or_wishes(size_of):
    assert size_of(space_of(20)) == 8
    assert size_of(space_of(20), workers=3) == 3
    assert size_of(space_of(0, seeds=(0, 1)), trials=1) == 2  # an interval has no points
    assert size_of(space_of(0, seeds=(0, 1)), trials=2) == 4


def test_jobs_of_several_threads_leave_room_for_each_other(size_of):
    assert size_of(space_of(20, fixed=("threads=4",))) == 2
    assert size_of(space_of(20), default_threads=4) == 2
    assert size_of(space_of(20, fixed=("threads=null",)), default_threads=None) == 8


def test_the_comparison_is_imported_meanwhile_where_there_is_one(monkeypatch):
    names = []
    monkeypatch.setattr(pools.importlib, "import_module", lambda name: names.append(name) or sys.modules["sys"])
    pools.preload_comparison(dataclasses.replace(settings(compare=False), method="grid"))
    time.sleep(0.2)
    assert names == []
    pools.preload_comparison(dataclasses.replace(settings(compare=True), method="grid"))
    until = time.monotonic() + 10
    while len(names) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert names == ["rlx.comparison.comparison", "rlx.report.comparison"]
