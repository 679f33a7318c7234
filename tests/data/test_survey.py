import json
from types import SimpleNamespace

import pytest

from rlx.data.survey import brief, brief_of_prompts, survey
from rlx.errors import DataError
from rlx.policy.pretrained import load_pretrained
from rlx.policy.tiny import build_tiny, save_tiny
from rlx.task.arithmetic import Arithmetic
from rlx.task.base import Pair, Pairs, Prompt, Task
from rlx.task.environment import Environment, Turn
from rlx.task.reward.text import ExactMatch
from tests.task.environments import Counting, task_of

CHATML = (
    "{% for m in messages %}{{ m.role }}> {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant> {% endif %}"
)


class Given(Task):
    offers = frozenset({"pairs"})
    score = "pair_accuracy"

    def __init__(self, learn, held_out=(), max_new_tokens=8):
        object.__setattr__(self, "name", "given")
        object.__setattr__(self, "max_new_tokens", max_new_tokens)
        object.__setattr__(self, "sides", tuple(side if isinstance(side, Pairs) else tuple(side) for side in (learn, held_out)))

    def pairs(self):
        return self.sides[0]

    def held_out_pairs(self):
        return self.sides[1]

    def notes(self):
        return ["columns that are not read: id"]


PAIRS = [
    Pair("1+1=", "2", "3", source="a:1"),
    Pair("1+1=", "2", "3", source="a:2"),
    Pair("1+2=", "3", "", source="a:3"),
    Pair("1+3=", "4", "4 ", source="a:4"),
    Pair("1+4=", "5 of course", "6", source="a:5"),
]


def test_scores_that_contradict_the_sides_are_said():
    def cautions(*scores, **settings):
        task = Given([Pair(f"{place}=", "1", "2", scores=each) for place, each in enumerate(scores)])
        vars(task).update(settings)
        return [caution for caution in survey(task, build_tiny()).cautions if "larger score" in caution]

    assert cautions((1.0, 2.0), (2.0, 1.0), (1.0, 1.0), (0.0, 3.0))[0].startswith("2 pairs have the larger score on the rejected")
    assert cautions((2.0, 1.0), (1.0, 1.0), None) == cautions((1.0, 2.0), label_noise=1.0) == []


def test_reasoning_and_calls_are_words_of_a_message():
    asked = ({"role": "user", "content": "1+1?"},)

    def answers(**fields):
        return ({"role": "assistant", "content": "2", **fields},)

    pairs = [
        Pair(asked, answers(reasoning_content="one more"), answers(reasoning_content="guess")),
        Pair(asked, *[answers()] * 2),
    ]
    counts = survey(Given(pairs, []), build_tiny()).counts
    assert (counts["white_space_pairs"], counts["duplicates"]) == (0, 0)
    turned = Pair(asked, ({"content": " 2", "role": "assistant"},), answers())
    counts = survey(Given([*pairs, turned, turned], []), build_tiny()).counts
    assert (counts["white_space_pairs"], counts["duplicates"]) == (2, 2)


def test_a_bin_of_lengths_is_named_by_the_lengths_in_it():
    task = Given([Pair("1+1=", "1" * length, "2") for length in range(1, 26)])
    bins = [tuple(part.values()) for part in survey(task, build_tiny()).lengths["chosen"]["histogram"]]
    assert bins == [(first, first + 2, 3) for first in range(2, 26, 3)] + [(26, 28, 1)]


def test_answers_that_the_data_excludes_hide_no_graver_caution():
    talk = [{"role": role, "content": "1"} for role in ("user", "assistant", "user")]
    asked = (talk[0], {**talk[1], "weight": 0}, talk[2])
    said = ({"role": "assistant", "content": "2"},), ({"role": "assistant", "content": "222222"},)
    found = survey(Given([Pair(asked, *said)] * 3), build_tiny()).cautions
    assert "context for later answers" in found.pop()
    assert [words for words in ("are duplicates", "rejected side is longer") if words in " ".join(found)]


def test_what_is_kept_dropped_and_doubtful_is_counted():
    task = Given(PAIRS, [Pair("1 + 1 =", "2", "3")])
    found = survey(task, build_tiny())
    assert found.counts == {
        "read": 6,
        "kept": 5,
        "dropped": 1,
        "learn": 4,
        "held_out": 1,
        "truncated": 0,
        "prompts": 4,
        "in_both": 1,
        "duplicates": 2,
        "white_space_pairs": 1,
    }
    (dropped,) = found.dropped
    assert (dropped["reason"], dropped["count"], dropped["example"]["source"]) == ("empty", 1, "a:3")
    assert found.chosen_longer == (0.5 + 0.5 + 0 + 1) / 4
    assert found.lengths["prompt"]["quantiles"]["1"] == 4
    bins = [(part["from"], part["to"], part["count"]) for part in found.lengths["chosen"]["histogram"]]
    assert bins == [(2, 2, 3), *[(length, length, 0) for length in range(3, 12)], (12, 12, 1)]
    assert found.notes == ["columns that are not read: id"]
    said = " ".join(found.cautions)
    for word in ("empty completion", "both in training and held out", "white space", "duplicates"):
        assert word in said
    json.dumps(vars(found))


def test_an_example_is_its_tokens_and_which_of_them_are_learned():
    turns = ({"role": "assistant", "content": "2"}, {"role": "user", "content": "?"}, {"role": "assistant", "content": "3"})
    policy = build_tiny()
    found = survey(Given([Pair(({"role": "user", "content": "1+1"},), turns, "4")]), policy, num_examples=1)
    (example,) = found.examples
    assert example["prompt_ids"] == policy.encode_prompt(({"role": "user", "content": "1+1"},)).tolist()
    chosen, rejected = example["completions"]
    kept = [token for token, learned in zip(chosen["ids"], chosen["learned"], strict=True) if learned]
    assert policy.tokenizer.decode(kept) == "2<eos>3<eos>"
    assert policy.tokenizer.decode(rejected["ids"]) == "4<eos>"
    assert example["text"] == "user:\n1+1\nassistant:\n2<eos>\nuser:\n?\nassistant:\n3<eos>"
    assert found.lengths["chosen"]["quantiles"]["1"] == 4  # learned tokens alone


def test_plain_text_on_a_policy_with_a_chat_template_is_said(tmp_path):
    save_tiny(build_tiny(), tmp_path)
    policy = load_pretrained(str(tmp_path))
    policy.tokenizer.chat_template = CHATML
    task = Given(PAIRS)
    assert any("5 prompts are plain text" in caution for caution in survey(task, policy).cautions)
    assert not any("plain text" in caution for caution in survey(task, build_tiny()).cautions)


def test_what_a_run_says_of_prompts_is_the_gravest_of_what_rlx_data_says(tmp_path):
    save_tiny(build_tiny(), tmp_path)
    policy = load_pretrained(str(tmp_path))
    policy.tokenizer.chat_template = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    asked = {"role": "user", "content": "1+1"}
    task = SimpleNamespace(interaction=None, prompts=lambda: [Prompt((asked,))], held_out_prompts=lambda: [Prompt((asked,))])
    assert brief_of_prompts(task, policy.text) == {}
    unseen = Prompt(({"role": "system", "content": "Be brief."}, asked))
    task.prompts = lambda: [unseen, Prompt("2+2")]
    said = brief_of_prompts(task, policy.text)["caution"]
    assert said.startswith("1 prompts have messages (for example of the role system")
    assert said.endswith("(and 1 more: rlx data)")
    task.prompts = lambda: [unseen] * 1200
    assert brief_of_prompts(task, policy.text)["caution"].startswith("1000 of the first 1,000 prompts have messages")
    task.interaction = object()
    assert brief_of_prompts(task, policy.text) == {}


def test_a_long_side_and_a_short_limit_are_said():
    task = Given([Pair(f"{n}=", "a long answer", "b") for n in range(5)], max_new_tokens=3)
    said = " ".join(survey(task, build_tiny()).cautions)
    assert "the chosen side is longer in 100%" in said
    assert "task.max_new_tokens=3 truncates" in said
    shown = brief(task, build_tiny())
    assert shown["lengths"].startswith("in tokens, 25 to 75 % quantile (maximum): prompt 2 to 2 (2), chosen 14 to 14")
    assert shown["caution"].endswith("(and 1 more: rlx data)")


def arithmetic(reward):
    judged = {"rewards": {"r": reward}, "on_reward_error": "stop", "failed_reward": 0.0, "full_reward": "auto"}
    return Arithmetic(name="a", max_operand=9, max_new_tokens=8, label_noise=0.0, **judged)


def test_special_tokens_that_prompts_spell_are_counted_with_and_without_completions():
    policy = build_tiny()
    end = policy.tokenizer.eos_token
    pairs = [Pair(f"1{end}+1=", "2", "3", source="a:1"), *PAIRS[:1]]
    (remark,) = survey(Given(pairs, [Pair("2+2=", "4", "5")]), policy).remarks
    assert (remark["reason"], remark["count"], remark["example"]["source"]) == ("special_text", 1, "a:1")
    task = arithmetic(ExactMatch(weight=1.0, ignore_case=False, pattern=None))
    assert survey(task, policy).remarks == []


class Asks(Given):
    offers = frozenset({"prompts"})

    def prompts(self):
        return self.sides[0]

    def held_out_prompts(self):
        return self.sides[1]


def test_special_tokens_and_tools_that_prompts_lose_are_counted_without_completions(tmp_path):
    policy = build_tiny()
    policy.tokenizer.chat_template = CHATML
    chat = ({"role": "user", "content": f"say {policy.tokenizer.eos_token} now"},)
    asks = Asks([Prompt(chat), Prompt("1+1="), Prompt(chat[0]["content"])], [Prompt(chat, tools=({"name": "f"},))])
    found = {remark["reason"]: (remark["count"], remark["example"]["source"]) for remark in survey(asks, policy).remarks}
    assert found == {"special_text": (3, "prompt 1"), "tools_unseen": (1, "prompt 4")}


class Opens(Environment):
    def prompts(self, count, rng):
        return [Prompt(f"{number}+1=") for number in range(count)]

    def start(self, prompt, **columns):
        return f"Hi! {prompt}"

    def step(self, completion):
        return Turn("", done=True)


def test_prompts_of_an_environment_are_those_that_it_opens():
    found = survey(task_of(Opens(), num_prompts=18, num_held_out=3), build_tiny(), num_examples=1)
    assert found.examples[0]["text"].endswith("Hi! 0+1=")
    assert found.lengths["prompt"]["quantiles"]["0"] == len("Hi! 0+1=")
    assert found.counts["read"] == 21
    assert "the environment opened the first 16 of 18 prompts; the lengths describe these" in found.notes
    with pytest.raises(DataError, match="start of Fails opens no conversation for prompt 1: ValueError: nothing to say"):
        survey(task_of(Fails(), num_prompts=1, num_held_out=1), build_tiny())


def test_an_opening_that_fails_is_counted_and_the_others_are_shown():
    found = survey(task_of(FailsOnce(), num_prompts=18, num_held_out=3), build_tiny(), num_examples=2)
    said = "start of FailsOnce opens no conversation for prompt 1: ValueError: nothing to say"
    assert f"2 of 19 conversations could not be opened by the environment; for example, {said}" in found.cautions
    assert [example["text"][-8:] for example in found.examples] == ["Hi! 1+1=", "Hi! 2+1="]


class FailsOnce(Opens):
    def start(self, prompt, **columns):
        if prompt.startswith("0"):
            raise ValueError("nothing to say")
        return super().start(prompt, **columns)


class Fails(Opens):
    def start(self, prompt, **columns):
        raise ValueError("nothing to say")


@pytest.mark.parametrize(("environment", "told"), [(Opens(), 1), (Counting(), 0)])
def test_prompts_on_both_sides_are_said_where_they_tell_games_apart(environment, told):
    found = survey(task_of(environment, num_prompts=4, num_held_out=3), build_tiny())
    assert sum("both in training and held out" in caution for caution in found.cautions) == told
