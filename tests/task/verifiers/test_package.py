"""What of an environment is refused, which rows are learned from, and what the package leaves as it was."""

import signal
import sys

import pytest

from rlx.errors import ConfigError, DataError
from tests.task.verifiers import fake
from tests.task.verifiers.fake import MultiTurnEnv, Said, task_of, twice


@pytest.fixture(autouse=True)
def verifiers(monkeypatch):
    fake.install(monkeypatch)


def contents(prompts):
    return {prompt.columns["entry"]["prompt"] for prompt in prompts}


def test_the_rows_of_its_eval_dataset_are_held_out_and_never_learned():
    env = MultiTurnEnv(twice, rows=6, evaluate=3)
    env.learn.append(env.evaluate[0])
    task = task_of(env, num_held_out=2)
    assert len(task.prompts()) == 6
    assert len(task.held_out_prompts()) == 2
    assert not contents(task.prompts()) & {row["prompt"] for row in env.evaluate}
    assert "its eval dataset" in task.facts()["prompts"]


def test_without_one_rows_are_held_out_by_their_hash():
    task = task_of(MultiTurnEnv(twice, rows=40))
    learn, held_out = contents(task.prompts()), contents(task.held_out_prompts())
    assert len(learn) + len(held_out) == 40
    assert not learn & held_out
    assert 5 <= len(held_out) <= 20
    longer = task_of(MultiTurnEnv(twice, rows=50))
    assert held_out <= contents(longer.held_out_prompts())
    assert task.content_hash() != longer.content_hash()
    assert task.content_hash() == task_of(MultiTurnEnv(twice, rows=40)).content_hash()
    same = MultiTurnEnv(twice, rows=5)
    same.evaluate = same.learn
    assert not contents(task_of(same).prompts()) & contents(task_of(same).held_out_prompts())
    with pytest.raises(DataError, match="1 rows"):
        task_of(MultiTurnEnv(twice, rows=1)).prompts()


def refused(made, said, **changes):
    with pytest.raises((ConfigError, DataError), match=said):
        task_of(made, **changes).prompts()


def test_what_rlx_cannot_run_is_refused_by_name():
    refused(lambda: 3, "makes 3, which is not an environment of verifiers")
    refused(fake.Environment(twice), "neither a MultiTurnEnv nor a group")
    for name, value, said in (
        ("requires_group_rollouts", True, "rewards of a whole group"),
        ("provides_advantages", True, "gives advantages"),
        ("score_rollouts", False, "score_rollouts=False"),
    ):
        env = MultiTurnEnv(twice)
        setattr(env, name, value)
        refused(env, said)
    group, part = fake.EnvGroup(twice), MultiTurnEnv(twice)
    part.tool_defs, group.envs = [Said(name="add")], [part]
    refused(group, "in which MultiTurnEnv has tools")
    refused(MultiTurnEnv(twice), "task.parameters.syze is not a parameter of my-env; did you mean size", parameters={"syze": 1})

    def broken():
        raise OSError("no such split")

    refused(broken, "task.env=my-env cannot be loaded: OSError: no such split")
    env = MultiTurnEnv(twice)
    env.build_dataset = broken
    refused(env, "its dataset cannot be made: OSError: no such split")
    env = MultiTurnEnv(twice)
    env.learn[0]["info"] = {"tool_defs": []}
    refused(env, "has tools of its own")


def test_the_handlers_of_signals_stay():
    def takes_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return MultiTurnEnv(twice)

    before = signal.getsignal(signal.SIGTERM)
    task_of(takes_signals).prompts()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_package_that_is_missing_or_another(monkeypatch):
    monkeypatch.setitem(sys.modules, "verifiers", None)
    refused(MultiTurnEnv(twice), r"pip install 'rlx\[verifiers\]'")
    other = type(sys)("verifiers")
    other.__version__ = "0.4.0"
    monkeypatch.setitem(sys.modules, "verifiers", other)
    refused(MultiTurnEnv(twice), "needs verifiers 0.1, and 0.4.0 is installed")
