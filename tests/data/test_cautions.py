"""What is counted of rows that are there more than once, and when it is counted anew."""

import pytest

from rlx.data import cautions
from rlx.data.cautions import tried_rewards
from rlx.data.stores import TokenStore
from rlx.data.survey import survey
from rlx.errors import TrainingError
from rlx.policy.tiny import build_tiny
from rlx.task.base import Pair, Pairs, Prompt
from rlx.task.reward.text import ExactMatch
from tests.data.test_survey import PAIRS, Given, arithmetic


def test_what_is_there_twice_is_kept_under_the_names_of_the_pairs(tmp_path, monkeypatch):
    policy, counted = build_tiny(), []
    policy.pair_tokenizer.store = TokenStore(tmp_path)
    count = cautions.counted_repeats
    monkeypatch.setattr(cautions, "counted_repeats", lambda *sides: counted.append(1) or count(*sides))
    held_out = Pairs.of([Pair("1+1=", "2", "4"), Pair("9+9=", "18", "9")], "h")

    def counts(name, pairs=PAIRS):
        return survey(Given(Pairs.of(pairs, name) if name else pairs, held_out), policy).counts

    first = counts("a")
    assert (first["duplicates"], first["in_both"], first["prompts"], first["white_space_pairs"]) == (1, 1, 5, 1)
    assert counts("a") == first
    assert len(counted) == 1
    assert counts("b", PAIRS[1:])["duplicates"] == 0
    assert counts("", PAIRS) == first  # without a name nothing is kept
    assert len(counted) == 3


def test_rewards_are_tried_on_a_right_an_empty_and_a_wrong_answer():
    found = survey(arithmetic(ExactMatch(weight=1.0, ignore_case=False, pattern=None)), build_tiny())
    assert [one["rewards"]["reward"] for one in found.rewards] == [1.0, 0.0, 0.0]
    assert not [caution for caution in found.cautions if "reward" in caution]
    strict = survey(arithmetic(ExactMatch(weight=1.0, ignore_case=False, pattern="<a>(.*)</a>")), build_tiny())
    assert any("the right answer itself gets the reward 0" in caution for caution in strict.cautions)


def test_a_reward_that_raises_is_said_and_ends_nothing():
    def broken(prompt, completion, **columns):
        raise ValueError("no")

    tried = tried_rewards(arithmetic(broken))
    assert all("raised ValueError: no" in one["error"] for one in tried)
    with pytest.raises(TrainingError):
        arithmetic(broken).reward_all([Prompt("1+1=", {"answer": "2"})], ["2"])
