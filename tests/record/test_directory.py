"""A run's directory is nobody else's."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from rlx.errors import ConfigError, DataError
from rlx.record import directory as room
from rlx.record.directory import (
    filled_directory,
    hold,
    is_alive,
    last_step,
    new_directory,
    require_own_files,
    this_process,
    truncate_lines,
)


def test_many_that_ask_for_one_name_each_get_their_own(tmp_path: Path) -> None:
    barrier = threading.Barrier(16)

    def ask(_: int) -> Path:
        barrier.wait()
        return new_directory(tmp_path / "outputs", "same")

    with ThreadPoolExecutor(16) as pool:
        directories = list(pool.map(ask, range(16)))
    assert len(set(directories)) == 16
    assert all(directory.is_dir() for directory in directories)


def test_lines_after_a_step_are_cut_and_so_is_a_broken_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n{"step": 1}\n{"step": 1, "more": 1}\n{"step": 2}\n{"st')
    assert last_step(file) == 2
    truncate_lines(file, 1)
    assert file.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 1, "more": 1}\n'
    truncate_lines(file, 7)
    assert last_step(file) == 1
    file.write_text('{"step": 0}\n{"step": 1')
    truncate_lines(file, 1)
    assert file.read_text() == '{"step": 0}\n'
    truncate_lines(file, -1)
    assert file.read_text() == ""
    assert last_step(file) == -1
    truncate_lines(tmp_path / "absent", 3)
    assert not (tmp_path / "absent").exists()


def test_damage_before_the_step_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\nrubbish\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        truncate_lines(file, 2)


def test_a_directory_is_held_by_one(tmp_path: Path) -> None:

    first = hold(tmp_path)
    if first is None:
        pytest.skip("no locks on directories here")
    with pytest.raises(ConfigError, match="another process is writing"):
        hold(tmp_path)
    os.close(first)
    second = hold(tmp_path)
    assert second is not None
    os.close(second)


def test_a_filled_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    seen = []

    def fill(place: Path) -> None:
        (place / "run.json").write_text("{}")
        seen.extend(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("."))

    made = [filled_directory(tmp_path, "run", fill) for _ in range(3)]
    assert [place.name for place in made] == ["run", "run_2", "run_3"]
    assert sorted(seen) == ["run", "run", "run_2"]
    assert all((place / "run.json").exists() for place in made)
    (tmp_path / "other").touch()
    assert filled_directory(tmp_path, "other", fill).name == "other_2"
    (tmp_path / "left").mkdir()  # of an older rlx that was killed before it wrote a record
    assert filled_directory(tmp_path, "left", fill).name == "left"

    def fail(place: Path) -> None:
        raise ConfigError("no")

    before = set(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="no"):
        filled_directory(tmp_path, "run", fail)
    assert set(tmp_path.iterdir()) == before


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    old, young = tmp_path / ".unfinished-a", tmp_path / ".unfinished-b"
    for place in (old, young):
        place.mkdir()
        (place / "run.json").touch()
    os.utime(old, (1.0, 1.0))
    filled_directory(tmp_path, "run", lambda place: None)
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", ".unfinished-b"}


def test_a_run_that_is_killed_before_its_record_leaves_no_directory(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    code = (
        f"import sys, os\nsys.path[:0] = [{str(tests.parents[1])!r}, {str(tests)!r}]\nfrom conftest import FACTS\n"
        "from rlx.record import recorder\nrecorder.write_new = lambda *given: os._exit(9)\n"
        f"recorder.Recorder.create(output_dir={str(tmp_path)!r}, **FACTS)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not [entry for entry in (tmp_path / "train").iterdir() if not entry.name.startswith(".")]


# Whether the writer of a record still lives.


def test_this_process_lives() -> None:
    assert is_alive(this_process()) is True


def test_a_dead_process_is_dead_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    known = {**this_process(), "pid": child.pid, "birth": room._birth(child.pid)}
    assert is_alive(known) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie still
    assert is_alive(known) is False
    child.stdin.close()
    child.wait()
    assert is_alive(known) is False


@pytest.mark.parametrize(
    ("name", "target", "problem"),
    [
        ("step", "files", ""),
        ("metrics.jsonl", "files/a", ""),
        ("checkpoint", "gone", ""),
        ("loop", "loop", ""),
        ("metrics.jsonl", "../other/a", "leads out of the directory, to .*other/a"),
        ("files/checkpoint", "../../other", "leads out of the directory, to .*other"),
        (".lock", "../other/new", "leads out of the directory, to .*other/new"),
        ("job.log", None, "is not an ordinary file"),
    ],
)
def test_a_directory_that_leads_elsewhere_is_not_written_to(tmp_path: Path, name: str, target: str | None, problem: str) -> None:
    for folder in ("run/files", "other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a").touch()
    place = tmp_path / "run" / name
    os.mkfifo(place) if target is None else place.symlink_to(target)
    (tmp_path / "latest").symlink_to("run")
    with pytest.raises(ConfigError, match=f"{place} {problem}") if problem else nullcontext():
        require_own_files(tmp_path / "latest")


def test_another_process_that_got_the_same_id_is_not_taken_for_it() -> None:
    assert is_alive({**this_process(), "birth": "1"}) is False


def test_a_machine_that_was_started_again_has_no_old_processes() -> None:
    assert is_alive({**this_process(), "boot": "before"}) is False


def test_another_machine_cannot_be_seen() -> None:
    assert is_alive({**this_process(), "host": "elsewhere"}) is None
    assert is_alive({**this_process(), "namespace": "pid:[1]"}) is None
    assert is_alive({}) is None


def test_without_proc_the_process_table_is_asked(monkeypatch) -> None:
    monkeypatch.setattr(room, "_BOOT", room._BOOT / "absent")
    assert is_alive(this_process()) is True
    assert is_alive({**this_process(), "pid": 2**22 + 1}) is False


def test_a_heartbeat_sets_the_time_of_a_file_until_it_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "HEARTBEAT_SECONDS", 0.02)
    file = tmp_path / "run.json"
    file.write_text("{}")
    heart = room.Heartbeat(file)
    for _ in range(2):
        os.utime(file, (1, 1))
        until = time.monotonic() + 10
        while file.stat().st_mtime == 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > 1
    heart.stop()
    time.sleep(0.1)
    os.utime(file, (1, 1))
    time.sleep(0.1)
    assert file.stat().st_mtime == 1
