"""What every tracker is given."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.record.logger import Logger
from rlx.record.logger.base import clean, logged_config, samples_as_markdown


def test_a_config_becomes_dotted_keys() -> None:
    config = {"a": {"b": {"c": 1}, "d": None}, "e": [1, "x"], "f": True, "g": math.inf, "h": "t"}
    assert logged_config(config) == {"a.b.c": 1, "e": "[1, 'x']", "f": True, "g": math.inf, "h": "t"}


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_text_of_a_policy_stands_in_a_code_block_whatever_it_is(text: str) -> None:
    shown = samples_as_markdown([{"prompt": "p", "completion": text, "reward": 0.5}])
    shown.encode()
    between = shown.partition("**completion**\n\n")[2].rpartition("\n\nreward 0.5")[0]
    assert all(line.startswith("    ") for line in between.splitlines())
    clean(text).encode()


def test_a_conversation_is_shown_turn_by_turn_from_its_opening_on() -> None:
    opening = [{"role": "system", "content": "Count."}, {"role": "user", "content": "3?"}]
    turns = [{"role": "assistant", "content": "5", "reward": 0.5}, {"role": "user", "content": "no"}]
    shown = samples_as_markdown([{"prompt": opening, "completion": "5 no", "turns": turns}])
    assert "    system: Count.\n    user: 3?\n" in shown
    assert "    assistant: 5  (reward 0.5)\n    user: no" in shown


def test_a_logger_of_ones_own_needs_no_more_than_what_it_overrides(create) -> None:
    class Counting(Logger):
        count = 0

        def log(self, step: int, metrics: object) -> None:
            self.count += 1

    counting = Counting()
    run = create(loggers={"mine": counting})
    run.log(0, {"train/loss": 1.0})
    run.samples(0, [])
    run.interrupt()
    assert counting.count == 1
