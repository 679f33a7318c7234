import json
import re
import shlex

import pytest

from rlx.comparison.comparison import compare
from rlx.comparison.grouping import group
from rlx.comparison.refusal import Problem, collect, more_seeds, require_allowed, task_condition
from rlx.errors import EvidenceError
from rlx.record.query import keep
from tests.comparison.records import write_run


def test_all_reasons_are_given_at_once_with_what_to_do():
    problems = [Problem("single", "one seed", "run more"), Problem("budget", "unequal steps", "give all the same")]
    with pytest.raises(EvidenceError) as refused:
        require_allowed(problems, allow=())
    for piece in ("one seed", "run more", "unequal steps", "'allow=[budget,single]'"):
        assert piece in str(refused.value)
    with pytest.raises(EvidenceError, match=r"'allow=\[budget\]'"):
        require_allowed(problems, allow=("single",))
    assert require_allowed(problems, allow=("single", "budget")) == problems


def test_many_of_a_kind_are_counted():
    with pytest.raises(EvidenceError, match="and 4 more like these"):
        require_allowed([Problem("single", f"seed of {i}", "more") for i in range(10)], allow=())


def test_what_cannot_be_allowed_is_not_offered():
    with pytest.raises(EvidenceError) as refused:
        require_allowed([Problem("", "no score", "look")], allow=())
    assert "allow=" not in str(refused.value)


def test_the_command_for_more_seeds_keeps_what_was_chosen(tmp_path):
    overrides = ["algorithm=hybrid", "algorithm.dpo_weight=0.25", "seed=3", "task.path=my file.jsonl"]
    write_run(tmp_path / "a", algorithm="hybrid", overrides=overrides)
    runs = group(collect(tmp_path, metric="eval/score", score="last").runs, by=None).runs
    command = more_seeds(runs, "hybrid")
    assert command == "rlx -m algorithm=hybrid algorithm.dpo_weight=0.25 'task.path=my file.jsonl' 'seed=range(0,10)'"


def test_the_command_for_more_seeds_names_the_folders_of_its_configs(tmp_path):
    write_run(tmp_path / "a", record={"command": ["rlx", "train", "--config-dir", "conf", "loss=mine"]})
    runs = group(collect(tmp_path, metric="eval/score", score="last").runs, by=None).runs
    assert more_seeds(runs, "custom_dpo").startswith("rlx -m --config-dir conf algorithm=custom_dpo")


def test_the_command_for_more_seeds_runs_every_task_of_the_variant(tmp_path):
    for task, chosen in {"arithmetic": [], "sorting": ["task=sorting", "task.max_operand=5"]}.items():
        for seed in range(2):
            overrides = ["algorithm=dpo", *chosen, f"++seed={seed}"]
            write_run(tmp_path / f"{task}{seed}", algorithm="dpo", task=task, seed=seed, overrides=overrides)
    runs = group(collect(tmp_path, metric="eval/score", score="last").runs, by=None).runs
    assert more_seeds(runs, "dpo", first=2).split(" && ") == [
        "rlx -m algorithm=dpo 'seed=range(2,12)'",
        "rlx -m algorithm=dpo task=sorting task.max_operand=5 'seed=range(2,12)'",
    ]


def test_the_command_for_more_seeds_leaves_the_algorithm_of_an_experiment_alone(tmp_path):
    write_run(tmp_path / "a", algorithm="MyAlgo", overrides=["experiment=best"])
    runs = group(collect(tmp_path, metric="eval/score", score="last").runs, by=None).runs
    assert more_seeds(runs, "MyAlgo") == "rlx -m experiment=best 'seed=range(0,10)'"


REWARDS = {
    "exact_match": {"task__rewards": {"exact_match": {"_target_": "rlx.task.reward.parts.ExactMatch", "weight": 1.0}}},
    "digits": {"task__rewards": {"digits": {"_target_": "mylab.digits", "_partial_": True, "unit": "a b", "limit": None}}},
}


def test_tasks_of_other_rewards_are_told_apart_by_a_condition_that_can_be_typed(tmp_path):
    for name, changes in REWARDS.items():
        for seed in range(2):
            write_run(tmp_path / f"{name}{seed}", seed=seed, score=0.5 + seed / 10, **changes)
    with pytest.raises(EvidenceError) as refused:
        compare(tmp_path)
    assert "the runs of arithmetic are on 2 rewards: digits / exact_match" in str(refused.value)
    assert not re.search(r"_partial_|=-", str(refused.value))
    typed = re.search(r"where=\S+|'where=[^']+'", str(refused.value))[0]
    assert compare(tmp_path, where=shlex.split(typed)[0].removeprefix("where=")).tasks == ("arithmetic",)


def test_conditions_tell_tasks_of_any_settings_apart(tmp_path):
    settings = [{"task__max_operand": 9}, {"task__max_operand": 20}, {"task__max_operand": 20, "task__note": 'it\'s "a, b"'}, {}]
    for place, changes in enumerate(settings):
        write_run(tmp_path / f"a{place}", seed=0, **changes)
    write_run(tmp_path / "b", seed=0, task="sorting")
    runs = group(collect(tmp_path, metric="eval/score", score="last").runs, by=None).runs
    labels = {run.task for run in runs}
    assert len(labels) == 5
    for label in labels:
        kept = keep(list(runs), task_condition(runs, label), facts=lambda run: run.facts)
        assert {run.task for run in kept} == {label}


def test_the_command_for_a_missing_task_names_the_task(tmp_path):
    on_text = ["algorithm=hybrid", "task=sorting", "task.max_operand=5", "seed=0"]
    write_run(tmp_path / "a", algorithm="hybrid", task="sorting", overrides=on_text)
    write_run(tmp_path / "b", algorithm="dpo", overrides=["algorithm=dpo", "task=arithmetic", "loss.beta=0.2"])
    with pytest.raises(EvidenceError) as refused:
        compare(tmp_path)
    assert "rlx -m algorithm=dpo loss.beta=0.2 task=sorting task.max_operand=5 'seed=range(0,10)'" in str(refused.value)
    assert "task=..." not in str(refused.value)


def test_evaluations_need_more_trained_seeds(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed, score=0.5 + seed / 10, record={"verb": "evaluate"})
    cautions = {caution.kind: caution.text for caution in compare(tmp_path).cautions}
    assert "train custom_dpo with 10 seeds, and rlx evaluate each of these runs" in cautions["fewer_than_5_seeds"]


def test_a_metric_that_a_variant_never_logs_is_no_damage_to_its_runs(tmp_path):
    for algorithm in ("custom_dpo", "grpo"):
        for seed in range(5):
            place = write_run(tmp_path / f"{algorithm}{seed}", algorithm=algorithm, seed=seed, score=0.5 + seed / 100)
            lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            rows = [{**line, "train/entropy": 1.0 + seed / 10} if algorithm == "grpo" else line for line in lines]
            (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EvidenceError) as refused:
        compare(tmp_path, metric="-train/entropy", allow=["unfinished"])
    text = str(refused.value)
    assert "custom_dpo: no run logs train/entropy" in text
    assert "compare by a metric that all variants log" in text
    for word in ("resume=", "ends before", "allow=", "grpo"):
        assert word not in text
