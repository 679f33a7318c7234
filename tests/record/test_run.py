"""A record is read as it was written, or refused with its place."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlx.errors import DataError
from rlx.record.files import read_metrics
from rlx.record.run import (
    SCHEMA_VERSION,
    find_run_directories,
    find_runs,
    read_run,
)
from tests.record.conftest import RESULT


def change(run: Path, **fields: object) -> None:
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**values, **fields}))


def test_what_was_written_is_read(run: Path) -> None:
    record = read_run(run)
    assert (record.status, record.seed, record.algorithm, record.variant) == ("completed", 3, "dpo", "dpo loss.beta=0.2")
    assert record.result == RESULT
    assert record.score == 0.5
    assert record.config["loss"] == {"beta": 0.2}
    assert record.directory == run
    assert read_run(run / "run.json") == record == read_run(run.parent / "latest")
    assert [line["step"] for line in read_metrics(run)] == [0, 1, 2]


def test_the_record_has_the_keys_that_other_tools_rely_on(run: Path) -> None:
    values = json.loads((run / "run.json").read_text())
    promised = "schema_version id status command verb algorithm variant task seed threads config config_hash overrides sources"
    assert set(promised.split()) | {"provenance", "started", "ended", "error", "result"} <= set(values)
    assert next(iter(values)) == "schema_version"
    named = {"algorithm_name", "performance_metrics", "training_time", "convergence_steps", "metadata"}
    assert set(values["result"]) == named


def test_a_running_record_of_a_dead_process_is_interrupted(run: Path) -> None:
    process = read_run(run).process
    change(run, status="running", result=None)
    assert read_run(run).status == "running"
    change(run, process={**process, "birth": "1"})
    assert read_run(run).status == "interrupted"
    change(run, process={**process, "host": "elsewhere"})
    assert read_run(run).status == "running"


def test_keys_that_this_version_does_not_know_are_passed_over(run: Path) -> None:
    change(run, mood="good")
    assert read_run(run).status == "completed"


def test_a_newer_schema_is_refused(run: Path) -> None:
    change(run, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(DataError, match=r"run\.json: written by a newer rlx .*upgrade"):
        read_run(run)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: not JSON"),
        ('{\n"id": 1,\n', "line 3: not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "no schema_version"),
        ('{"schema_version": "1"}', "no schema_version"),
        ('{"schema_version": 1, "id": "x"}', "lacks status, command"),
        ("\ud800", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_damaged_record_is_named(run: Path, text: str, says: str) -> None:
    (run / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=says) as caught:
        read_run(run)
    assert str(run / "run.json") in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "fine"},
        {"status": None},
        {"ended": True},
        {"threads": "x"},
        {"result": {"algorithm_name": "dpo", "performance_metrics": {}, "training_time": 1.0, "metadata": 5}},
        {"config": 3},
        {"seed": "0"},
        {"result": {"x": 1}},
        {"result": {"algorithm_name": "", "performance_metrics": 1, "training_time": 1}},
        {"result": {"algorithm_name": "", "performance_metrics": {"eval/score": "high"}, "training_time": 1}},
        {"process": []},
        {"command": ["rlx", None]},
        {"overrides": [["seed=1"]]},
        {"sources": ["x"]},
        {"resumed": [3]},
        {"provenance": {"rlx": "0.1"}},
    ],
)
def test_a_field_of_the_wrong_kind_is_named(run: Path, fields: dict[str, object]) -> None:
    change(run, **fields)
    with pytest.raises(DataError, match=next(iter(fields))):
        read_run(run)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_of_bytes_leads_to_another_error(run: Path, data: st.DataObject) -> None:
    whole = (run / "run.json").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(max_size=4))
    copy = run.parent / "copy"
    copy.mkdir(exist_ok=True)
    (copy / "run.json").write_bytes(whole[:place] + damage + whole[place + data.draw(st.integers(0, 40)) :])
    with contextlib.suppress(DataError):
        read_run(copy)


def test_no_run_is_said_with_the_way_to_find_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(DataError, match=r"no run here .*rlx runs"):
            read_run(place)


def test_every_run_below_a_path_is_found_once(create, tmp_path: Path) -> None:
    runs = [create().directory for _ in range(3)]
    sweep = tmp_path / "outputs" / "sweep" / "a" / "0_x"
    create(sweep)
    hidden = tmp_path / "outputs" / ".trash"
    shutil.copytree(runs[0], hidden)
    shutil.copytree(runs[0], runs[0] / "checkpoint" / "copy")
    (tmp_path / "outputs" / "train" / "empty").mkdir()
    found = find_run_directories(tmp_path / "outputs")
    assert sorted(found) == sorted([*runs, sweep])
    assert find_run_directories(tmp_path / "outputs" / "train" / "latest") == [runs[-1]]  # by its own name
    assert len(find_run_directories(str(tmp_path / "outputs" / "*" / "*"))) == 4
    assert find_run_directories(runs[0] / "run.json") == [runs[0]]
    assert [record.directory for record in find_runs(sweep.parent)] == [sweep]


def test_a_damaged_record_is_not_left_out_in_silence(run: Path) -> None:
    (run / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json"):
        find_runs(run.parent)


def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        find_run_directories(tmp_path / "absent*")
    assert find_runs(tmp_path) == []


def test_reading_needs_the_standard_library_alone() -> None:
    code = "import rlx.record.run, sys; print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    shown = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert set(shown.stdout.split()) <= {"rlx", "__main__"}
