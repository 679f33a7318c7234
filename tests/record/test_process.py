"""Whether the writer of a record still lives."""

import os
import subprocess
import sys
import time

from rlx.record import process
from rlx.record.process import is_alive, this_process


def test_this_process_lives() -> None:
    assert is_alive(this_process()) is True


def test_a_dead_process_is_dead_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    known = {**this_process(), "pid": child.pid, "birth": process._birth(child.pid)}
    assert is_alive(known) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie still
    assert is_alive(known) is False
    child.stdin.close()
    child.wait()
    assert is_alive(known) is False


def test_another_process_that_got_the_same_id_is_not_taken_for_it() -> None:
    assert is_alive({**this_process(), "birth": "1"}) is False


def test_a_machine_that_was_started_again_has_no_old_processes() -> None:
    assert is_alive({**this_process(), "boot": "before"}) is False


def test_another_machine_cannot_be_seen() -> None:
    assert is_alive({**this_process(), "host": "elsewhere"}) is None
    assert is_alive({**this_process(), "namespace": "pid:[1]"}) is None
    assert is_alive({}) is None


def test_without_proc_the_process_table_is_asked(monkeypatch) -> None:
    monkeypatch.setattr(process, "_BOOT", process._BOOT / "absent")
    assert is_alive(this_process()) is True
    assert is_alive({**this_process(), "pid": 2**22 + 1}) is False


def test_a_heartbeat_sets_the_time_of_a_file_until_it_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "HEARTBEAT_SECONDS", 0.02)
    file = tmp_path / "run.json"
    file.write_text("{}")
    heart = process.Heartbeat(file)
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
