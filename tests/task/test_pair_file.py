"""What tasks of a file of completions share: the split by a hash of the prompt, and completions that repeat their prompt."""

import pytest

from rlx.errors import DataError
from rlx.task.base import Pair, content_uniform
from rlx.task.pair_file import PairFile, continuation
from tests.task.test_file import assistant, user, write

ROWS = [{"prompt": f"p{i // 2}", "good": f"g{i}", "bad": f"b{i}"} for i in range(200)]


class Plain(PairFile):
    def _read(self, row, place):
        return Pair(row["prompt"], row["good"], row["bad"], source=place)

    def _least(self, placed):
        return min(place for place, _ in placed)


def task(tmp_path, rows=ROWS, **changes):
    return Plain(
        **{
            "name": "plain",
            "max_new_tokens": 8,
            "path": str(write(tmp_path / "a.jsonl", rows)),
            "held_out": 0.2,
            "label_noise": 0.0,
            **changes,
        }
    )


def test_the_prompts_whose_hash_is_below_the_share_are_held_out_with_all_their_pairs(tmp_path):
    plain = task(tmp_path)
    held_out = {pair.prompt for pair in plain.held_out_pairs()}
    assert held_out == {f"p{i}" for i in range(100) if content_uniform(f"p{i}", salt="held out") <= 0.2}
    assert len(plain.held_out_pairs()) == 2 * len(held_out)
    assert len(plain.pairs()) + len(plain.held_out_pairs()) == 200
    assert [prompt.text for prompt in plain.held_out_prompts()] == list(
        dict.fromkeys(pair.prompt for pair in plain.held_out_pairs())
    )


def test_the_split_does_not_depend_on_the_order_of_the_rows(tmp_path):
    other = task(tmp_path, list(reversed(ROWS)))
    assert {pair.prompt for pair in other.pairs()} == {pair.prompt for pair in task(tmp_path).pairs()}


def test_noise_flips_what_is_learnt_and_nothing_that_is_held_out(tmp_path):
    flipped = task(tmp_path, label_noise=1.0)
    assert all(pair.chosen.startswith("b") for pair in flipped.pairs())
    assert all(pair.chosen.startswith("g") for pair in flipped.held_out_pairs())


def test_more_is_held_out_where_less_would_leave_no_score(tmp_path):
    assert len(task(tmp_path, held_out=1e-9).held_out_prompts()) == 1


def test_a_share_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"all prompts are held out at task\.held_out=0\.99"):
        task(tmp_path, [row for row in ROWS if content_uniform(row["prompt"], salt="held out") < 0.9], held_out=0.99).pairs()


def test_a_chat_completion_that_repeats_its_prompt_is_what_comes_after_it():
    prompt, both = (user("q"),), ((user("q"),), (assistant("a"),))
    assert continuation(prompt, (user("q"), assistant("a"))) == both
    assert continuation(prompt, (assistant("a"),)) == both
    assert continuation(prompt, "a") == both
    assert continuation("q", "qa") == ("q", "qa")


def test_a_text_beside_messages_is_a_users_message_or_the_conversations_own_prompt():
    system = {"role": "system", "content": "be brief"}
    assert continuation("q", (assistant("a"),)) == ((user("q"),), (assistant("a"),))
    assert continuation("q", (user("q"), assistant("a"))) == ((user("q"),), (assistant("a"),))
    whole = (system, user("q"), assistant("a"), user("q"), assistant("b"))
    assert continuation("q", whole) == (whole[:4], whole[4:])
