from rlx.record.files import completion_text, turn_lines
from rlx.record.logger.base import samples_as_markdown

TURNS = [
    {"role": "assistant", "content": "5", "reward": 0.0},
    {"role": "user", "content": ">="},
    {"role": "assistant", "content": "7", "reward": 1.0},
]


def test_a_conversation_is_shown_a_turn_a_line():
    assert turn_lines(TURNS) == ["assistant: 5", "user: >=", "assistant: 7  (reward 1)"]


def test_the_completion_of_a_sample_is_its_turns_where_it_has_some():
    assert completion_text({"completion": "5>=7", "turns": TURNS}) == "assistant: 5\nuser: >=\nassistant: 7  (reward 1)"
    assert completion_text({"completion": "46"}) == "46"
    assert completion_text({"completion": "46", "turns": "damaged"}) == "46"


def test_trackers_show_conversations_turn_by_turn():
    shown = samples_as_markdown([{"prompt": "0-9=", "completion": "5>=7", "turns": TURNS, "reward": 1.0}])
    assert "    user: >=\n    assistant: 7" in shown
