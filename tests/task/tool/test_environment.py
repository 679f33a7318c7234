"""Tools in conversations: calls are run, results come back as turns that are not learned, the last turn is rewarded."""

import asyncio
import json

import pytest
import torch

import rlx
from rlx.errors import ConfigError
from rlx.rollout.draw import sample_groups
from rlx.rollout.play import play
from rlx.seeding import Stream
from rlx.task.base import Prompt
from rlx.task.environment import Turn
from rlx.task.tool.base import Call
from rlx.task.tool.environment import ToolUse
from tests.rollout.stand_in import Bench, sampler_of
from tests.task.environments import task_of
from tests.task.tool import tools
from tests.task.tool.talking import Scripted, policy_of

SETTINGS = {"call_seconds": 20.0, "num_workers": 2, "max_calls": 4, "max_characters": 200, "describes_tools": False}
ROLES = {"qwen2_5": "tool_response", "llama3": "ipython", "mistral": "TOOL_RESULTS"}


def tools_of(*functions, **changes):
    return ToolUse(tools={function.__name__: function for function in functions or (tools.add,)}, **{**SETTINGS, **changes})


@pytest.fixture
def sums(tmp_path):
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"What is {n}+34?", "answer": str(n + 34)}) + "\n" for n in range(20)))
    return file


def sample(task, policy, sampler, *, group_size=1, rows=1):
    prompts = task.prompts()[:rows]
    return play(task, policy, sampler, prompts, group_size=group_size, stream=Stream(0), prompt_keys=range(rows))


CALLS = {
    "qwen2_5": '<tool_call>\n{"name": "calculator", "arguments": {"expression": "12+34"}}\n</tool_call>',
    "llama3": '<|python_tag|>{"name": "calculator", "parameters": {"expression": "12+34"}}',
    "mistral": '[TOOL_CALLS] [{"name": "calculator", "arguments": {"expression": "12+34"}, "id": "abc123def"}]',
}
# the tokens that stand between the call and the answer, written by hand
BETWEEN = {
    "qwen2_5": "\n<|im_start|>user\n<tool_response>\n46\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "llama3": '<|start_header_id|>ipython<|end_header_id|>\n\n"46"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
    "mistral": '[TOOL_RESULTS] {"content": "46", "call_id": "rlx000001"}[/TOOL_RESULTS]',
}


@pytest.mark.parametrize("family", CALLS)
def test_a_call_is_run_and_its_result_is_context(family, sums):
    policy, task = policy_of(family), rlx.load("task", "tool_file", path=str(sums))
    made = sample(task, policy, Scripted.of(CALLS[family], CALLS[family], "46"))
    (talk,) = made.conversations[0]
    assert [message["content"] for message in talk.messages if message["role"] == "tool"] == ["46", "46"]
    assert talk.done
    tokens, learned = made.rollout.sequences.completions[0][0], made.rollout.sequences.learned[0][0]
    end = policy.tokenizer.decode([policy.text.turn_end_id])
    ids = policy.tokenizer(CALLS[family] + end + BETWEEN[family], add_special_tokens=False)["input_ids"]
    call = policy.tokenizer(CALLS[family] + end, add_special_tokens=False)["input_ids"]
    answer = policy.tokenizer("46" + end, add_special_tokens=False)["input_ids"]
    assert tokens.tolist() == [*ids, *ids, *answer]
    one = [True] * len(call) + [False] * (len(ids) - len(call))
    assert learned.tolist() == [*one, *one, *[True] * len(answer)]
    opening = policy.tokenizer.decode(made.rollout.sequences.prompts[0].tolist())
    assert '"calculator"' in opening
    assert "expression" in opening


@pytest.mark.parametrize("family", CALLS)
def test_sampling_logprobs_equal_a_training_forward_across_results(family):
    class Always(ToolUse):  # every turn but the last is a call, whatever it says
        async def step(self, completion):
            self.state["turn"] = self.state.get("turn", 0) + 1
            if self.state["turn"] == 3:
                return Turn(done=True)
            text, _ = await self._result(0, Call("add", {"a": len(completion), "b": 1}))
            return Turn([{"role": "tool", "name": "add", "content": text}])

    policy = policy_of(family)
    task = task_of(Always(tools={"add": tools.add}, **SETTINGS), max_new_tokens=6, rewards={"none": none})
    object.__setattr__(task, "prompts", lambda: tuple(Prompt(f"{n}+34?") for n in range(2)))
    made = sample(task, policy, sampler_of(max_new_tokens=None), rows=2, group_size=4)
    sequences, mask = made.rollout.sequences, made.rollout.sequences.completion_mask
    assert max(len(spans) for group in made.turn_spans for spans in group) >= 2
    assert int((sequences.token_mask & ~mask).sum()) > 100
    with torch.no_grad():
        forward = policy.token_logprobs(sequences)
    assert float((forward - made.rollout.sampling_logprobs)[mask].abs().max()) < 1e-4


def none(prompt, completion):
    return 0.0


def test_the_answer_is_rewarded_and_calls_are_counted(sums):
    policy, task = policy_of("qwen2_5"), rlx.load("task", "tool_file", path=str(sums))
    answer = task.prompts()[0].columns["answer"]
    sampler = Scripted.of(CALLS["qwen2_5"], "<tool_call>calculator(1)</tool_call>", answer)
    batch = sample_groups(Bench(policy, sampler, task), [0], group_size=2)
    figures = batch.figures()
    assert (figures["reward_mean"], figures["reward/exact_match"], figures["turns"]) == (1.0, 1.0, 3.0)
    assert (figures["tool_calls"], figures["tool_errors"]) == (2.0, 1.0)
    assert "reward/environment" not in figures
    assert task.full_reward_value() == pytest.approx(1.0, abs=1e-5)


def answered(environment, completion):
    twin = environment.for_policy(policy_of("qwen2_5"))
    object.__setattr__(twin, "state", {})
    twin.start("?")
    turn = asyncio.run(twin.step(completion))
    return [message["content"] for message in turn.messages], twin.figures()


@pytest.fixture(scope="module")
def faulty():
    return tools_of(tools.add, tools.fail, tools.nonsense, tools.crash)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('{"name": "delete", "arguments": {}}', "error: there is no tool 'delete'; there are add, fail, nonsense, crash"),
        ('{"name": "add", "arguments": {"a": 1}}', "error: TypeError: add() missing 1 required positional argument: 'b'"),
        ('{"name": "add", "arguments": {"a": 1, "c": 1}}', "error: add has no argument 'c'"),
        ('{"name": "add", "arguments": {"a": 1, "b": "2"}}', 'error: b is "2", and its type is integer'),
        ('{"name": "add", "arguments": {"a": NaN, "b": 2}}', "error: a is NaN, and its type is integer"),
        ('{"name": "fail", "arguments": {}}', "error: KeyError: 'no notes'"),
        ('{"name": "nonsense", "arguments": {}}', "error: the tool returned object, which is neither text nor JSON"),
        ('{"name": "crash", "arguments": {}}', "error: the tool ended its process"),
        ('{"name": "add", "arguments": 3}', "error: the arguments of a call are an object"),
        ("add(1, 2)", "error: the call is not JSON"),
    ],
)
def test_a_call_that_fails_tells_the_assistant_and_the_others_go_on(call, said, faulty):
    sound = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
    (first, second), figures = answered(faulty, f"<tool_call>{call}</tool_call>{sound}")
    assert first.startswith(said)
    assert second == "3"
    assert figures == {"tool_calls": 2.0, "tool_errors": 1.0}


def test_a_call_that_hangs_is_an_error_too():
    call = '<tool_call>{"name": "hang", "arguments": {}}</tool_call>'
    said, figures = answered(tools_of(tools.hang, call_seconds=0.5), call)
    assert said == ["error: the tool gave no result within 0.5 s"]
    assert figures["tool_errors"] == 1


def test_results_and_calls_are_limited():
    large = '<tool_call>{"name": "large", "arguments": {}}</tool_call>'
    said, figures = answered(tools_of(tools.large, tools.surrogate, max_calls=2), large * 3)
    assert said[0] == "x" * 200 + "... (2800 more characters)"
    assert said[2] == "error: the turn has more than 2 calls"
    assert figures == {"tool_calls": 3.0, "tool_errors": 1.0}
    said, _ = answered(tools_of(tools.surrogate), '<tool_call>{"name": "surrogate", "arguments": {}}</tool_call>')
    assert said == ["?"]


@pytest.mark.parametrize(
    ("family", "said"),
    [("chatml", "does not write the schemas of tools"), ("strange", "writes a call of a tool as '<call>rlx_probe</call>'")],
)
def test_a_template_without_tools_is_refused_with_what_to_do(family, said, sums):
    strange = (
        "{{ tools }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{% for call in message.tool_calls %}<call>{{ call.function.name }}</call>{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    policy = policy_of("chatml", strange) if family == "strange" else policy_of(family)
    task = rlx.load("task", "tool_file", path=str(sums))
    with pytest.raises(ConfigError, match=said) as caught:
        sample(task, policy, Scripted.of("1"))
    assert "task.environment.describes_tools=true" in str(caught.value)


def test_tools_may_be_described_in_a_system_message(sums):
    changes = {"environment.describes_tools": True, "system": "Be brief."}
    task = rlx.load("task", "tool_file", path=str(sums), **changes)
    policy = policy_of("chatml")
    made = sample(task, policy, Scripted.of(CALLS["qwen2_5"], "46"))
    (talk,) = made.conversations[0]
    assert talk.opening[0]["content"].startswith("Be brief.\n\nYou may call tools.")
    assert '"name": "calculator"' in talk.opening[0]["content"]
    assert talk.messages[1] == {"role": "user", "content": "<tool_response>\n46\n</tool_response>"}


UNSEEING = """{% for message in messages %}{% if message.role != 'system' %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""  # leaves out system messages without a word


@pytest.mark.parametrize(("family", "template"), [("gemma2", None), ("gemma3", None), ("chatml", UNSEEING)])
def test_tools_are_described_where_the_chat_template_shows_them(family, template, sums):
    task = rlx.load("task", "tool_file", path=str(sums), **{"environment.describes_tools": True})
    policy = policy_of(family, template)
    made = sample(task, policy, Scripted.of(CALLS["qwen2_5"], "46"))
    (talk,) = made.conversations[0]
    seen = policy.tokenizer.decode(made.rollout.sequences.prompts[0].tolist())
    assert '"name": "calculator"' in seen
    assert talk.prompt.text in seen
    assert talk.messages[1] == {"role": "user", "content": "<tool_response>\n46\n</tool_response>"}
    assert not talk.error


def test_tools_that_cannot_be_are_refused(sums):
    with pytest.raises(ConfigError, match="tools is empty"):
        tools_of().__class__(tools={}, **SETTINGS)
    with pytest.raises(ConfigError, match="two functions of one name"):
        ToolUse(tools={"a": tools.add, "b": tools.add}, **SETTINGS)


@pytest.mark.whole
def test_a_run_trains_on_tools_and_logs_its_calls(sums, tmp_path):
    policy, folder = policy_of("qwen2_5"), tmp_path / "model"
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    lines = []
    rlx.train(
        ["algorithm=grpo", "task=tool_file", f"task.path={sums}", "policy=pretrained", f"policy.path={folder}", "num_steps=2",
         "algorithm.prompts_per_step=2", "algorithm.group_size=2", "task.max_new_tokens=8", "eval_every=null", "logger=[]",
         "threads=1", f"output_dir={tmp_path / 'runs'}"],
        callbacks=[lambda step, metrics: lines.append(metrics)], quiet=True,
    )  # fmt: skip
    assert {"train/tool_calls", "train/tool_errors", "train/turns", "train/grad_norm"} <= lines[-1].keys()
    assert {"eval/tool_calls", "eval/tool_errors"} <= {name for line in lines for name in line}
