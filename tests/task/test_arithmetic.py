import pytest

from rlx.task.arithmetic import Arithmetic
from rlx.task.base import Prompt
from rlx.task.reward.text import ExactMatch

REWARDS = {
    "rewards": {"exact_match": ExactMatch(weight=1.0, ignore_case=False, pattern=None)},
    "on_reward_error": "stop",
    "failed_reward": 0.0,
    "full_reward": "auto",
}


def task(**changes):
    settings = {"name": "arithmetic", "max_operand": 30, "max_new_tokens": 8, "label_noise": 0.0, **REWARDS}
    return Arithmetic(**{**settings, **changes})


def test_learned_and_held_out_prompts_are_all_sums_and_disjoint():
    learn, held_out = ({prompt.text for prompt in side} for side in (task().prompts(), task().held_out_prompts()))
    assert not learn & held_out
    assert learn | held_out == {f"{a}+{b}=" for a in range(31) for b in range(31)}
    assert 0.06 < len(held_out) / 31**2 < 0.14


def test_a_prompt_stays_on_its_side_whatever_the_largest_operand():
    small, large = ({prompt.text for prompt in task(max_operand=n).held_out_prompts()} for n in (20, 40))
    assert small <= large
    assert {text for text in large if max(map(int, text[:-1].split("+"))) <= 20} == small


def test_pairs_are_right_against_wrong_from_one_digit_on():
    for pair in (*task().pairs(), *task().held_out_pairs()):
        a, b = map(int, pair.prompt[:-1].split("+"))
        assert pair.chosen == str(a + b)
        assert len(pair.rejected) == len(pair.chosen)
        differs = [c != r for c, r in zip(pair.chosen, pair.rejected, strict=True)]
        assert differs[-1]
        assert differs == sorted(differs)
        assert str(int(pair.rejected)) == pair.rejected


def test_held_out_pairs_are_never_flipped():
    assert [p.chosen for p in task(label_noise=1.0).held_out_pairs()] == [p.chosen for p in task().held_out_pairs()]
    assert [p.rejected for p in task(label_noise=1.0).pairs()] == [p.chosen for p in task().pairs()]


@pytest.mark.parametrize(("completion", "reward"), [("46", 1.0), (" 46 ", 1.0), ("47", 0.0), ("", 0.0), ("46 47", 0.0)])
def test_the_reward_is_for_the_exact_sum(completion, reward):
    assert task().reward(Prompt("12+34=", {"answer": "46"}), completion)["reward"] == reward
