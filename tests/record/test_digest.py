import os

import pytest

from rlx.record.digest import damaged_log, digest_of, digests_of_logs


def test_a_digest_is_of_the_first_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abcdef")
    (tmp_path / "b").write_bytes(b"abc")
    assert digest_of(tmp_path / "a", 3) == digest_of(tmp_path / "b")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")


@pytest.mark.parametrize(
    ("lines", "damage"),
    [
        (b'{"step": 1}\n', None),
        (b'{"step": 2}\n', "does not hold the lines"),
        (b'{"step"', "has 7 of the 12 bytes"),
        (b"", "is gone, with the lines"),
        (b'{"step": 1}\n{', "has 13 bytes, not the 12 bytes"),
    ],
)
def test_every_change_of_a_log_is_found(tmp_path, lines, damage):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n')
    logs = digests_of_logs(tmp_path)
    file.write_bytes(lines)
    assert damaged_log(tmp_path, logs, may_be_longer=False) == (damage and f"{file} {damage}")


def test_later_lines_are_allowed_where_a_checkpoint_was_written_between(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"a\n")
    logs = digests_of_logs(tmp_path)
    file.write_bytes(b"a\nb\n")
    assert damaged_log(tmp_path, logs, may_be_longer=True) is None


def test_a_pipe_in_place_of_a_log_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert digests_of_logs(tmp_path) == {}
    logs = {"metrics.jsonl": {"bytes": 3, "sha256": "0"}}
    assert "is gone" in damaged_log(tmp_path, logs, may_be_longer=False)
