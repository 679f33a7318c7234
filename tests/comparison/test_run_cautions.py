import json

import pytest

from rlx.comparison.comparison import compare
from rlx.comparison.wording import join_names
from tests.comparison.records import normal_scores, write_run, write_sweep
from tests.comparison.test_cautions import texts

LOW, HIGH = normal_scores(0.5, 0.02, 6, seed=1), normal_scores(0.6, 0.02, 6, seed=2)


def test_a_list_of_names_is_short_and_says_what_it_leaves_out():
    assert join_names(["a", "b", "a"]) == "a and b"
    assert join_names([str(number) for number in range(8)]) == "0, 1, 2, 3, 4, 5 and 2 more"


def test_jobs_without_a_record_are_missed(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [{}] * 15}))
    assert "planned 15 jobs, but only 12 of them have a record" in texts(compare(tmp_path))["missing_jobs"]
    (tmp_path / "sweep.json").write_text("damaged")
    assert "missing_jobs" not in texts(compare(tmp_path))


def test_stopping_early_is_said(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH}, stop_at_score=0.4, record={"result": None})
    for place, directory in enumerate(sorted(tmp_path.iterdir())):
        rows = [{"step": 0, "eval/score": 0.3}, {"step": 50, "eval/score": 0.4 + place % 7 / 100}]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "12 runs stopped before num_steps" in texts(compare(tmp_path))["stopped_early"]


def test_budgets_that_are_declared_unequal_are_said(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW})
    write_sweep(tmp_path, {"hybrid": HIGH}, num_steps=200)
    assert "num_steps" in texts(compare(tmp_path, by=["algorithm", "num_steps"]))["unequal_budget"]


def test_data_that_changed_under_one_config_are_said_and_data_of_two_configs_are_not(tmp_path):
    for content, variant, scores in (("aa", "custom_dpo", LOW), ("bb", "hybrid", HIGH)):
        write_sweep(tmp_path / "one", {variant: scores}, record={"provenance": {"data": content}}, task__path="pairs.jsonl")
    text = texts(compare(tmp_path / "one"))["different_data"]
    assert "arithmetic was read with 2 different contents" in text
    for content, noise, scores in (("aa", 0.0, LOW), ("bb", 0.5, HIGH)):
        write_sweep(
            tmp_path / "two" / content, {"custom_dpo": scores}, record={"provenance": {"data": content}}, task__label_noise=noise
        )
    assert "different_data" not in texts(compare(tmp_path / "two", allow="tasks"))


def test_the_same_mixture_of_environments_is_fair_and_another_is_not(tmp_path):
    def made(torch):
        return {"provenance": {"packages": {"torch": torch}}}

    for name, split in (("equal", 3), ("unequal", 5)):
        for algorithm, scores, first in (("custom_dpo", LOW, 3), ("hybrid", HIGH, split)):
            for seed, score in enumerate(scores):
                record = made("2.1" if seed < first else "2.5")
                write_run(tmp_path / name / f"{algorithm}{seed}", algorithm=algorithm, seed=seed, score=score, record=record)
    assert "different_environment" not in texts(compare(tmp_path / "equal"))
    text = texts(compare(tmp_path / "unequal"))["different_environment"]
    assert "custom_dpo 2.1 in 3 of 6 runs and 2.5 in 3 of 6 runs and hybrid 2.1 in 5 of 6 runs" in text


@pytest.mark.parametrize(("last", "said"), [(-0.1, True), (0.05, False)])
def test_a_task_that_says_the_opposite_of_the_verdict_is_named(tmp_path, last, said):
    for task, gap in (("arithmetic", 0.2), ("countdown", 0.2), ("letters", last)):
        write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": [score + gap for score in LOW[::-1]]}, task=task)
    found = compare(tmp_path, allow=["tasks"])
    assert found.pair("hybrid", "custom_dpo").verdict == "better"
    text = texts(found).get("opposite_tasks", "")
    assert ("hybrid and custom_dpo on letters" in text) is said


def test_all_seeds_that_ran_more_than_once_under_other_hashes_are_named(tmp_path):
    write_sweep(tmp_path / "first", {"custom_dpo": LOW, "hybrid": HIGH})
    write_sweep(tmp_path / "again", {"custom_dpo": LOW[:3]}, record={"config_hash": "other"})
    assert "seeds 0, 1 and 2 of custom_dpo: run more than once" in texts(compare(tmp_path))["averaged_seeds"]
