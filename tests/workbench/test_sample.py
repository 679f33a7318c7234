import json

import numpy as np
import pytest

import rlx
from rlx.cli.main import main
from rlx.data.sequences import Sequences
from tests.training.trained import trained_run

pytestmark = pytest.mark.whole


@pytest.fixture
def sample(capfd, tmp_path, monkeypatch):
    """Runs `rlx sample` on the run; gives its completions, or (exit code, message) if there are none."""
    monkeypatch.chdir(tmp_path)
    run = trained_run()
    capfd.readouterr()

    def call(*arguments, subject=run):
        code = main(["sample", *([str(subject)] if subject else []), "format=json", "threads=1", "max_new_tokens=5", *arguments])
        printed, said = capfd.readouterr()
        return [json.loads(line) for line in printed.splitlines()] if code == 0 else (code, said)

    return call


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_completions_come_with_their_log_probability_at_temperature_1(sample, temperature):
    rows = sample('prompt=["12+34=","7+8="]', "num_samples=3", f"temperature={temperature}")
    assert [row["prompt"] for row in rows] == ["12+34="] * 3 + ["7+8="] * 3
    policy = rlx.load("policy", "pretrained", path=str(trained_run()))
    for row in rows:
        tokens = policy.encode_prompt(row["completion"]) if row["completion"] else np.zeros(0, dtype=np.int64)
        ending = np.array(policy.eos_token_ids[:1] if row["finished"] else (), dtype=np.int64)
        completion = np.concatenate([tokens, ending])
        if row["num_tokens"] != len(completion):
            continue  # a special token in the middle, which the text does not show
        logprobs = policy.token_logprobs(Sequences((policy.encode_prompt(row["prompt"]),), ((completion,),)))
        assert row["logprob"] == pytest.approx(logprobs.sum().item(), abs=1e-3)
        assert "reward" not in row


def test_a_prompt_is_completed_the_same_whatever_else_is_asked(sample):
    alone = sample("prompt=12+34=")
    assert len(alone) == 4
    assert sample('prompt=["7+8=","12+34="]')[4:] == alone
    assert sample("prompt=12+34=", "seed=1") != alone


def test_without_a_prompt_those_of_the_task_are_asked_and_rewarded(sample):
    rows = sample("num_prompts=3", "greedy=true")
    held_out = [prompt.text for prompt in rlx.load("task", "arithmetic", max_operand=20).held_out_prompts()[:3]]
    assert [row["prompt"] for row in rows] == held_out
    for row in rows:
        a, b = row["prompt"].rstrip("=").split("+")
        assert row["reward"]["reward"] == float(row["completion"].strip() == str(int(a) + int(b)))


def test_decoding_is_as_the_command_line_says(sample):
    assert all(row["num_tokens"] <= 2 for row in sample("prompt=1+1=", "max_new_tokens=2", "num_samples=8"))
    free = sample("prompt=1+1=", "num_samples=8")
    letter = next(row["completion"][1] for row in free if len(row["completion"]) > 1)
    stopped = sample("prompt=1+1=", "num_samples=8", f"stop={json.dumps([letter])}")
    assert [row["completion"] for row in stopped] == [row["completion"].split(letter)[0] for row in free]
    assert len({row["completion"] for row in sample("prompt=1+1=", "num_samples=8", "top_k=1")}) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt=[]"], "there is no prompt"),
        (["num_samples=0", "prompt=1+1="], "num_samples=0: it must be a whole number at least 1"),
        (["temperature=0", "prompt=1+1="], "temperature"),
        (["checkpoint=7", "prompt=1+1="], "it is last, best or a step with a checkpoint"),
        (["policy=tiny", "task=preference_file", "task.path=none.jsonl"], "none.jsonl"),
    ],
)
def test_what_cannot_be_sampled_is_said(sample, arguments, words):
    code, said = sample(*arguments)
    assert code == 2
    assert words in said
    assert "Traceback" not in said


@pytest.fixture
def chat(tmp_path):
    """A policy with a chat template, which is not a run's: overrides that choose it."""
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    policy = rlx.load("policy", "tiny")
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    return ["policy=pretrained", f"policy.path={tmp_path / 'model'}", f"policy.chat_template={tmp_path / 'chat.jinja'}"]


def test_a_chat_model_is_sent_messages(chat, capfd):
    def sampled(*arguments):
        assert main(["sample", *chat, "num_samples=1", "format=json", "seed=3", *arguments]) == 0, capfd.readouterr().err
        printed, said = capfd.readouterr()
        return [json.loads(line) for line in printed.splitlines()], said

    (row,), said = sampled("prompt=1+1")
    message = {"role": "user", "content": "1+1"}
    assert row["prompt"] == [message]
    assert said.count("chat=false sends it as it is") == 1
    (same,), said = sampled(f"prompt={json.dumps([message])}")
    assert (same["completion"], said) == (row["completion"], "")
    (plain,), said = sampled("prompt=1+1", "chat=false")
    assert (plain["prompt"], said) == ("1+1", "")
    rows, _ = sampled(f"prompt={json.dumps([[message], [{**message, 'content': '2+2'}]])}")
    assert [row["prompt"][0]["content"] for row in rows] == ["1+1", "2+2"]


def test_a_model_of_no_run_is_not_cut_at_the_length_of_another_tasks_answers(chat, capfd):
    assert main(["sample", *chat, "prompt=1+1", "chat=false", "num_samples=8", "temperature=50", "format=json"]) == 0
    assert max(json.loads(line)["num_tokens"] for line in capfd.readouterr().out.splitlines()) > 8


def test_messages_that_are_none_are_refused_with_an_example(sample):
    code, said = sample('prompt=[{"role": "user"}]')
    assert code == 2
    assert 'prompt=\'[{"role": "user"' in said


def test_a_place_that_a_record_names_is_given_again_to_this_verb(sample, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained_run(), run)
    record = json.loads((run / "run.json").read_text())
    record["config"]["policy"]["unpacked_dir"] = "/elsewhere"
    (run / "run.json").write_text(json.dumps(record))
    code, said = sample("prompt=1+1=", subject=run)
    assert code == 2
    assert f"give it again: rlx sample {run.relative_to(tmp_path)} policy.unpacked_dir=/elsewhere" in said


def test_a_conversation_is_shown_turn_by_turn(sample):
    rows = sample("task=guess", "policy=tiny", "num_prompts=2", "num_samples=2", "max_new_tokens=6", subject=None)
    assert len(rows) == 4
    for row in rows:
        said = [turn["content"] for turn in row["turns"] if turn["role"] == "assistant"]
        assert row["completion"].startswith(said[0])
        assert sum(turn.get("reward", 0.0) for turn in row["turns"]) == row["reward"]["environment"]


def test_a_conversation_that_fails_is_named_with_its_prompt(sample, tmp_path, monkeypatch):
    (tmp_path / "failing_lab.py").write_text(
        "from rlx.task.environment import Environment, Turn\n\n\n"
        "class Failing(Environment):\n"
        "    def start(self, prompt, seed):\n        return '1+1='\n\n"
        "    def step(self, completion):\n        raise ValueError('no')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = sample("task=environment", "task.environment=failing_lab.Failing", "policy=tiny", "num_prompts=1", subject=None)
    assert "in turn 1 of conversation 1 of prompt {'seed': " in rows[0]["turns"][-1]["content"]
