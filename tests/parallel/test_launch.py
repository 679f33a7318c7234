import os
import signal
import subprocess
import sys

import pytest

from rlx.errors import ConfigError
from rlx.parallel import launch
from rlx.parallel.launch import Rank, RankGroup, ranks_of_environment


def ended(number, code, *, after=0.0, killed=False, log=None):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    process.returncode = code
    return Rank(number, process, log, ended=after, was_killed=killed)


def test_one_process_is_no_group():
    assert ranks_of_environment({}) == 1
    assert ranks_of_environment({"WORLD_SIZE": "4"}) == 1
    named = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"}
    assert ranks_of_environment(named) == 4


def test_the_ranks_end_as_one():
    for code in (0, 1, 2, 75, 130):
        assert RankGroup([ended(0, code), ended(1, code)], grace=1).outcome() == (code, "")


def test_the_rank_that_was_killed_is_named_not_those_that_missed_it():
    code, message = RankGroup([ended(0, 1, after=2), ended(1, -9, after=1), ended(2, 1, after=2)], grace=1).outcome()
    assert code == 1
    assert message == "rlx: rank 1 was killed by SIGKILL"


def test_the_rank_that_hung_is_named():
    code, message = RankGroup([ended(0, 1), ended(1, -9, killed=True)], grace=1).outcome()
    assert (code, message) == (1, "rlx: rank 1 hung and was killed")


def test_the_first_rank_that_failed_is_shown_with_its_last_lines(tmp_path):
    log = (tmp_path / "log").open("w+b")
    log.write(b"".join(f"line {number}\n".encode() for number in range(100)))
    code, message = RankGroup([ended(0, 1, after=5), ended(1, 2, after=3, log=log)], grace=1).outcome()
    assert code == 2
    assert message.splitlines()[0] == "rlx: rank 1 ended with exit code 2; its last lines:"
    assert message.splitlines()[1:] == [f"line {number}" for number in range(100 - launch.LINES, 100)]
    log.close()


def test_a_rank_that_was_stopped_stops_all():
    assert RankGroup([ended(0, -9, killed=True), ended(1, 75)], grace=1).outcome() == (75, "")


def test_more_ranks_than_a_machine_can_run_are_none():
    with pytest.raises(ConfigError, match="ranks=100000: as many processes would start at once"):
        launch.launch([], ranks=100_000, timeout=1, threads=1)


def test_a_signal_while_ranks_are_started_ends_the_starting(monkeypatch):
    begun = []

    def start(number, command, variables, files):
        begun.append(number)
        os.kill(os.getpid(), signal.SIGTERM)
        return ended(number, 75)

    monkeypatch.setattr(launch, "_started", start)
    assert (launch.launch([], ranks=8, timeout=1, threads=1).code, begun) == (75, [0])
