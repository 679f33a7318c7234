import pytest

from rlx.data.reward_tries import tried_rewards
from rlx.data.survey import survey
from rlx.errors import TrainingError
from rlx.policy.tiny import build_tiny
from rlx.task.base import Prompt
from rlx.task.reward.text import ExactMatch
from tests.data.test_survey import arithmetic


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
