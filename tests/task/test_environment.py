import random
import threading

import pytest

from rlx.errors import ConfigError, DataError
from rlx.seeding import Stream
from rlx.task.base import Prompt
from rlx.task.environment import BrokenTurnError, Conversation, Environment, Turn, as_opening, checked_turn
from tests.task.environments import Chatting, Counting, TwoPlayers, task_of


def test_a_conversation_is_played_on_a_copy_of_its_own():
    config = Counting()
    first, second = (Conversation.of(config, Prompt("", {"seed": 3}), name="x", stream=Stream(0, (n,))) for n in (0, 1))
    for one in (first, second):
        one.started(one.start())
    first.say("5")
    assert first.answered(first.environment.step("5")) == "2+3="
    assert (first.rewards, second.rewards) == ([1.0], [])
    assert second.environment.seen == []
    assert not hasattr(config, "seen")
    assert first.messages == [{"role": "assistant", "content": "5"}, {"role": "user", "content": "2+3="}]


def test_an_environment_that_cannot_be_copied_is_named_with_what_to_do():
    class Holding(Counting):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    with pytest.raises(ConfigError, match=r"the environment Holding cannot be copied.*lock.*make in `start`"):
        Conversation.of(Holding(), Prompt("", {"seed": 3}), name="x", stream=Stream(0))


@pytest.mark.parametrize(("given", "said"), [(None, "gives None"), ([], "gives none"), (["x"], "gives 'x'"), (3, "gives 3")])
def test_prompts_that_are_none_are_refused(given, said):
    class Giving(Counting):
        def prompts(self, count, rng):
            return given

    with pytest.raises(DataError, match=f"prompts of Giving {said}"):
        task_of(Giving()).prompts()


def test_random_numbers_belong_to_the_conversation():
    def moves(*path):
        one = Conversation.of(TwoPlayers(), Prompt("", {"seed": 3}), name="x", stream=Stream(0, path))
        one.started(one.start())
        return [one.environment.step("1").messages for _ in range(3)]

    assert moves(1) == moves(1) != moves(2)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("higher", "not a Turn"),
        (None, "not a Turn"),
        (Turn("x", reward=float("inf")), "finite number"),
        (Turn("x", reward="1"), "finite number"),
        (Turn("x", reward=True), "finite number"),
        (Turn("x", done="yes"), "True or False"),
    ],
)
def test_a_turn_that_is_none_is_refused(outcome, said):
    with pytest.raises(BrokenTurnError, match=said):
        checked_turn(outcome)


@pytest.mark.parametrize(
    "messages",
    [
        "",
        [],
        [{"role": "assistant", "content": "I say it for you"}],
        [{"content": "x"}],
        [{"role": "user", "content": None}],
        ["x"],
        3,
        "half \ud800",
        [{"role": "user", "content": "\udc00"}],
    ],
)
def test_messages_that_are_none_are_refused(messages):
    one = Conversation(Counting(), Prompt(""), "x")
    one.say("5")
    with pytest.raises(BrokenTurnError):
        one.answered(Turn(messages))


@pytest.mark.parametrize("opening", [None, [], [{"role": "robot", "content": "x"}], 5, "\ud800="])
def test_an_opening_that_is_none_is_refused(opening):
    with pytest.raises(BrokenTurnError):
        as_opening(opening)


def test_an_environment_without_a_method_is_refused_by_name():
    class Silent(Environment):
        def start(self, prompt, **columns):
            return "x"

    with pytest.raises(ConfigError, match="Silent defines no step"):
        task_of(Silent())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"max_turns": 0}, "max_turns"), ({"step_seconds": 0}, "step_seconds"), ({"credit": "token"}, "credit"),
     ({"on_environment_error": "ignore"}, "on_environment_error"), ({"max_tokens": 0}, "max_tokens")],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(changes, said):
    with pytest.raises(ConfigError, match=f"{said} of EnvironmentTask is"):
        task_of(Counting(), **changes)


def test_prompts_of_the_environment_are_split_and_do_not_depend_on_the_run():
    task, again = task_of(Counting()), task_of(Counting())
    seeds = [prompt.columns["seed"] for prompt in (*task.prompts(), *task.held_out_prompts())]
    assert len(set(seeds)) == 10
    assert seeds == [prompt.columns["seed"] for prompt in (*again.prompts(), *again.held_out_prompts())]
    assert task.prompts()[0].columns != task_of(Counting(), data_seed=1).prompts()[0].columns


def test_prompts_come_from_a_file_too(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "{n}", "seed": {n}}}\n' for n in range(20)))
    task = task_of(Counting(), path=str(file), held_out=0.3)
    assert {prompt.text for prompt in (*task.prompts(), *task.held_out_prompts())} == {str(n) for n in range(20)}
    assert task.content_hash()


def test_a_column_of_a_taken_name_is_refused():
    class Named(Counting):
        def prompts(self, count, rng: random.Random):
            return [Prompt("x", {"turns": 1})]

    with pytest.raises(DataError, match="column turns"):
        task_of(Named()).prompts()


def test_the_record_of_a_conversation_names_the_rewards_of_its_turns():
    one = Conversation.of(Chatting(turns=2), Prompt("", {"seed": 3}), name="x", stream=Stream(0))
    one.started(one.start())
    for text in ("5", "6"):
        one.say(text)
        one.answered(one.environment.step(text))
    assert [row.get("reward") for row in one.to_dict()] == [1.0, None, 2.0, None]
    one.failed("it broke")
    assert one.to_dict()[-1] == {"role": "error", "content": "it broke"}


def test_messages_that_an_environment_goes_on_writing_to_stay_as_they_were_said():
    class OneMessage(Environment):
        def start(self, prompt):
            self.message = {"role": "user", "content": "0"}
            return [self.message]

        def step(self, completion):
            self.message["content"] += "1"
            return Turn([self.message])

    talk = Conversation.of(OneMessage(), Prompt("p"), name="one", stream=Stream(0))
    talk.started(talk.start())
    for _ in range(2):
        talk.say("x")
        talk.answered(talk.environment.step("x"))
    assert [message["content"] for message in (*talk.opening, *talk.messages)] == ["0", "x", "01", "x", "011"]
