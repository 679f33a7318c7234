"""Texts that are tokenised word by word have the tokens of the whole, in the same places."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers.models import BPE, WordPiece
from tokenizers.processors import ByteLevel, Sequence
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from rlx.data import words as words_module
from rlx.data.pair_tokens import PairTokens
from rlx.data.tokens import TextEncoder
from rlx.data.words import WordTokens, parts_at_spaces

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
BYTES = pre.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behavior="isolated"):
    return pre.Sequence([pre.Split(Regex(pattern), behavior, invert=False), BYTES])


KINDS = {
    "gpt2": (pre.ByteLevel(add_prefix_space=False), None),
    "smollm2": (pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]), None),
    "llama3": (split(LLAMA3), None),
    "qwen2": (split(QWEN2), normalizers.NFC()),
}
LETTERS = "a½.,(-_é\u0301か٣{}\u200d\x1c\u00a0\u2003\u3000"
PIECES = [*LETTERS, "Ab", "don't", "'s", "'Re", "12", "3456", "--", "e\u0301", "中文", "か🙂", "<|end|>", "<|end", "x|end|>"]
GAPS = ["", " ", " ", " ", "  ", "   ", "\n", " \n", "\n ", "\r\n", "\t", " \t ", "\u00a0", "\u2028", "\x85"]


def hostile_texts(count, seed):
    rng = random.Random(seed)
    texts = ["", " ", "  ", "a", " a", "a ", "a b", "\u0301 a", "a \u0301"]
    for _ in range(count):
        texts.append("".join(rng.choice(PIECES) + rng.choice(GAPS) for _ in range(rng.randrange(1, 12))))
    return texts


def tokenizer_of(pre_tokenizer, normalizer=None, added=("<|end|>",), **model):
    backend = Tokenizer(BPE(**model))
    backend.pre_tokenizer, backend.normalizer = pre_tokenizer, normalizer
    trainer = BpeTrainer(vocab_size=500, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(hostile_texts(3000, seed=1), trainer)
    backend.add_special_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_places_are_those_of_the_whole(kind):
    tokenizer = tokenizer_of(*KINDS[kind])
    assert parts_at_spaces(tokenizer)
    texts = hostile_texts(400, seed=2)
    whole = tokenizer(texts, add_special_tokens=False).encodings
    found = WordTokens.copied(tokenizer).of(texts)
    for text, (tokens, places), encoding in zip(texts, found, whole, strict=True):
        assert tokens.tolist() == encoding.ids, text
        assert places.offsets == encoding.offsets, text
        assert [places.char_to_token(n) for n in range(len(text) + 1)] == [
            encoding.char_to_token(n) for n in range(len(text) + 1)
        ], text
        assert [places.token_to_chars(n) for n in range(len(tokens) + 1)] == [
            *(encoding.token_to_chars(n) for n in range(len(tokens))),
            None,
        ], text


@pytest.mark.parametrize(("most", "value"), [("_MOST_KEPT", 1), ("_MOST_CHARACTERS", 8)])
def test_each_different_word_is_tokenised_once_as_long_as_it_is_kept(monkeypatch, most, value):
    tokenizer = tokenizer_of(*KINDS["gpt2"])
    asked = []

    def encode(words):
        asked.extend(words)
        return tokenizer(words, add_special_tokens=False).encodings

    words = WordTokens(encode)
    words.of(["one two two", "two one"])
    words.of(["one two"])
    assert sorted(asked) == [" one", " two", "one", "two"]
    monkeypatch.setattr(words_module, most, value)
    expected = tokenizer(["one three"], add_special_tokens=False)["input_ids"]
    assert [words.of(["one three"])[0][0].tolist() for _ in range(3)] == expected * 3
    assert asked.count(" three") == 3


def joins_words():
    return tokenizer_of(split(r"\p{L}+ \p{L}+|\p{L}+|."))


def splits_behind_spaces():
    return tokenizer_of(split(r"\S+ ?|\s"))


def trimmed(tokenizer):
    """With offsets that leave out the white space before a word, as those of GPT-NeoX."""
    tokenizer.backend_tokenizer.post_processor = ByteLevel(add_prefix_space=True, trim_offsets=True)
    return tokenizer


def settings_of_its_own():
    tokenizer = tokenizer_of(*KINDS["gpt2"])
    tokenizer.split_special_tokens = True
    return tokenizer


def word_pieces():
    backend = Tokenizer(WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize(
    "make",
    [
        joins_words,
        splits_behind_spaces,
        settings_of_its_own,
        word_pieces,
        lambda: tokenizer_of(pre.ByteLevel(add_prefix_space=True)),
        lambda: tokenizer_of(pre.Metaspace()),
        lambda: tokenizer_of(BYTES),
        lambda: trimmed(tokenizer_of(*KINDS["gpt2"])),
        lambda: tokenizer_of(split(f"New York|{LLAMA3}")),
        lambda: tokenizer_of(split(LLAMA3, "merged_with_next")),
        lambda: tokenizer_of(pre.Sequence([pre.Digits(individual_digits=True), BYTES])),
        lambda: tokenizer_of(KINDS["gpt2"][0], normalizers.Lowercase()),
        lambda: tokenizer_of(KINDS["gpt2"][0], dropout=0.1),
        lambda: tokenizer_of(KINDS["gpt2"][0], added=["a b"]),
        lambda: tokenizer_of(KINDS["gpt2"][0], added=[AddedToken("<e>", rstrip=True)]),
        lambda: tokenizer_of(KINDS["gpt2"][0], added=[AddedToken("<e>", lstrip=True)]),
        lambda: tokenizer_of(KINDS["gpt2"][0], added=[AddedToken("<e>", single_word=True)]),
    ],
)
def test_tokenizers_that_may_join_what_a_space_parts_are_left_alone(make):
    assert WordTokens.copied(make()) is None


@pytest.mark.parametrize("sequence", [False, True])
def test_offsets_hold_the_white_space_that_a_token_begins_with(sequence):
    plain, tokenizer = tokenizer_of(*KINDS["gpt2"]), trimmed(tokenizer_of(*KINDS["gpt2"]))
    if sequence:
        tokenizer.backend_tokenizer.post_processor = Sequence([tokenizer.backend_tokenizer.post_processor])
    for made in (plain, tokenizer):
        made.eos_token = "<|end|>"
    encoders = TextEncoder(plain), TextEncoder(tokenizer)
    rows = [(prompt, answer, "x", ()) for prompt, answer in (("a か ", "Ab"), ("a ", "か🙂"), ("12", " 3"), ("a", "b"))]
    one, other = (PairTokens.of(encoder, rows) for encoder in encoders)
    assert one.equals(other)
    assert any("boundary" in one.remarks_of(row) for row in range(len(rows)))
