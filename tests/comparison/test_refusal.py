import pytest

from rlx.comparison.comparison import compare
from rlx.comparison.grouping import group
from rlx.comparison.refusal import Problem, collect, insist, more_seeds
from rlx.errors import EvidenceError
from tests.comparison.records import write_run


def test_all_reasons_are_given_at_once_with_what_to_do():
    problems = [Problem("single", "one seed", "run more"), Problem("budget", "unequal steps", "give all the same")]
    with pytest.raises(EvidenceError) as refused:
        insist(problems, allow=())
    for piece in ("one seed", "run more", "unequal steps", "'allow=[budget,single]'"):
        assert piece in str(refused.value)
    with pytest.raises(EvidenceError, match=r"'allow=\[budget\]'"):
        insist(problems, allow=("single",))
    assert insist(problems, allow=("single", "budget")) == problems


def test_many_of_a_kind_are_counted():
    with pytest.raises(EvidenceError, match="and 4 more like these"):
        insist([Problem("single", f"seed of {i}", "more") for i in range(10)], allow=())


def test_what_cannot_be_allowed_is_not_offered():
    with pytest.raises(EvidenceError) as refused:
        insist([Problem("", "no score", "look")], allow=())
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


def test_evaluations_need_more_trained_seeds(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed, score=0.5 + seed / 10, record={"verb": "evaluate"})
    cautions = {caution.kind: caution.text for caution in compare(tmp_path).cautions}
    assert "train custom_dpo with 10 seeds, and rlx evaluate each of these runs" in cautions["fewer_than_5_seeds"]
