import random

import pytest

from rlx.errors import ConfigError
from rlx.seeding import Stream
from rlx.task.base import Prompt
from rlx.task.environment import Conversation
from rlx.task.guess import Guess


def played(secret, guesses, **changes):
    game = Guess(**{"lowest": 0, "highest": 9, "max_guesses": 4, **changes})
    one = Conversation.of(game, Prompt("0-9=", {"secret": secret}), name="x", stream=Stream(0))
    one.started(one.start())
    said = []
    for guess in guesses:
        one.say(guess)
        said.append(one.answered(one.environment.step(guess)))
        if one.done:
            break
    return said, one


def test_the_game_says_higher_and_lower_and_rewards_the_right_number():
    said, one = played(7, ["5", "8", "7"])
    assert said == [">=", "<=", "right"]
    assert (one.done, one.rewards) == (True, [0.0, 0.0, 1.0])


def test_the_game_is_lost_after_the_last_guess():
    said, one = played(7, ["1", "x", "12", "3", "7"])
    assert said == [">=", "?=", "?=", "it was 7"]
    assert (one.done, sum(one.rewards)) == (True, 0.0)


def test_bisection_always_wins():
    for secret in range(10):
        low, high, guesses = 0, 9, []
        while low <= high:
            guesses.append((low + high) // 2)
            low, high = (guesses[-1] + 1, high) if secret > guesses[-1] else (low, guesses[-1] - 1)
            if guesses[-1] == secret:
                break
        assert sum(played(secret, list(map(str, guesses)))[1].rewards) == 1.0


def test_every_number_comes_equally_often_in_equal_prompts():
    made = Guess(lowest=0, highest=9, max_guesses=4).prompts(100, random.Random(0))
    assert sorted(prompt.columns["secret"] for prompt in made) == sorted(list(range(10)) * 10)
    assert {prompt.text for prompt in made} == {"0-9="}


def test_a_game_without_numbers_is_refused():
    with pytest.raises(ConfigError, match="lowest=3 and highest=3"):
        Guess(lowest=3, highest=3, max_guesses=1)
