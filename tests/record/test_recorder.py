"""The laws of a record while it is written: readable after a kill at any moment, never shared, cut back on resume."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlx.errors import ConfigError, RlxError, TrainingError
from rlx.record import files, recorder
from rlx.record.files import read_completions, read_lines, read_metrics, read_samples
from rlx.record.logger.base import Logger
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, find_run_directories, read_run

RESULT = AlgorithmResult("dpo", {"eval/score": 0.5}, 1.5, 50, {})
WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from conftest import FACTS
from rlx.record.recorder import Recorder
run = Recorder.create(output_dir={output!r}, **FACTS)
for step in range(10**6):
    run.log(step, {{"train/loss": 1 / (step + 1), **({{"eval/score": 0.5}} if step % 10 == 0 else {{}})}})
    if step % 10 == 0:
        run.samples(step, [{{"prompt": "1+1=", "completion": "x" * (step % 977)}}])
        run.update(threads=step)
"""


def steps(directory: Path) -> list[int]:
    return [line["step"] for line in read_metrics(directory)]


def test_a_process_killed_at_random_moments_leaves_a_readable_record(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    chance = random.Random(0)
    recorded = 0
    for attempt in range(12):
        output = tmp_path / str(attempt)
        code = WRITER.format(root=str(tests.parents[1]), tests=str(tests), output=str(output))
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 20
        while attempt % 2 and time.monotonic() < deadline and not list(output.glob("train/*/metrics.jsonl")):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.wait()
        for directory in find_run_directories(output) if output.exists() else []:
            recorded += 1
            assert read_run(directory).status == "interrupted"
            done = steps(directory)
            assert done == list(range(len(done)))
            assert [row["step"] for row in read_samples(directory)] in (done[::10], done[::10][:-1])
            last = done[-1] if done else -1
            again = Recorder.reopen(directory, last - last % 10 if last >= 0 else 0)
            again.log(last + 1, {"train/loss": 0.0})
            again.finish(RESULT)
            assert steps(directory)[-1] == last + 1
            assert read_run(directory).status == "completed"
    assert recorded >= 6


class Killed(BaseException):
    pass


@contextlib.contextmanager
def killed_at(call: int, patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """After `call` calls to the operating system that change a file, no further one is made."""
    count = [0]

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] > call:
                raise Killed
            return act(*arguments, **options)

        return wrapped

    with patch.context() as inner:
        for name in ("write", "replace", "link", "symlink", "mkdir", "ftruncate", "unlink", "fsync", "truncate"):
            inner.setattr(os, name, dying(getattr(os, name)))
        for name in ("unlink", "mkdir", "write_bytes", "write_text"):
            inner.setattr(Path, name, dying(getattr(Path, name)))
        with contextlib.suppress(Killed):
            yield count


def test_a_kill_before_any_call_to_the_operating_system_leaves_a_readable_record(create, tmp_path, monkeypatch) -> None:
    for call in itertools.count():
        output = tmp_path / str(call)
        output.mkdir()
        complete = False
        with killed_at(call, monkeypatch):
            run = create(output_dir=output)
            run.log(0, {"eval/score": 0.5})
            run.samples(0, [{"prompt": "p"}])
            run.log(1, {"train/loss": 0.5})
            run.update(threads=2)
            run.interrupt()
            run = Recorder.reopen(run.directory, 0)
            run.log(1, {"train/loss": 0.5})
            run.finish(RESULT)
            complete = True
        found = find_run_directories(output)
        assert len(found) <= 1
        for directory in found:
            record = read_run(directory)
            assert record.status in ("running", "interrupted", "completed")
            assert steps(directory) in ([], [0], [0, 1])
            assert read_samples(directory) in ([], [{"step": 0, "prompt": "p"}])
        for file in output.glob("train/latest"):
            assert file.exists()
        if complete:
            break
    assert call > 20
    assert record.status == "completed"
    assert not list(directory.glob(".*"))


def test_a_reader_at_any_moment_finds_the_record_whole(create) -> None:
    run = create(config={"filler": ["x" * 100] * 1000})
    stop = threading.Event()

    def write() -> None:
        for step in itertools.count():
            if stop.is_set():
                return
            run.update(threads=step)
            run.log(step, {"train/loss": 1.0})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            assert read_run(run.directory).status == "running"
            done = steps(run.directory)
            assert done == list(range(len(done)))
    finally:
        stop.set()
        writer.join()
    run.interrupt()


def test_runs_that_start_in_one_second_do_not_share_a_directory(create) -> None:
    barrier = threading.Barrier(8)

    def start(_: int) -> Recorder:
        barrier.wait()
        return create()

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(start, range(8)))
    assert len({run.directory for run in runs}) == 8
    assert len({run.record.id for run in runs}) == 8
    assert read_run(runs[0].directory.parent / "latest").id in {run.record.id for run in runs}
    for run in runs:
        run.interrupt()


def test_a_directory_that_holds_a_run_is_refused_and_left_as_it_is(create, tmp_path: Path) -> None:
    run = create(tmp_path / "mine")
    run.log(0, {"eval/score": 0.5})
    run.finish(RESULT)
    before = {file.name: file.read_bytes() for file in run.directory.iterdir() if file.is_file()}
    with pytest.raises(ConfigError, match=r"already holds a run; .*resume="):
        create(tmp_path / "mine")
    assert {file.name: file.read_bytes() for file in run.directory.iterdir() if file.is_file()} == before


def test_of_many_that_claim_one_directory_one_gets_it(create, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def claim(seed: int) -> Recorder | None:
        barrier.wait()
        try:
            return create(tmp_path / "mine", seed=seed)
        except ConfigError:
            return None

    with ThreadPoolExecutor(8) as pool:
        got = [run for run in pool.map(claim, range(8)) if run is not None]
    assert len(got) == 1
    assert read_run(tmp_path / "mine").seed == got[0].record.seed
    got[0].interrupt()


def test_latest_is_not_for_a_directory_of_the_callers_own(create, tmp_path: Path) -> None:
    create(tmp_path / "job").interrupt()
    assert not (tmp_path / "outputs" / "train" / "latest").exists()
    create(tmp_path / "other", latest=True).interrupt()
    assert read_run(tmp_path / "outputs" / "train" / "latest").directory.samefile(tmp_path / "outputs" / "train" / "latest")


def test_a_resume_cuts_what_came_after_the_checkpoint(create) -> None:
    run = create()
    for step in range(8):
        run.log(step, {"train/loss": step})
        run.samples(step, [{"prompt": str(step)}] * 2)
        run.answers(step, [1.0, 0.0], digest="abc", completions=[{"completion": "a"}, {"completion": "b"}])
    run.interrupt(signal="SIGTERM")
    assert read_run(run.directory).error["signal"] == "SIGTERM"
    again = Recorder.reopen(run.directory, 5, command=["rlx", "train", "resume=x"], threads=2)
    assert steps(run.directory) == [0, 1, 2, 3, 4, 5]
    assert [row["step"] for row in read_samples(run.directory)] == [step for step in range(6) for _ in range(2)]
    assert [row["step"] for row in read_lines(run.directory, "answers.jsonl")] == list(range(6))
    record = read_run(run.directory)
    assert (record.status, record.error, record.ended, record.threads) == ("running", None, None, 2)
    assert (record.id, record.started) == (run.record.id, run.record.started)
    assert (record.resumed[0]["step"], record.resumed[0]["logged"]) == (5, 7)
    again.log(6, {"train/loss": 6})
    again.finish(RESULT)
    assert steps(run.directory) == [0, 1, 2, 3, 4, 5, 6]


def test_completions_of_the_last_evaluation_alone_are_kept(create) -> None:
    run = create()
    for step in range(3):
        run.answers(step, [1.0, 0.0], digest="abc", completions=[{"completion": "a"}, {"completion": "b"}])
    run.answers(3, [])
    rows = read_completions(run.directory)
    assert rows == [{"step": 2, "score": score, "completion": said} for score, said in ((1.0, "a"), (0.0, "b"))]
    assert read_lines(run.directory, "answers.jsonl")[0] == {"step": 0, "score": [1.0, 0.0], "prompts": "abc"}
    run.interrupt()
    Recorder.reopen(run.directory, 2).interrupt()
    assert read_completions(run.directory) == rows
    Recorder.reopen(run.directory, 1).interrupt()
    assert read_completions(run.directory) == []


def test_completions_beyond_the_cap_are_those_of_the_last_prompts(create, monkeypatch) -> None:
    monkeypatch.setattr("rlx.record.recorder.MOST_COMPLETION_BYTES", 1000)
    run = create()
    run.answers(0, [1.0] * 9, completions=[{"completion": str(place) * 200} for place in range(9)])
    assert [row["completion"][0] for row in read_completions(run.directory)] == ["0", "1", "2", "3"]
    assert (run.directory / "completions.jsonl").stat().st_size <= 1000
    run.interrupt()


def test_a_run_that_still_runs_is_not_resumed(create) -> None:
    run = create()
    with pytest.raises(ConfigError, match=f"still running .process {os.getpid()}"):
        Recorder.reopen(run.directory, 0)
    run.interrupt()


def test_two_that_resume_one_run_do_not_mix(create) -> None:
    run = create()
    run.interrupt()
    first = Recorder.reopen(run.directory, 0)
    values = json.loads((run.directory / "run.json").read_text())
    (run.directory / "run.json").write_text(json.dumps({**values, "status": "interrupted"}))
    with pytest.raises(ConfigError, match="another process is writing"):
        Recorder.reopen(run.directory, 0)
    first.finish(RESULT)


def test_metrics_are_numbers(create) -> None:
    import numpy as np

    run = create()
    run.log(0, {"a": np.float32(0.5), "b": np.array([2.0]), "c": True, "d": np.int64(3)})
    assert read_metrics(run.directory) == [{"step": 0, "a": 0.5, "b": 2.0, "c": 1, "d": 3}]
    for value in (None, "high", [1.0, 2.0], {"x": 1}):
        with pytest.raises(TrainingError, match="metric train/mine is"):
            run.log(1, {"train/mine": value})
    run.interrupt()


def test_hostile_text_stays_text(create) -> None:
    texts = ["\n", "\r\n", "\u2028", "\ud800", "\0", '"}', "NaN", "\x1b[2J", "é" * 9]
    run = create(overrides=[f"task.path={text}" for text in texts], config={"text": texts}, config_yaml="\ud800")
    run.log(0, {text + "loss": 1.0 for text in texts})
    run.samples(0, [{"prompt": text, "completion": text} for text in texts])
    run.fail(ValueError("\ud800\n"))
    assert read_run(run.directory).config["text"] == texts
    assert set(read_metrics(run.directory)[0]) == {"step", *(text + "loss" for text in texts)}
    assert [row["completion"] for row in read_samples(run.directory)] == texts


def test_a_failure_is_recorded_with_its_reason(create) -> None:
    for error, has_traceback in ((TrainingError("loss is NaN"), False), (KeyError("bug"), True)):
        run = create()
        try:
            raise error
        except (RlxError, KeyError) as raised:
            run.fail(raised, step=7)
        record = read_run(run.directory)
        assert record.status == "failed"
        assert record.error["type"] == type(error).__name__
        assert record.error["step"] == 7
        assert ("traceback" in record.error) is has_traceback
        assert record.ended is not None


def test_a_full_disk_leaves_room_for_the_last_words(create, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create()
    write = files.write_atomic

    def full(path: Path, data: bytes) -> None:
        if (run.directory / ".reserve").exists():
            raise OSError(errno.ENOSPC, "no space")
        write(path, data)

    monkeypatch.setattr(recorder, "write_atomic", full)
    run.fail(TrainingError("cannot write metrics.jsonl: the disk is full"))
    assert read_run(run.directory).status == "failed"


def test_a_record_that_cannot_be_ended_is_said_and_hides_no_error(create, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run = create(warn=said.append)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(recorder, "write_atomic", full)
    run.fail(TrainingError("loss is NaN"))
    assert "the disk is full" in said[0]
    with pytest.raises(TrainingError, match=r"run\.json: the disk is full"):
        run.finish(RESULT)


def test_a_directory_that_cannot_be_made_is_one_message(create, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*file/outputs/train: .*output_dir=DIR"):
        create(output_dir=tmp_path / "file" / "outputs")


class Watching(Logger):
    """Remembers what it was told; raises in the method it was told to fail in."""

    def __init__(self, fails_in: str = "") -> None:
        self.told: list[str] = []
        self._fails_in = fails_in

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if what == self._fails_in:
            raise RuntimeError("server is down")

    def open(self, run: Any, *, resumed_at: int | None = None) -> None:
        self._tell("open" if resumed_at is None else f"reopen {resumed_at}")

    def log(self, step: int, metrics: Any) -> None:
        self._tell("log")

    def samples(self, step: int, rows: Any) -> None:
        self._tell("samples")

    def close(self, status: str) -> None:
        self._tell(f"close {status}")


@pytest.mark.parametrize("fails_in", ["open", "log", "samples", "close completed", ""])
def test_a_logger_that_fails_is_switched_off_with_one_warning(create, fails_in: str) -> None:
    said: list[str] = []
    bad, good = Watching(fails_in), Watching()
    run = create(loggers={"bad": bad, "good": good}, warn=said.append)
    for step in range(3):
        run.log(step, {"train/loss": 1.0})
        run.samples(step, [{"prompt": "p"}])
    run.finish(RESULT)
    assert good.told == ["open", *["log", "samples"] * 3, "close completed"]
    assert bad.told == (good.told[: good.told.index(fails_in) + 1] if fails_in else good.told)
    assert len(said) == bool(fails_in)
    assert all("logger bad failed and is switched off: RuntimeError: server is down" in text for text in said)
    assert steps(run.directory) == [0, 1, 2]
    assert read_run(run.directory).status == "completed"


def test_loggers_are_told_of_a_resume(create) -> None:
    create_run = create()
    create_run.interrupt()
    watching = Watching()
    Recorder.reopen(create_run.directory, 4, loggers={"w": watching}).interrupt()
    assert watching.told == ["reopen 4", "close interrupted"]


def test_a_missing_package_is_said_before_anything_is_made(create, tmp_path: Path) -> None:
    class NeedsMore(Logger):
        extra = "wandb"
        packages = ("no_such_package",)

    with pytest.raises(ConfigError, match=r"NeedsMore needs the package no_such_package.*pip install 'rlx\[wandb\]'"):
        create(loggers={"more": NeedsMore()})
    assert not (tmp_path / "outputs").exists()


def test_the_users_sources_are_kept_and_hashed(create, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kept_lab.py").write_text("class Mine: ...\n")
    config = {"algorithm": {"_target_": "kept_lab.Mine"}}
    first = create(config=config)
    (tmp_path / "kept_lab.py").write_text("class Mine: pass\n")
    second = create(config=config)
    assert (first.directory / "sources" / "kept_lab.py").read_text() == "class Mine: ...\n"
    (source,) = read_run(first.directory).sources
    assert source["copy"] == "sources/kept_lab.py"
    assert first.record.config_hash != second.record.config_hash
    first.interrupt()
    second.interrupt()


def test_the_directory_may_be_moved_and_the_working_directory_changed(
    create, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = create(output_dir="outputs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.log(0, {"train/loss": 1.0})
    run.samples(0, [{"prompt": "p"}])
    run.finish(RESULT)
    shutil.move(tmp_path / "outputs", tmp_path / "moved")
    assert read_run(tmp_path / "moved" / "train" / "latest").status == "completed"


def test_an_evaluation_that_was_logged_before_the_resume_is_logged_once(create):
    recorder = create()
    for step in (0, 5):
        recorder.log(step, {"eval/score": 0.5})
        recorder.samples(step, [{"prompt": "a", "completion": "b"}])
        recorder.answers(step, [1.0, 0.0])
    recorder.interrupt(signal="SIGTERM")
    again = Recorder.reopen(recorder.directory, 5)
    for step in (5, 6):  # a run that was killed between its last checkpoint and its end evaluates its last step again
        again.samples(step, [{"prompt": "a", "completion": "b"}])
        again.answers(step, [1.0, 0.0])
    again.interrupt(signal="SIGTERM")
    for name in ("samples.jsonl", "answers.jsonl"):
        assert [row["step"] for row in read_lines(recorder.directory, name)] == [0, 5, 6]


def test_a_log_that_cannot_be_read_back_is_said_and_loses_no_result(create, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run = create(warn=said.append)
    run.log(1, {"eval/score": 0.5})

    def digests(directory: Path) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(recorder, "digests_of_logs", digests)
    run.finish(RESULT)
    assert "Input/output error" in "".join(said)
    assert (read_run(run.directory).score, read_run(run.directory).logs) == (0.5, {})
