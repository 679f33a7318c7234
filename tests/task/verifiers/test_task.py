"""The task: its name of code, and rewards beside the rubric's. A small module stands in the place of the package."""

import pytest

from rlx.errors import ConfigError
from rlx.task.reward.text import ExactMatch
from tests.rollout.test_play import played
from tests.task.tool.talking import Scripted, policy_of
from tests.task.verifiers import fake
from tests.task.verifiers.fake import MultiTurnEnv, task_of, twice


@pytest.fixture(autouse=True)
def verifiers(monkeypatch):
    fake.install(monkeypatch)


def test_the_name_and_what_it_loads_go_together():
    with pytest.raises(ConfigError, match=r"task\.env=other is made by other\.load_environment, and task.load is my_env"):
        task_of(MultiTurnEnv(twice), env="other")
    assert task_of(MultiTurnEnv(twice), env="someone/my-env").env == "someone/my-env"


def test_another_reward_reads_the_answer_of_the_row():
    task = task_of(
        MultiTurnEnv(twice), rewards={"exact_match": ExactMatch(weight=1.0, ignore_case=False, pattern=None)}, max_new_tokens=40
    )
    answer = task.prompts()[0].columns["answer"]
    made = played(policy_of("qwen2_5"), task, rows=1, group_size=1, sampler=Scripted.of("no", answer))
    assert made.rewards()["exact_match"].tolist() == [[1.0]]
    assert made.rewards()["environment"].tolist() == [[1.0]]
    assert made.rewards()["reward"].tolist() == [[2.0]]
