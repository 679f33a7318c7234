"""Conversations with environments of verifiers, with a small module in the place of the package."""

import asyncio
import functools
import signal
import sys

import pytest

from rlx.errors import ConfigError, DataError
from rlx.task.reward.text import ExactMatch
from rlx.task.verifiers.task import VerifiersTask
from tests.rollout.test_play import played
from tests.rollout.test_play import policy_of as talking
from tests.task.environments import SETTINGS
from tests.task.tool.talking import Scripted, policy_of
from tests.task.verifiers import fake
from tests.task.verifiers.fake import MultiTurnEnv, Said, user

NOT_TAKEN = ("path", "data_seed", "prompt_key", "answer_key")


@pytest.fixture(autouse=True)
def verifiers(monkeypatch):
    fake.install(monkeypatch)


def task_of(made, **changes):
    def load_environment(size: int = 3):
        return made() if callable(made) else made

    load_environment.__module__, load_environment.__qualname__ = "my_env", "load_environment"
    settings = {key: value for key, value in SETTINGS.items() if key not in NOT_TAKEN}
    more = {"env": "my-env", "parameters": {}, "num_prompts": None, "num_held_out": None, "held_out": 0.3}
    return VerifiersTask(load=functools.partial(load_environment), **{**settings, **more, **changes})


async def twice(ask, row):
    """Two turns; the reward is 1, and 1 more where the second turn is `yes`."""
    opening = user(row["prompt"])
    first = await ask(opening)
    second = await ask(opening, first, user("sure?"))
    return 1.0 + (second.content == "yes")


def test_turns_are_asked_for_and_the_rubric_rewards_the_last():
    task = task_of(MultiTurnEnv(twice, funcs=[lambda row: 3]), max_new_tokens=40)
    made = played(policy_of("qwen2_5"), task, rows=2, group_size=1, sampler=Scripted.of("no", "yes"))
    talks = [group[0] for group in made.conversations]
    assert [talk.turns for talk in talks] == [["no", "yes"]] * 2
    assert [talk.rewards for talk in talks] == [[0.0, 2.0]] * 2
    assert talks[0].opening == ({"role": "user", "content": task.prompts()[0].columns["entry"]["prompt"]},)
    assert talks[0].messages[1] == {"role": "user", "content": "sure?"}
    assert made.figures()["rubric_<lambda>"].tolist() == [[3.0], [3.0]]
    assert made.rollout.finished.all()
    ids, learned = made.rollout.sequences.completions[0][0], made.rollout.sequences.learned[0][0]
    read = policy_of("qwen2_5").tokenizer.decode
    assert read(ids[learned]) == "no<|im_end|>yes<|im_end|>"
    assert read(ids[~learned]) == "\n<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\n"


def test_a_conversation_without_roles_is_plain_text():
    async def talk(ask, row):
        opening = Said("text", row["prompt"])
        said = await ask(opening)
        await ask(opening, said, Said("text", ">="))
        return 0.5

    made = played(talking("chatml"), task_of(MultiTurnEnv(talk), max_new_tokens=6), rows=1, group_size=2)
    assert made.conversations[0][0].opening.endswith("+0=")
    assert {talk.messages[1]["content"] for talk in made.conversations[0] if len(talk.turns) > 1} <= {">="}


@pytest.mark.parametrize("limit", [{"max_turns": 1}, {"max_new_tokens": 1}])
def test_where_a_limit_of_rlx_ends_it_the_rubric_scores_what_is_there(limit):
    env = MultiTurnEnv(twice)
    made = played(talking("chatml"), task_of(env, **{"max_new_tokens": 6, **limit}), rows=2, group_size=2)
    cut = [talk for group in made.conversations for talk in group if not talk.done]
    assert cut
    assert all(talk.rewards == [0.25] and not talk.error for talk in cut)
    assert len(env.ended) == 4  # no rollout is left waiting
    assert not made.rollout.finished.all()


async def rewrites(ask, row):
    said = await ask(user(row["prompt"]))
    await ask(user(row["prompt"]), Said("assistant", said.content + "!"), user("more"))


async def silent(ask, row):
    said = await ask(user(row["prompt"]))
    await ask(user(row["prompt"]), said)


async def both_at_once(ask, row):
    await asyncio.gather(ask(user(row["prompt"])), ask(user("and this")))


async def breaks(ask, row):
    await ask(user(row["prompt"]))
    raise KeyError("no board")


async def fails(ask, row):
    await ask(user(row["prompt"]))
    return "ToolError -> the sandbox is gone"


async def says_nothing(ask, row):
    return 1.0


async def hangs(ask, row):
    await ask(user(row["prompt"]))
    await asyncio.sleep(60)


async def shows_a_picture(ask, row):
    await ask(Said("user", [{"type": "image_url", "image_url": {"url": "x"}}]))


async def speaks_for_the_assistant(ask, row):
    said = await ask(user(row["prompt"]))
    await ask(user(row["prompt"]), said, Said("assistant", "and so on"))


async def offers_other_tools(ask, row):
    await ask(user(row["prompt"]), tools=[Said(name="search")])


@pytest.mark.parametrize(
    ("talk", "said"),
    [(rewrites, "other messages than the conversation's"), (silent, "says nothing in between"),
     (both_at_once, "two turns at once"), (breaks, "KeyError: 'no board'"), (fails, "the sandbox is gone"),
     (says_nothing, "before the assistant's first turn"), (hangs, "no answer within"), (shows_a_picture, "text alone"),
     (speaks_for_the_assistant, "a message of the role assistant"), (offers_other_tools, "offers the tools search")],
)  # fmt: skip
def test_a_rollout_that_fails_is_named_and_ends_alone(talk, said):
    async def some(ask, row):
        return await (talk if row["example_id"] % 2 else twice)(ask, row)

    env = MultiTurnEnv(some, rows=8)
    task = task_of(env, max_new_tokens=40, step_seconds=0.3 if talk is hangs else 30.0)
    script = Scripted.of("no", "no")
    made = played(policy_of("qwen2_5"), task, rows=len(task.prompts()), group_size=1, sampler=script)
    for prompt, (one,) in zip(task.prompts(), made.conversations, strict=True):
        if prompt.columns["entry"]["example_id"] % 2:
            assert said in one.error
            assert "the environment VerifiersEnvironment" in one.error
        else:
            assert one.rewards == [0.0, 1.0]
    assert 0 < int(made.failed.sum()) < len(task.prompts())


def test_a_reward_that_raises_is_no_zero():
    def judged(row):
        raise ValueError("the judge is away")

    task = task_of(MultiTurnEnv(twice, funcs=[judged]), max_new_tokens=40)
    made = played(policy_of("qwen2_5"), task, rows=1, group_size=1, sampler=Scripted.of("no", "no"))
    assert "its reward judged raised ValueError: the judge is away" in made.conversations[0][0].error
    assert made.rewards()["reward"].tolist() == [[-1.0]]


def test_tools_are_called_in_the_format_of_the_chat_template():
    schema = Said(name="add", description="adds", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
    seen = []

    async def talk(ask, row):
        said = await ask(user(row["prompt"]), tools=[schema])
        seen.append(said)
        result = Said("tool", "5", tool_call_id=said.tool_calls[0].id)
        last = await ask(user(row["prompt"]), said, result, tools=[schema])
        seen.append(last)
        return 1.0

    env = MultiTurnEnv(talk)
    env.tool_defs = [schema]
    task = task_of(env, max_new_tokens=80)
    script = Scripted.of('so <tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>', "5")
    made = played(policy_of("qwen2_5"), task, rows=1, group_size=1, sampler=script)
    talk = made.conversations[0][0]
    assert not talk.error
    assert (seen[0].content, seen[0].tool_calls[0].name, seen[0].tool_calls[0].arguments) == ("so", "add", '{"a": 2}')
    assert (seen[1].content, seen[1].tool_calls) == ("5", None)
    assert talk.messages[1] == {"role": "tool", "content": "5", "name": "add"}
    assert '"name": "add"' in policy_of("qwen2_5").decode(made.rollout.sequences.prompts[0])


# Rows, and what is refused.


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
    refused(lambda: 3, "makes 3, which is no environment of verifiers")
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
    refused(MultiTurnEnv(twice), "task.parameters.syze is no parameter of my-env; did you mean size", parameters={"syze": 1})

    def broken():
        raise OSError("no such split")

    refused(broken, "task.env=my-env cannot be loaded: OSError: no such split")
    env = MultiTurnEnv(twice)
    env.build_dataset = broken
    refused(env, "its dataset cannot be made: OSError: no such split")
    env = MultiTurnEnv(twice)
    env.learn[0]["info"] = {"tool_defs": []}
    refused(env, "has tools of its own")


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
