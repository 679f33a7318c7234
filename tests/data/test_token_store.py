import copy
import datetime
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlx.data.pair_tokens import PairTokens
from rlx.data.stores import TokenStore
from rlx.data.tokenized import TokenizedPairs
from rlx.data.tokens import TextEncoder
from rlx.policy.tiny import character_tokenizer
from rlx.task.base import Pair
from tests.data.test_tokens import CHATML, bytes_tokenizer

TEXT = TextEncoder(character_tokenizer())
ROWS = [(f"{a}+{b}=", str(a + b), str(a + b + 1), ()) for a in range(5) for b in range(5)]


class Counted(TextEncoder):
    """Says how many examples it tokenised."""

    examples = 0

    def write(self, examples):
        Counted.examples += len(examples)
        return super().write(examples)


@pytest.fixture
def counted():
    Counted.examples = 0
    return Counted(character_tokenizer())


def test_the_second_run_reads_what_the_first_tokenised(tmp_path, counted):
    first = TokenStore(tmp_path).encode_pairs(counted, ROWS)
    assert Counted.examples == 2 * len(ROWS)
    again = TokenStore(tmp_path).encode_pairs(counted, ROWS)
    assert first.equals(PairTokens.of(TEXT, ROWS))
    assert first.equals(again)
    assert Counted.examples <= 2 * (len(ROWS) + 8)  # a sample is looked at again
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".safetensors"]) == 1


def test_conversations_and_empty_texts_come_back_too(tmp_path):
    tokenizer = copy.deepcopy(bytes_tokenizer(adds_bos=True))
    tokenizer.chat_template = CHATML
    text = TextEncoder(tokenizer)
    chat = ({"role": "user", "content": "Straße?"},)
    turns = ({"role": "assistant", "content": "ja, 好"}, {"role": "user", "content": "?"}, {"role": "assistant", "content": "ja"})
    rows = [
        (chat, "yes", "no"),
        ("plain", " text", " words"),
        (chat, turns[:1], turns),
        (chat, turns, turns[1:2]),
        (chat, turns[:2], turns[:1]),
    ]
    rows = [(*row, ()) for row in rows]
    store = TokenStore(tmp_path)
    written = store.encode_pairs(text, rows)
    assert written.equals(PairTokens.of(text, rows))
    assert store.encode_pairs(text, rows).equals(written)
    assert written.refused == {3: ("no_answer", "")}
    assert not written.learned.all()
    assert [written.remarks_of(row) for row in (2, 4)] == [(), ("trailing",)]


def test_other_texts_and_another_tokenizer_are_other_files(tmp_path):
    store = TokenStore(tmp_path)
    chatty = copy.deepcopy(character_tokenizer())
    chatty.chat_template = CHATML
    encoders = [TEXT, TextEncoder(chatty), TextEncoder(chatty, chat_template="never")]
    for text in encoders:
        store.encode_pairs(text, ROWS)
    store.encode_pairs(TEXT, ROWS[:-1])
    store.encode_pairs(TEXT, [(prompt, chosen + " ", rejected, ()) for prompt, chosen, rejected, _ in ROWS])
    assert len(list(tmp_path.glob("*.safetensors"))) == len(encoders) + 2


def test_limits_of_length_read_the_same_file_and_hold(tmp_path):
    pairs = [Pair("1+1=", "2", "3"), Pair("1+1=", "2", "3" * 40), Pair("1" * 30, "2", "3")]
    for limit, shorter in ((20, None), (60, 3), (None, None)):
        text = replace(TEXT, max_prompt_length=shorter)
        stored = TokenizedPairs.of(pairs, text, max_length=limit, store=TokenStore(tmp_path))
        plain = TokenizedPairs.of(pairs, text, max_length=limit)
        assert (stored.dropped, stored.truncated, stored.index.tolist()) == (plain.dropped, plain.truncated, plain.index.tolist())
        assert all(map(np.array_equal, stored.sequences.prompts, plain.sequences.prompts))


def test_a_file_that_holds_other_tokens_is_said_and_replaced(tmp_path, caplog):
    store = TokenStore(tmp_path)
    right = store.encode_pairs(TEXT, ROWS)
    (path,) = tmp_path.glob("*.safetensors")
    kept = store._files.read(path.stem)
    store._files.write(path.stem, {**kept, "tokens": torch.flip(kept["tokens"], dims=(0,))})
    with caplog.at_level(logging.WARNING, logger="rlx"):
        assert store.encode_pairs(TEXT, ROWS).equals(right)
    assert caplog.text.count("belong to another tokenizer") == 1
    assert torch.equal(store._files.read(path.stem)["tokens"], kept["tokens"])


@pytest.mark.parametrize("damage", [{"lengths": torch.tensor([[1, 1, 1]])}, {"remarks": None}])
def test_a_file_of_other_texts_is_said_and_replaced(tmp_path, caplog, damage):
    store = TokenStore(tmp_path)
    right = store.encode_pairs(TEXT, ROWS)
    (path,) = tmp_path.glob("*.safetensors")
    kept = {**store._files.read(path.stem), **damage}
    store._files.write(path.stem, {key: value for key, value in kept.items() if value is not None})
    with caplog.at_level(logging.WARNING, logger="rlx"):
        assert store.encode_pairs(TEXT, ROWS).equals(right)
    assert caplog.text.count("belong to other texts") == 1


def test_messages_may_hold_what_is_no_json(tmp_path):
    tokenizer = copy.deepcopy(bytes_tokenizer())
    tokenizer.chat_template = CHATML
    chat = ({"role": "user", "content": "when?", "time": datetime.date(2026, 1, 1)},)
    text = TextEncoder(tokenizer)
    rows = [(chat, "now", "then", ())]
    assert TokenStore(tmp_path).encode_pairs(text, rows).equals(PairTokens.of(text, rows))


def test_without_a_folder_or_texts_nothing_is_kept(tmp_path, counted):
    assert TokenStore(None).encode_pairs(counted, ROWS).equals(PairTokens.of(TEXT, ROWS))
    assert len(TokenStore(tmp_path).encode_pairs(counted, [])) == 0
    assert not list(tmp_path.iterdir())


def test_equal_rows_have_one_name_whoever_made_their_texts(tmp_path):
    store = TokenStore(tmp_path)
    once = "12+34="
    store.encode_pairs(TEXT, [(once, once, once, ()), (once, "46", "47", ())])
    store.encode_pairs(TEXT, [("".join(("12+", "34=")), str(b"12+34=", "ascii"), once, ()), (once, str(46), str(47), ())])
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    store.encode_pairs(TEXT, [(once, once, once, ()), (once, "46", "48", ())])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
