import json

import pytest

import rlx
from rlx.cli.main import main
from tests.training.trained import last_evaluation, trained_run

pytestmark = pytest.mark.whole

SAME = ["evaluation.num_prompts=8", "evaluation.num_pairs=8", "evaluation.samples_per_prompt=1", "threads=1"]


@pytest.fixture
def evaluate(capfd, tmp_path, monkeypatch):
    """Runs `rlx evaluate` on the run; gives (exit code, the record's directory or None, what was printed)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    run = trained_run()
    capfd.readouterr()

    def call(*arguments, subject=run):
        code = main(["evaluate", *([str(subject)] if subject else []), *SAME, *arguments])
        made = [path for path in (tmp_path / "outputs" / "evaluate").glob("*") if path.name != "latest"]
        return code, max(made, key=lambda path: path.stat().st_mtime_ns, default=None), "".join(capfd.readouterr())

    return call


def figures(directory):
    return {name: value for name, value in last_evaluation(directory).items() if name.startswith("eval/")}


def test_a_checkpoint_scores_what_the_run_measured(evaluate):
    code, directory, _ = evaluate()
    assert code == 0
    measured = {name: value for name, value in last_evaluation(trained_run()).items() if name.startswith("eval/")}
    found = figures(directory)
    assert found.keys() >= measured.keys()
    assert {name: found[name] for name in measured} == pytest.approx(measured, abs=1e-5)


def test_the_record_names_the_run_and_can_be_compared(evaluate, tmp_path):
    _, directory, printed = evaluate()
    record = json.loads((directory / "run.json").read_text())
    assert (record["verb"], record["status"], record["seed"], record["algorithm"]) == ("evaluate", "completed", 3, "custom_grpo")
    assert record["variant"] == json.loads((trained_run() / "run.json").read_text())["variant"]
    assert record["provenance"]["evaluated"]["run"] == str(trained_run())
    assert str(directory.relative_to(tmp_path)) in printed
    (read,) = rlx.runs(directory)
    assert read.result.performance_metrics["eval/score"] == figures(directory)["eval/score"]


def test_another_task_and_several_tries(evaluate):
    changed = ["+task.max_operand=9", "+task.full_reward=null", "evaluation.samples_per_prompt=4"]
    _, directory, _ = evaluate(*changed)
    assert "eval/pass_at_2" not in figures(directory)  # nothing is right or wrong
    _, directory, printed = evaluate(*changed[::2])
    found = figures(directory)
    assert found["eval/pass_at_1"] == pytest.approx(found["eval/reward"])
    assert found["eval/pass_at_1"] <= found["eval/pass_at_2"] <= found["eval/pass_at_4"]
    assert found["eval/reward_standard_error"] >= 0
    assert "standard error over prompts" in printed
    answers = json.loads((directory / "answers.jsonl").read_text())["score"]
    assert sum(answers) / len(answers) == pytest.approx(found["eval/score"])


def test_a_policy_without_a_run_has_not_moved_from_anything(evaluate):
    own = ["policy=tiny_untrained", "policy.hidden_size=16", "policy.intermediate_size=24", "policy.num_heads=2"]
    code, directory, _ = evaluate(*own, "+task.max_operand=9", subject=None)
    assert code == 0
    assert not {"eval/kl", "eval/pair_accuracy"} & figures(directory).keys()
    code, _, printed = evaluate(*own, "task=preference_file", "task.path=x.jsonl", subject=None)
    assert code == 2
    assert "comes without a run; name a RUN" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluation.pass_at_k=[9]"], "evaluation.pass_at_k holds 9"),
        (["checkpoint=1"], "it is last, best or a step with a checkpoint"),
        (["+task.max_operan=9"], "did you mean task.max_operand"),
    ],
)
def test_what_cannot_be_evaluated_is_said(evaluate, arguments, words):
    code, directory, printed = evaluate(*arguments)
    assert code == 2
    assert words in printed
    assert directory is None
