"""How many jobs fit on a machine."""

import pytest

from rlx.errors import ConfigError
from rlx.sweep.pool import resources


@pytest.fixture
def machine(monkeypatch, tmp_path):
    def of(cores, quota="max 100000", gpus=None):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)), raising=False)
        (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr("rlx.parallel.launch._QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr("shutil.which", lambda name: None)
        if gpus is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)

    return of


def test_one_process_a_core(machine):
    machine(8)
    assert resources.num_workers("auto", threads=1) == 8
    assert resources.num_workers("auto", threads=3) == 2
    assert resources.num_workers("auto", threads=16) == 1
    assert resources.num_workers(5, threads=4) == 5


def test_more_workers_than_a_machine_can_run_are_refused():
    with pytest.raises(ConfigError, match=r"sweep\.workers=100000: as many processes"):
        resources.num_workers(100_000, threads=1)


def test_a_container_may_have_fewer(machine):
    machine(8, quota="250000 100000")
    assert resources.num_cores() == 2
    machine(8, quota="50000 100000")
    assert resources.num_cores() == 1


def test_one_process_a_gpu(machine):
    machine(8, gpus="0,3")
    assert resources.num_workers("auto", threads=1) == 2
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in resources.environments(3)] == ["0", "3", "0"]


def test_no_gpus(machine):
    machine(2, gpus="")
    assert resources.gpus() == []
    assert resources.environments(2) == []


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        ("0::/user.slice/me", "user.slice/me/memory.events", "low 0\noom_kill 3\n"),
        ("0::/", "memory.events", "low 0\noom_kill 3\n"),
        ("4:memory:/box/7\n0::/", "memory/box/7/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("4:memory:/unseen\n0::/", "memory/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("0::/", "nowhere", ""),
    ],
)
def test_a_full_memory_is_counted_for_the_group_of_this_process(tmp_path, monkeypatch, membership, file, text):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    (tmp_path / "membership").write_text(membership + "\n")
    monkeypatch.setattr(resources, "_GROUPS", tmp_path)
    monkeypatch.setattr(resources, "_MEMBERSHIP", tmp_path / "membership")
    assert resources.memory_kills() == (3 if text else 0)


def test_a_job_of_several_ranks_takes_a_set_of_gpus(monkeypatch):
    monkeypatch.setattr(resources, "gpus", lambda: ["0", "1", "2", "3", "4"])
    assert resources.num_workers("auto", threads=1, ranks=2) == 2
    sets = [variables["CUDA_VISIBLE_DEVICES"] for variables in resources.environments(3, 2)]
    assert sets == ["0,1", "2,3", "0,1"]
    assert resources.num_workers("auto", threads=1, ranks=8) == 1
    with pytest.raises(ConfigError, match="ranks_per_job=8, and there are 5 GPUs here"):
        resources.environments(1, 8)
