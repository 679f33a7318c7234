"""Special tokens that the words of others spell are plain text, and those of the template are not."""

import pytest

from rlx.data.control_tokens import ControlTokens
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
