import pytest

from rlx.errors import ConfigError, TrainingError
from rlx.task.base import Prompt
from rlx.task.reward.text import ExactMatch, LengthPenalty
from tests.task.rewarding import Count, Letters, Told, letters

EXACT = ExactMatch(weight=1.0, ignore_case=False, pattern=None)
PROMPT = Prompt("q", {"answer": "aab"})


def test_the_reward_is_the_weighted_sum_and_the_parts_stand_apart():
    task = letters({"a": Count(weight=2.0, letter="a"), "b": Count(weight=-0.5, letter="b"), "exact": EXACT})
    assert task.reward(PROMPT, "aab") == {"reward": 2 * 2 - 0.5 + 1, "a": 2.0, "b": 1.0, "exact": 1.0}
    assert [row["reward"] for row in task.reward_all([PROMPT, PROMPT], ["", "bb"])] == [0.0, -1.0]


def test_a_weight_of_zero_only_logs():
    assert letters({"a": Count(weight=0.0, letter="a")}).reward(PROMPT, "aa") == {"reward": 0.0, "a": 2.0}


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (ZeroDivisionError("by zero"), "raised ZeroDivisionError: by zero"),
        (float("nan"), "gave nan, not a finite number"),
        (float("-inf"), "gave -inf"),
        (1e39, "gave 1e\\+39"),
        ("0.5", "gave '0.5'"),
        (None, "gave None"),
    ],
)
def test_a_failing_reward_stops_the_run_with_its_prompt_and_completion(outcome, message):
    task = letters({"odd": Told(weight=1.0, outcome=outcome), "a": Count(weight=1.0, letter="a")})
    with pytest.raises(TrainingError, match=f"reward odd {message}.*completion 'aa' of the prompt 'q'"):
        task.reward_all([PROMPT], ["aa"])


@pytest.mark.parametrize("outcome", [ZeroDivisionError("by zero"), float("nan"), "0.5"])
def test_or_counts_as_a_failed_sample(outcome):
    rewards = {"odd": Told(weight=1.0, outcome=outcome), "a": Count(weight=1.0, letter="a")}
    task = letters(rewards, on_reward_error="fail", failed_reward=-1.0)
    assert task.reward_all([PROMPT], ["aa"]) == [{"reward": -1.0, "odd": 0.0, "a": 2.0, "failed": 1.0}]


def test_samples_that_do_not_fail_have_the_same_parts():
    task = letters({"a": Count(weight=1.0, letter="a")}, on_reward_error="fail")
    assert task.reward_all([PROMPT], ["aa"]) == [{"reward": 2.0, "a": 2.0, "failed": 0.0}]


def test_full_reward_is_the_largest_sum():
    penalty = LengthPenalty(weight=0.5, max_characters=4, cache_characters=2)
    task = letters({"exact": EXACT, "length": penalty})
    full = task.full_reward_value()
    assert task.score == "accuracy"
    assert task.reward(PROMPT, "aab")["reward"] < full < 1.0
    assert task.reward(Prompt("q", {"answer": "ab"}), "ab")["reward"] >= full


def test_a_negative_weight_is_at_its_best_where_the_value_is_least():
    exact = ExactMatch(weight=-1.0, ignore_case=False, pattern=None)
    task = letters({"not": exact, "exact": ExactMatch(weight=3.0, ignore_case=False, pattern=None)})
    assert task.full_reward_value() == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize(
    ("rewards", "full_reward", "score"),
    [
        ({"a": Count(weight=1.0, letter="a")}, "auto", "greedy_reward"),  # nobody knows how many there can be
        ({"exact": EXACT, "a": Count(weight=1.0, letter="a")}, "auto", "greedy_reward"),
        ({"a": Count(weight=1.0, letter="a")}, 2.0, "accuracy"),
        ({"exact": EXACT}, None, "greedy_reward"),
        ({"length": LengthPenalty(weight=1.0, max_characters=4, cache_characters=2)}, "auto", "greedy_reward"),
    ],
)
def test_what_a_task_is_scored_by(rewards, full_reward, score):
    assert letters(rewards, full_reward=full_reward).score == score


def test_a_subclass_may_say_itself_what_a_completion_is_worth():
    class Own(Letters):
        def reward(self, prompt, completion):
            return {"reward": len(completion)}

    task = Own(
        name="own", max_new_tokens=4, rewards={"exact": EXACT}, on_reward_error="stop", failed_reward=0.0, full_reward="auto"
    )
    assert task.reward_all([PROMPT], ["abcd"]) == [{"reward": 4.0}]


def test_a_bare_function_is_a_reward():
    task = letters({"length": lambda prompt, completion: len(completion)})
    assert task.reward(PROMPT, "abc") == {"reward": 3.0, "length": 3.0}


@pytest.mark.parametrize(
    ("rewards", "changes", "message"),
    [
        ({}, {}, "rewards is empty"),
        ({"reward": EXACT}, {}, "name that rlx reserves"),
        ({"x": 3}, {}, "task.rewards.x is 3, not a reward"),
        ({"x": EXACT}, {"on_reward_error": "ignore"}, "one of stop, fail"),
        ({"x": EXACT}, {"failed_reward": float("nan")}, "failed_reward"),
        ({"x": EXACT}, {"full_reward": "most"}, "a finite number or auto or null"),
        ({"x": EXACT}, {"reward_noise": 1.5}, r"reward_noise of \w+ is 1\.5, .* at least 0 and at most 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rewards, changes, message):
    with pytest.raises(ConfigError, match=message):
        letters(rewards, **changes)


def test_the_rewards_are_shown_with_their_weights():
    task = letters({"exact": EXACT, "a": Count(weight=0.25, letter="a")})
    assert task.reward_facts() == "exact + 0.25 a"


def test_one_function_may_give_several_numbers_by_name():
    told = Told(weight=2.0, outcome={"format": 0.25, "answer": 1.0})
    expected = {"reward": 2.5 + 2.0, "odd": 1.25, "a": 2.0, "odd_format": 0.25, "odd_answer": 1.0}
    assert letters({"odd": told, "a": Count(weight=1.0, letter="a")}).reward(PROMPT, "aa") == expected


def test_one_of_them_that_is_no_number_fails_the_sample():
    rewards = {"odd": Told(weight=1.0, outcome={"format": 0.25, "answer": float("nan")})}
    with pytest.raises(TrainingError, match="reward odd gave"):
        letters(rewards).reward(PROMPT, "aa")
    task = letters(rewards, on_reward_error="fail", failed_reward=-1.0)
    assert task.reward(PROMPT, "aa") == {"reward": -1.0, "odd": 0.0, "odd_format": 0.25, "odd_answer": 0.0, "failed": 1.0}


def test_a_reward_that_is_only_logged_does_not_move_the_score():
    task = letters({"exact": EXACT, "told": Told(weight=0.0, outcome=3.0)})
    assert task.score == "accuracy"
    assert task.full_reward_value() == pytest.approx(1.0, abs=1e-5)


def test_what_the_score_is_is_said():
    assert letters({"exact": EXACT}).score_facts() == (
        "accuracy, the share of held-out prompts whose greedy completion has a reward of 1"
    )
    unbounded = letters({"told": Told(weight=1.0, outcome=3.0)})
    assert unbounded.score_facts().endswith(
        "; no reward is known to mean right (task.full_reward=auto, and told names no largest value)"
    )
    none = letters({"exact": EXACT}, full_reward=None).score_facts()
    assert none.endswith("; no reward is known to mean right (task.full_reward=null)")
