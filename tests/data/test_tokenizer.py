"""Special tokens that the words of others spell are plain text, and those of the template are not."""

import copy

import pytest

from rlx.data import tokenizer as module
from rlx.data.tokenizer import ControlTokens, tokenizer_text
from rlx.policy.tiny import character_tokenizer
from tests.data.test_conversation import FAMILIES, tokenizer_of


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_is_meant_as_a_control_token_is_one(family):
    tokenizer = tokenizer_of(family)
    own, special = ControlTokens(tokenizer), set(tokenizer.all_special_ids)
    for spelled in tokenizer.all_special_tokens:
        number = tokenizer.convert_tokens_to_ids(spelled)
        tokens = own.encode([(f"{spelled}ab", True), (spelled, False), ("c", True)])
        assert [token for token in tokens if token in special] == [number] == [tokens[0]]
        letters = [symbol for symbol in f"ab{spelled}c" if symbol not in "｜▁"]  # which this vocabulary lacks
        assert [symbol for symbol in tokenizer.decode(tokens[1:]) if symbol != "?"] == letters
        assert own.encode([(spelled, True), ("ab", True)], after=1).tolist() == tokenizer.encode("ab", add_special_tokens=False)


def test_a_text_that_cannot_be_told_apart_has_no_tokens():
    own = ControlTokens(tokenizer_of("chatml"))
    assert own.encode([("a\ue000b", True), ("<|im_end|>", False)]) is None


def test_what_every_call_sets_is_no_part_of_it_and_the_rest_is():
    tokenizer = copy.deepcopy(character_tokenizer())
    first = tokenizer_text(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding()
    assert tokenizer_text(tokenizer) == first
    tokenizer.chat_template = "{{ x }}"
    assert tokenizer_text(tokenizer) != first
    assert '"{{ x }}"' in tokenizer_text(tokenizer)
    tokenizer.chat_template = None
    tokenizer.add_tokens(["<new>"])
    assert "<new>" in tokenizer_text(tokenizer)
    assert tokenizer_text(tokenizer) != first
    first = tokenizer_text(tokenizer)
    tokenizer.split_special_tokens = True
    assert tokenizer_text(tokenizer) != first


def test_an_unchanged_tokenizer_is_parsed_once(monkeypatch):
    tokenizer = character_tokenizer()
    first = tokenizer_text(tokenizer)
    monkeypatch.setattr(module.json, "loads", lambda text: 1 / 0)
    assert tokenizer_text(tokenizer) == first
