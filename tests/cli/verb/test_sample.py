from rlx.cli.main import main
from rlx.cli.verb.sample import completion_lines
from rlx.workbench.sample import Completion


def completion(**changes):
    fields = {"prompt": "12+34=", "text": "46", "logprob": -0.51234, "num_tokens": 3, "finished": True, "reward": None}
    return Completion(**{**fields, **changes})


def test_a_prompt_and_its_completions_one_a_line():
    lines = completion_lines(
        [completion(), completion(text="4\n", num_tokens=1, finished=False, reward={"reward": 0.25, "exact": 0.25})]
    )
    assert lines[0] == "'12+34='"
    assert lines[1].split() == ["logprob", "-0.5123", "3", "tokens", "'46'"]
    assert "1 token " in lines[2]
    assert "reward 0.25" in lines[2]
    assert lines[2].endswith("'4\\n'  (cut off)")


def test_a_conversation_is_shown_turn_by_turn_from_its_opening_on():
    opening = ({"role": "system", "content": "Count."}, {"role": "user", "content": "3?\n4?"})
    turns = [{"role": "assistant", "content": "5\n6", "reward": 0.5}, {"role": "user", "content": "no"}]
    lines = completion_lines([completion(prompt=opening, turns=turns)])
    assert lines[:3] == ["system: Count.", "user: 3?", "4?"]
    assert lines[4:] == ["    assistant: 5", "    6  (reward 0.5)", "    user: no"]


def test_it_is_no_sweep(capsys):
    assert main(["sample", "-m", "seed=0,1", "policy=tiny"]) == 2
    assert "rlx sample is not a sweep" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "prompt=1+1="]) == 2
    assert "there is no run in outputs/train yet" in capsys.readouterr().err
    assert main(["sample", "nowhere", "prompt=1+1="]) == 2
    assert "nowhere" in capsys.readouterr().err
