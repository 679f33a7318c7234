import json

import pytest

from rlx.comparison.choices import Choices
from rlx.comparison.comparison import compare
from rlx.comparison.evidence import gather
from rlx.config.compose import read_yaml
from rlx.config.schema import conf_dir
from rlx.errors import ConfigError, DataError, EvidenceError
from rlx.record.digest import digests_of_logs
from rlx.record.provenance import code_hash, config_hash
from rlx.record.run import read_run, up_to_date
from tests.comparison.records import config_of, normal_scores, write_run, write_sweep

LOW, HIGH = normal_scores(0.5, 0.02, 8, seed=1), normal_scores(0.6, 0.03, 8, seed=2)


def kinds(comparison):
    return {caution.kind for caution in comparison.cautions}


def test_runs_are_told_apart_by_variant_and_by_whether_they_count(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    write_run(tmp_path / "broken", algorithm="hybrid", seed=9, status="failed", score=None)
    defaults = {str(key): value for key, value in read_yaml(conf_dir() / "compare.yaml").items()}
    evidence = gather(tmp_path, Choices.of({**defaults, "failed": "exclude"}))
    every, counted = evidence.of("hybrid")
    assert (len(every), len(counted), len(evidence.done)) == (9, 8, 17)
    assert {run.variant for run in every} == {"hybrid"}
    assert sorted(run.score for run in counted) == sorted(HIGH)


def test_damaged_records_are_refused_unless_allowed(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    (tmp_path / "custom_dpo_0_" / "run.json").write_text('{"schema_version": 1, "id"')
    with pytest.raises(EvidenceError, match="the record was damaged"):
        compare(tmp_path)
    comparison = compare(tmp_path, allow=["damaged"])
    assert next(v for v in comparison.variants if v.label == "custom_dpo").n == 7
    assert "allowed_damaged" in kinds(comparison)


def test_a_repeated_run_is_no_further_seed(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    write_run(tmp_path / "again", algorithm="hybrid", seed=0, score=0.99, record={"started": "2027-01-01T00:00:00+00:00"})
    comparison = compare(tmp_path)
    hybrid = next(v for v in comparison.variants if v.label == "hybrid")
    assert (hybrid.n, hybrid.best) == (8, 0.99)
    assert "repeated_runs" in kinds(comparison)


def test_only_common_tasks_count_when_some_are_missing(tmp_path):
    for task in ("one", "two"):
        write_sweep(tmp_path / task, {"custom_dpo": LOW, "hybrid": HIGH}, task=task)
    write_sweep(tmp_path / "three", {"custom_dpo": LOW}, task="three")
    with pytest.raises(EvidenceError, match=r"(?s)hybrid was not run on three.*run it there, if that task gives what it learns"):
        compare(tmp_path, allow="tasks")
    assert sorted(compare(tmp_path, allow="tasks,missing").tasks) == ["one", "two"]


def test_runs_that_failed_on_a_task_on_which_nothing_ran_are_no_other_task(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    for seed in (0, 1):  # two tries with a key of the task misspelt
        failed = write_run(
            tmp_path / f"typo{seed}", algorithm="hybrid", seed=seed, status="failed", score=None, task__prompt_key="q"
        )
        (failed / "metrics.jsonl").unlink()
    comparison = compare(tmp_path)
    assert (len(comparison.tasks), [variant.failed for variant in comparison.variants]) == (1, [0, 0])
    assert "left out: 2" in next(caution.text for caution in comparison.cautions if caution.kind == "failed_elsewhere")
    with pytest.raises(EvidenceError, match="none of its runs has a score"):
        compare([tmp_path / "typo0", tmp_path / "typo1"])


def test_a_config_that_does_not_have_its_hash_is_refused_unless_allowed(tmp_path):
    code = {"provenance": {"rlx": {"code": code_hash()}}}
    for seed, score in enumerate(HIGH):
        config = up_to_date(config_of("hybrid", seed=seed))
        write_run(
            tmp_path / f"{seed}", algorithm="hybrid", seed=seed, score=score, record={"config_hash": config_hash(config), **code}
        )
    assert [variant.n for variant in compare(tmp_path).variants] == [len(HIGH)]
    record = tmp_path / "0" / "run.json"
    record.write_text(record.read_text().replace('"lr": 0.001', '"lr": 0.002'))
    with pytest.raises(EvidenceError, match=r"run\.json was changed: its config does not have the recorded hash"):
        compare(tmp_path)
    assert [variant.n for variant in compare(tmp_path, allow=["damaged"]).variants] == [len(HIGH) - 1]


@pytest.mark.parametrize("name", ["metrics.jsonl", "answers.jsonl"])
def test_a_number_that_was_changed_after_the_run_is_refused_unless_allowed(tmp_path, name):
    for seed, score in enumerate(HIGH):
        run = write_run(tmp_path / f"{seed}", seed=seed, score=score, answers=[score, score])
        values = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**values, "logs": digests_of_logs(run)}))
    assert [variant.n for variant in compare(tmp_path).variants] == [len(HIGH)]
    lines = tmp_path / "0" / name
    lines.write_text(
        lines.read_text().replace("0.3", "0.4", 1) if name == "metrics.jsonl" else lines.read_text().replace("[0", "[1")
    )
    with pytest.raises(EvidenceError, match=rf"{name} does not hold the lines that were logged"):
        compare(tmp_path)
    assert [variant.n for variant in compare(tmp_path, allow=["damaged"]).variants] == [len(HIGH) - 1]


@pytest.mark.parametrize(
    "logs", [7, {"../a": {"bytes": 1, "sha256": ""}}, {"metrics.jsonl": 3}, {"metrics.jsonl": {"bytes": "1"}}]
)
def test_strange_digests_are_a_damaged_record(tmp_path, logs):
    run = write_run(tmp_path / "run", record={"logs": logs})
    with pytest.raises(DataError, match=r"logs .*the record was damaged"):
        read_run(run)


def test_a_metric_that_no_run_has_is_named_with_the_nearest(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.5, 0.6]})
    with pytest.raises(ConfigError, match=r"metric=eval/scoer.*did you mean eval/score\?; there are eval/accuracy, eval/kl"):
        compare(tmp_path, metric="eval/scoer")
