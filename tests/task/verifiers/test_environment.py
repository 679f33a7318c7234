"""Turns of a conversation with an environment of verifiers: what is said, learned and earned, and calls of tools."""

import pytest

from tests.rollout.test_play import played
from tests.rollout.test_play import policy_of as talking
from tests.task.tool.talking import Scripted, policy_of
from tests.task.verifiers import fake
from tests.task.verifiers.fake import MultiTurnEnv, Said, task_of, twice, user


@pytest.fixture(autouse=True)
def verifiers(monkeypatch):
    fake.install(monkeypatch)


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
