"""The directory of a sweep: found again, never shared."""

import fcntl
import json
import shutil

import pytest

from rlx.errors import ConfigError
from rlx.record.directory import this_process
from rlx.sweep.directory import claim_directory, name_latest, read_plan, set_aside

DEAD = {**this_process(), "pid": 2**22 + 1}


def taken(shelf, **changes):
    options = {"digest": "d" * 16, "code": "c", "named": None, "fresh": False, "patience": 0.3, **changes}
    content = {key: options[key] for key in ("digest", "code")} | {"jobs": [], "process": DEAD, "command": ["rlx", "-m"]}
    options.setdefault("begin", lambda directory: (directory / "sweep.json").write_text(json.dumps(content)))
    return claim_directory(shelf, **options)


def left(place, **changes):
    """A sweep that was begun there and is gone."""
    content = {"digest": "d" * 16, "code": "c", "jobs": [], "process": DEAD, "command": ["rlx", "-m"], **changes}
    (place.directory / "sweep.json").write_text(json.dumps(content))
    place.close()
    return place.directory


def test_the_same_plan_is_gone_on_with(tmp_path):
    first = left(taken(tmp_path))
    again = taken(tmp_path)
    assert (again.directory, again.previous_plan["jobs"]) == (first, [])


@pytest.mark.parametrize("changes", [{"digest": "e" * 16}, {"code": "other"}, {"fresh": True}])
def test_another_plan_other_code_or_a_wish_begin_anew(tmp_path, changes):
    first = left(taken(tmp_path))
    other = taken(tmp_path, **changes)
    assert other.directory != first
    assert other.previous_plan is None


def test_a_directory_that_is_held_is_not_shared(tmp_path, capsys):
    held = taken(tmp_path)
    (held.directory / "sweep.json").write_text(
        json.dumps({"digest": "d" * 16, "code": "c", "jobs": [], "process": this_process()})
    )
    other = taken(tmp_path, patience=60)  # its sweep lives, so nobody waits
    assert other.directory != held.directory
    assert capsys.readouterr().err == ""


def test_workers_of_a_killed_sweep_are_waited_for(tmp_path, capsys):
    directory = left(taken(tmp_path))
    with open(directory / ".lock", "rb") as worker:
        fcntl.flock(worker, fcntl.LOCK_EX)
        other = taken(tmp_path)
    assert other.directory != directory
    assert "waiting for the workers" in capsys.readouterr().err
    other.close()
    shutil.rmtree(other.directory)
    assert taken(tmp_path).directory == directory


@pytest.mark.parametrize("named", [None, "mine"])
def test_a_sweep_that_is_killed_before_its_plan_is_gone_on_with(tmp_path, named):
    options = {"named": named and tmp_path / named}
    first = taken(tmp_path, **options)
    first.close()
    again = taken(tmp_path, **options)
    assert (again.directory, again.previous_plan["jobs"]) == (first.directory, [])
    again.close()

    def killed(directory):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taken(tmp_path / "other", begin=killed)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_named_place(tmp_path):
    named = tmp_path / "mine"
    first = taken(tmp_path, named=named)
    with pytest.raises(ConfigError, match="is running"):
        taken(tmp_path, named=named)
    left(first)
    again = taken(tmp_path, named=named)
    assert again.previous_plan is not None
    again.close()
    for changes, said in (
        ({"digest": "e" * 16}, "another plan, or with other code of yours .*: rlx -m resume="),
        ({"code": "x"}, "another version"),
        ({"fresh": True}, "holds a sweep already"),
    ):
        with pytest.raises(ConfigError, match=said):
            taken(tmp_path, named=named, **changes)


def test_a_named_place_with_something_else_in_it(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="holds no sweep"):
        taken(tmp_path, named=tmp_path / "mine")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '{"jobs": 3}', '{"jobs": [], "command": 3}', '{"jobs": [], "process": 3}']
)
def test_a_plan_that_cannot_be_read_is_none(tmp_path, text):
    assert read_plan(tmp_path) is None
    (tmp_path / "sweep.json").write_text(text)
    assert read_plan(tmp_path) is None


def test_a_failed_attempt_is_moved_where_no_list_looks(tmp_path):
    from rlx.record.run import find_run_directories

    job = tmp_path / "job"
    job.mkdir()
    for name in ("run.json", "metrics.jsonl", "job.log"):
        (job / name).write_text("{}")
    set_aside(job, keep="job.log")
    assert [file.name for file in job.iterdir()] == ["job.log"]
    assert find_run_directories(tmp_path) == []
    assert (tmp_path / ".attempts" / "job" / "run.json").exists()


def test_latest_names_the_newest(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        name_latest(tmp_path / name)
    assert (tmp_path / "latest").resolve() == tmp_path / "two"
