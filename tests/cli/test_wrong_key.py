"""A key that the config does not have is answered by how it is meant to be written."""

import pytest

from rlx.cli.main import invoke

pytestmark = pytest.mark.whole


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.rewards.short.target=5", "is added: +task.rewards.short.function.target=..."),
        ("task.rewards.short.function.target=5", "is added: +task.rewards.short.function.target=..."),
        ("task.rewards.short.weihgt=5", "did you mean task.rewards.short.weight?"),
        ("+task.rewards.short.function.targt=5", "did you mean task.rewards.short.function.target?"),
        ("+task.rewards.short.function.target=far", "it must be a whole number"),
    ],
)
def test_an_argument_of_a_reward_function_is_checked_before_anything_runs(override, expected, tmp_path, monkeypatch):
    text = "def short(prompt: str, completion: str, *, target: int = 3) -> float:\n    return -abs(len(completion) - target)\n"
    (tmp_path / "reward_of_ones_own.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    code, message = invoke(["train", "algorithm=custom_grpo", "task/reward=reward_of_ones_own.short", override])
    assert code == 2
    assert expected in message


def test_an_attribute_without_a_type_is_no_key(tmp_path, monkeypatch):
    text = """
from dataclasses import dataclass
from rlx.algorithm.sft import Sft

@dataclass(frozen=True, kw_only=True)
class Bare(Sft):
    extra = 0.1
"""
    (tmp_path / "bare_lab.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    code, message = invoke(["check", "algorithm=bare_lab.Bare", "algorithm.extra=0.2"])
    assert code == 2
    assert "Bare has it without a type, and only typed fields are keys: write extra: float = 0.1" in message


def test_a_group_that_nothing_chooses_from_is_named_with_what_does():
    code, message = invoke(["train", "task/tool=[calculator]"])
    assert (code, message) == (2, "rlx: nothing on this command line chooses a task/tool; task=tool_file does, among others")


def test_an_argument_of_a_tool_is_fixed_by_its_key(tmp_path, monkeypatch, capsys):
    (tmp_path / "tool_of_ones_own.py").write_text("def search(query: str, limit: int = 3) -> str:\n    return query\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = ["train", "task=tool_file", "task.path=x", "task/tool=[tool_of_ones_own.search]"]
    argument = "+task.environment.tools.search.function.limit=1"
    assert invoke([*line, argument, "--cfg", "job", "--package", "task.environment.tools"]) == (0, "")
    assert "limit: 1" in capsys.readouterr().out
    code, message = invoke([*line, argument.replace("limit", "limt")])
    assert code == 2
    assert "limit" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["compare", "outputs", "algorithm=sft"],
            "algorithm is a key of rlx train, not of rlx compare; runs are chosen by where=algo",
        ),
        (["runs", "loss.beta=0.1"], "runs are chosen by where=loss.beta=0.1"),
        (["data", "task=arithmetic", "loss=ipo"], "loss is a key of rlx train, not of rlx data; leave it out"),
        (
            ["sample", "rollout.max_new_tokens=3"],
            "rollout.max_new_tokens is not a key of rlx sample; did you mean max_new_tokens?",
        ),
        (["compare", "outputs", "polic=tiny"], "polic is not a key of rlx compare; rlx compare --cfg job shows all"),
    ],
)
def test_a_key_that_another_verb_has_is_not_proposed(words, said):
    code, message = invoke(words)
    assert (code, said in message) == (2, True), message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("algorithm.group_size=4", "is not a key of hybrid; it has algorithm.grpo.group_size"),
        ("algorithm.pairs_per_step=4", "is not a key of hybrid; it has algorithm.dpo.pairs_per_step"),
        ("task.weight=1", "is not a key of arithmetic; it has task.rewards.exact_match.weight"),
    ],
)
def test_a_key_of_a_part_is_named_by_its_path(override, expected):
    code, message = invoke(["train", "algorithm=hybrid", override])
    assert code == 2
    assert message.endswith(expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["algorithm=custom_grpo", "algorithm.advantage=gae"],
            "algorithm.advantage=gae: it is chosen by algorithm/advantage=gae",
        ),
        (["algorithm=hybrid", "algorithm.dpo.loss=ipo"], "algorithm.dpo.loss=ipo: it is chosen by loss@algorithm.dpo.loss=ipo"),
        (["algorithm=hybrid", "algorithm.dpo=sft"], "algorithm.dpo=sft: it is chosen by algorithm@algorithm.dpo=sft"),
        (
            ["algorithm=hybrid", "algorithm/dpo/loss=ipo"],
            "algorithm/dpo/loss is not a key of rlx train; algorithm.dpo.loss is chosen by loss@algorithm.dpo.loss=NAME",
        ),
    ],
)
def test_an_option_that_is_set_as_a_value_is_told_the_word_that_chooses_it(words, said):
    assert invoke(["train", *words]) == (2, f"rlx: {said}")
