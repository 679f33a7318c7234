"""An environment out of a file of one's own, on the command line."""

import json
import sys

import pytest

import rlx
from rlx.errors import ConfigError, TrainingError

MY_LAB = '''
from rlx.task.environment import Environment, Turn


class Parity(Environment):
    """Say an even digit, twice."""

    bounds = (0.0, 2.0)

    def __init__(self, wanted: int = 0):
        self.wanted = wanted

    def start(self, prompt, seed):
        self.count = 0
        return f"{seed % 10}+0="

    async def step(self, completion):
        self.count += 1
        right = completion.isdigit() and int(completion) % 2 == self.wanted
        return Turn("1+1=", float(right), done=self.count == 2)
'''
SMALL = ["num_steps=2", "eval_every=null", "evaluation.num_prompts=4", "logger=[]", "threads=1", "algorithm=grpo",
         "algorithm.prompts_per_step=2", "algorithm.group_size=4", "task=environment", "task.max_new_tokens=6"]  # fmt: skip


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    (tmp_path / "talk_lab.py").write_text(MY_LAB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "talk_lab", raising=False)
    return tmp_path


@pytest.mark.slow
def test_an_environment_of_ones_own_needs_no_registration(own_file):
    result = rlx.train([*SMALL, "task.environment=talk_lab.Parity", "task.environment.wanted=1"])
    directory = own_file / "outputs" / "train" / "latest"
    record = json.loads((directory / "run.json").read_text())
    assert record["config"]["task"]["environment"] == {"_target_": "talk_lab.Parity", "wanted": 1}
    assert record["task"] == "talk_lab.Parity"
    assert any("talk_lab" in json.dumps(source) for source in record["sources"])
    assert 0 <= result.performance_metrics["eval/score"] <= 1  # a conversation is right from a reward of 2 on
    row = json.loads((directory / "samples.jsonl").read_text().splitlines()[0])
    assert [turn["role"] for turn in row["turns"]][:1] == ["assistant"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.environment=talk_lab.Party", "did you mean Parity"),
        ("task.environment=rlx.task.base.Prompt", "subclass of Environment"),
        ("task.environment.wonted=1", "task.environment.wonted is not a key"),
        ("task.environment.wanted=odd", "task.environment.wanted"),
    ],
)
def test_a_wrong_name_or_value_is_refused(own_file, override, said):
    chosen = ["task.environment=talk_lab.Parity"] if ".w" in override else []
    with pytest.raises(ConfigError, match=said):
        rlx.train([*SMALL, *chosen, override])


@pytest.mark.parametrize(
    ("name", "said"),
    [("accuracy", "an evaluation"), ("score", "an evaluation"), ("reward_mean", "a draw"), ("loss", "an update")],
)
def test_what_an_environment_counts_does_not_take_the_place_of_a_figure(own_file, name, said):
    counted = f"""
class Counting(Parity):
    def figures(self):
        return {{"{name}": 1.0}}
"""
    (own_file / "talk_lab.py").write_text(MY_LAB + counted)
    with pytest.raises(
        TrainingError, match=f"figures of the environment gives {name}, a name of rlx's own among the figures of {said}"
    ):
        rlx.train([*SMALL, "task.environment=talk_lab.Counting"])
