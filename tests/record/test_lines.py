"""What a run logged is read as it was written, or refused with its place."""

import math
from pathlib import Path

import pytest

from rlx.errors import DataError
from rlx.record import files
from rlx.record.lines import prompt_text, read_metrics, read_samples, read_tail


def test_the_cut_last_line_is_left_out_at_every_place(run: Path) -> None:
    file = run / "metrics.jsonl"
    whole = file.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for end in range(last, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert [line["step"] for line in read_metrics(run)] == [0, 1]
    file.write_bytes(whole[:last] + b"\0" * 40)
    assert len(read_metrics(run)) == 2


@pytest.mark.parametrize("line", ["rubbish", "[1]", '{"loss": 1}', '{"step": "1"}', '{"step": 1'])
def test_a_damaged_line_inside_is_named(run: Path, line: str) -> None:
    (run / "metrics.jsonl").write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_metrics(run)


def test_metrics_that_are_not_finite_come_back(create) -> None:
    recorder = create()
    recorder.log(0, {"a": math.nan, "b": math.inf, "c": -math.inf})
    recorder.samples(0, [{"completion": "NaN"}])
    (line,) = read_metrics(recorder.directory)
    assert math.isnan(line["a"])
    assert (line["b"], line["c"]) == (math.inf, -math.inf)
    assert read_samples(recorder.directory) == [{"step": 0, "completion": "NaN"}]
    recorder.interrupt()


def test_a_prompt_of_plain_messages_is_lines_and_any_other_stays() -> None:
    assert prompt_text([{"role": "user", "content": "Hi"}]) == "user: Hi"
    call = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]
    for kept in ("12+34=", call, [], None):
        assert prompt_text(kept) is kept


def test_a_run_that_has_written_no_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    with pytest.raises(DataError, match="no such run directory"):
        read_metrics(tmp_path / "absent")


def test_the_tail_is_the_end_of_the_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"".join(files.json_line({"step": step, "x": "y" * (step % 50)}) for step in range(500)))
    whole = read_metrics(tmp_path)
    for size in (1, 60, 100, 1000, 10**6):
        tail = read_tail(file, size)
        assert tail == whole[len(whole) - len(tail) :]
    assert read_tail(file, 1000)[-1]["step"] == 499
