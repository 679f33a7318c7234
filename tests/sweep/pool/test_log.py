"""What a job prints."""

import os

from rlx.sweep.pool.worker import LOG, output_into, tail


def test_output_goes_into_the_log_of_the_job(tmp_path, capfd):
    print("before")
    with output_into(tmp_path / LOG):
        os.write(1, b"within\n")
        os.system("echo from a child")
    print("after")
    assert (tmp_path / LOG).read_text() == "within\nfrom a child\n"
    assert capfd.readouterr().out == "before\nafter\n"


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "log"
    log.write_bytes("".join(f"line {number}\n" for number in range(5000)).encode() + b"\xff torn")
    lines = tail(log, lines=3).splitlines()
    assert lines[0] == "line 4998"
    assert lines[-1].endswith("torn")
    assert tail(tmp_path / "none") == ""
