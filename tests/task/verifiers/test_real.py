"""The package verifiers itself: `make test-verifiers`. Without it these are skipped."""

import asyncio
import signal
import sys

import numpy as np
import pytest

vf = pytest.importorskip("verifiers", exc_type=ImportError)

import rlx  # noqa: E402
from rlx.errors import ConfigError  # noqa: E402
from tests.rollout.test_play import played  # noqa: E402
from tests.task.tool.talking import Scripted, policy_of  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the package's own warnings are not rlx's

MY_ENV = """
import verifiers as vf
from datasets import Dataset


class Guess(vf.MultiTurnEnv):
    async def setup_state(self, state):
        state["right"] = False

    async def env_response(self, messages, state):
        state["right"] = messages[-1].content == state["answer"]
        if state["right"]:
            state["final_env_response"] = [vf.UserMessage(content="right")]
            return state["final_env_response"]
        return [vf.UserMessage(content="higher" if messages[-1].content < state["answer"] else "lower")]


def right(state):
    return float(state["right"])


async def brevity(completion):
    return -0.25 * sum(message.role == "assistant" for message in completion)


def rows(count, first=0):
    return Dataset.from_list([{"question": f"number {first + n}?", "answer": str(n % 4)} for n in range(count)])


def load_environment(turns: int = 4):
    rubric = vf.Rubric(funcs=[right, brevity], weights=[2.0, 1.0])
    return Guess(dataset=rows(8), eval_dataset=rows(4, 100), rubric=rubric, max_turns=turns, system_prompt="Guess.")


def load_single():
    def exact(completion, answer):
        return float(completion[-1].content == answer)

    return vf.SingleTurnEnv(dataset=rows(20), rubric=vf.Rubric(funcs=[exact]))


def load_tools():
    def add(a: int, b: int) -> int:
        '''Adds.'''
        return a + b

    def answered(completion, answer):
        return float(completion[-1].content == "5")

    return vf.ToolEnv(tools=[add], dataset=rows(20), rubric=vf.Rubric(funcs=[answered]))
"""
SMALL = ["num_steps=2", "eval_every=null", "evaluation.num_prompts=2", "logger=[]", "threads=1", "algorithm=grpo", "policy=tiny",
         "algorithm.prompts_per_step=2", "algorithm.group_size=4", "task=verifiers"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "my_env.py").write_text(MY_ENV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_env", raising=False)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def task_of(env, **changes):
    return rlx.load("task", "verifiers", env=env, max_new_tokens=80, **changes)


class Said(vf.Client):
    """A client of the package's own loop that says a script."""

    def __init__(self, script):
        super().__init__(iter(script))

    async def get_response(self, prompt, model, sampling_args, tools=None, **kwargs):
        message = vf.types.ResponseMessage(content=next(self.client), finish_reason="stop", is_truncated=False)
        return vf.types.Response(id="1", created=0, model=model, message=message)

    setup_client = to_native_tool = to_native_prompt = get_native_response = raise_from_native_response = None
    from_native_response = close = None


def own_scoring(made, row, script):
    """What the package's own loop and rubric make of a script."""
    return asyncio.run(made.run_rollout(dict(row), Said(script), "m", {}))


@pytest.mark.parametrize("script", [("2", "0"), ("0", "1", "2", "3"), ("3", "3", "3", "3"), ("0",)])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_rewards_are_those_of_the_package(script, row):
    task = task_of("my-env")
    prompt = task.prompts()[row]
    made = played(policy_of("qwen2_5"), task, rows=row + 1, group_size=1, sampler=Scripted.of(*script, *["3"] * 4))
    talk = made.conversations[row][0]
    own = own_scoring(task.environment.made, prompt.columns["entry"], [*script, *["3"] * 4])
    assert not talk.error
    assert talk.done
    assert sum(talk.rewards) == pytest.approx(own["reward"])
    assert {name.removeprefix("rubric_"): value for name, value in talk.environment.figures().items()} == own["metrics"]
    assert [m["content"] for m in talk.messages] == [m.content for m in own["completion"]][: len(talk.messages)]


def test_what_is_learned_is_what_the_assistant_said():
    task = task_of("my-env")
    made = played(policy_of("qwen2_5"), task, rows=3, group_size=1, sampler=Scripted.of("0", "1", "2", "3"))
    read = policy_of("qwen2_5").tokenizer.decode
    sequences = made.rollout.sequences  # the row whose answer is 2
    assert read(sequences.prompts[2]) == (
        "<|im_start|>system\nGuess.<|im_end|>\n<|im_start|>user\nnumber 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids, learned = sequences.completions[2][0], sequences.learned[2][0]
    between = "\n<|im_start|>user\nhigher<|im_end|>\n<|im_start|>assistant\n"
    assert read(ids) == f"0<|im_end|>{between}1<|im_end|>{between}2<|im_end|>"
    ends = np.flatnonzero(np.diff(learned.astype(int)) == -1) + 1  # each turn of one token and its end
    assert learned.sum() == 6
    assert learned[:2].all()
    assert learned[-2:].all()
    assert ends[0] == 2


def test_one_turn_and_a_split_by_hash():
    task = task_of("my_env.load_single")
    learn, held_out = ([p.columns["entry"]["question"] for p in side] for side in (task.prompts(), task.held_out_prompts()))
    assert sorted(learn + held_out) == sorted(f"number {n}?" for n in range(20))
    assert held_out
    made = played(policy_of("qwen2_5"), task, rows=2, group_size=2, sampler=Scripted.of(task.prompts()[0].columns["answer"]))
    assert made.rewards()["reward"][0].tolist() == [1.0, 1.0]
    assert made.rollout.finished.all()


def test_tools_of_a_tool_env_are_called():
    task = task_of("my_env.load_tools")
    script = Scripted.of('<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>', "5")
    made = played(policy_of("qwen2_5"), task, rows=1, group_size=1, sampler=script)
    talk = made.conversations[0][0]
    assert (talk.error, talk.messages[1], sum(talk.rewards)) == ("", {"role": "tool", "content": "5", "name": "add"}, 1.0)
    assert talk.environment.figures()["rubric_add_calls"] == 1.0


def test_the_handlers_of_signals_stay():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert len(task_of("my-env").prompts()) == 8
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_limit_of_rlx_lets_the_rubric_score():
    task = task_of("my-env", max_turns=2)
    made = played(policy_of("qwen2_5"), task, rows=4, group_size=1, sampler=Scripted.of("x", "y"))
    assert made.rewards()["reward"].tolist() == [[-0.5]] * 4
    assert not made.rollout.finished.any()
    assert not made.failed.any()


def test_a_group_reward_is_refused(here):
    (here / "group_env.py").write_text(
        "import my_env, verifiers as vf\n\n\ndef best(completions) -> list[float]:\n    return [0.0] * len(completions)\n\n\n"
        "def load_environment():\n    return vf.SingleTurnEnv(dataset=my_env.rows(8), rubric=vf.Rubric(funcs=[best]))\n"
    )
    with pytest.raises(ConfigError, match="rewards of a whole group"):
        task_of("group-env").prompts()
