"""Standard output and error that are closed, full, or read by nobody: the command ends as it would, and says what was lost."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from rlx.errors import ExitCode
from tests.training.conftest import SMALL

FULL = "/dev/full"
VERBS = {"--help": 0, "info loss=ipo": 0, "--cfg job": 0, "runs": 0, "compare nowhere": 2}
LIGHT = ["--help", "--cfg job", "compare nowhere"]  # text of rlx, of Hydra, and an error
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full on this system")


def ran(words, tmp_path, redirected="", variables=None):
    """Exit code, standard output and standard error of a command under a shell's redirections."""
    command = f"{sys.executable} -m rlx {words} {redirected}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **(variables or {})}
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return done


@pytest.mark.whole
@pytest.mark.parametrize("words", LIGHT)
def test_a_closed_output_changes_no_exit_code(tmp_path, words):
    done = ran(words, tmp_path, ">&-")
    assert done.returncode == VERBS[words], done.stderr
    assert done.stdout == ""
    assert ran(words, tmp_path, "2>&-").returncode == VERBS[words]


@pytest.mark.whole
@needs_full
@pytest.mark.parametrize("words", VERBS)
def test_an_output_that_takes_nothing_is_said_and_fails(tmp_path, words):
    done = ran(words, tmp_path, f">{FULL}")
    printed = VERBS[words] == 0 and words != "runs"  # of which there are none
    assert done.returncode == (ExitCode.FAILED if printed else VERBS[words])
    assert ("rlx: standard output could not be written: No space left on device" in done.stderr) == printed
    if words == "compare nowhere":  # the others say nothing there
        assert ran(words, tmp_path, f"2>{FULL}").returncode == VERBS[words]


@pytest.mark.whole
@pytest.mark.parametrize("words", LIGHT)
def test_a_reader_that_ends_early_changes_no_exit_code(tmp_path, words):
    done = ran(words, tmp_path, "| head -c 1 > /dev/null; exit ${PIPESTATUS[0]}")
    assert done.returncode == VERBS[words], done.stderr
    assert "could not be written" not in done.stderr


@pytest.mark.whole
@needs_full
@pytest.mark.parametrize("redirected", [">&- 2>&-", f">{FULL} 2>{FULL}", "2>&1 | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}"])
def test_a_training_whose_output_is_gone_ends_with_its_record(tmp_path, redirected):
    words = f"train {shlex.join(SMALL)} num_steps=2 eval_every=1 loss=ipo"
    done = ran(words, tmp_path, redirected)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / "train" / "latest"
    assert json.loads((run / "run.json").read_text())["status"] == "completed"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]  # what is printed goes into no file that has the output's number


def test_writes_never_raise_and_the_loss_is_known(monkeypatch):
    from rlx.cli import output

    reader, writer = os.pipe()
    stream = output._stream(writer, None)
    os.close(reader)
    print("x" * 100_000, file=stream, flush=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert output.lost_output() is None  # a reader that is gone misses nothing
    os.close(writer)


@needs_full
def test_a_full_device_is_named(monkeypatch):
    from rlx.cli import output

    with open(FULL, "w") as full:
        stream = output._stream(full.fileno(), None)
        print("text", file=stream)
        monkeypatch.setattr(sys, "stdout", stream)
        assert output.lost_output() == "standard output could not be written: No space left on device; what was shown is not all"


def test_a_pipe_that_another_process_made_non_blocking_is_waited_for():
    from rlx.cli import output

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "x" * 300_000
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], stdin=reader, stdout=subprocess.PIPE
    )
    os.close(reader)
    print(text, end="", file=output._stream(writer, None), flush=True)
    os.close(writer)
    assert int(child.communicate(timeout=30)[0]) == len(text)
