"""Rollouts that wait for turns: limits that cut them off, and what goes wrong in one ends its conversation alone."""

import asyncio

import pytest

from tests.rollout.test_play import played
from tests.rollout.test_play import policy_of as talking
from tests.task.tool.talking import Scripted, policy_of
from tests.task.verifiers import fake
from tests.task.verifiers.fake import MultiTurnEnv, Said, task_of, twice, user


@pytest.fixture(autouse=True)
def verifiers(monkeypatch):
    fake.install(monkeypatch)


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
