import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlx.data import pretokens
from rlx.data.pretokens import PretokenEncoder
from rlx.data.tokens import TextEncoder

SAID = "It's 3.14 (a_b): don't   stop, we'll see\n\n\tthe END of 12345 words; the end of the words\r\n  here  "
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUTS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "digits": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    **{
        name: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(source), "isolated"), BYTES])
        for name, source in zip(("qwen2", "llama3"), list(pretokens._SPLITS)[1:], strict=True)
    },
}
PIECES = [
    "a",
    "the",
    "END",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "'s",
    "'LL",
    "1",
    "234",
    "_",
    "!",
    "?!",
    "\x00",
    "\x1c",
    "\x7f",
    "\x0b",
    "<|im_end|>",
    "<|im",
    "<tool>",
]


def tokenizer_of(cut, *, begins=False, normalizer=None, post=None, tokens=()):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = cut, decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    special = ["<bos>", "<|im_end|>"]
    made.train_from_iterator(
        [SAID] * 3,
        trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    made.add_tokens([AddedToken("<tool>", special=False, normalized=False), *tokens])
    if begins:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    if post is not None:
        made.post_processor = post
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", eos_token="<|im_end|>")


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("name", CUTS)
def test_texts_have_the_tokens_and_places_that_the_tokenizer_gives_them(name, begins):
    tokenizer = tokenizer_of(CUTS[name], begins=begins)
    encoder, rng, known = PretokenEncoder.of(tokenizer), random.Random(7), 0
    assert encoder is not None
    for _ in range(600):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 12)))
        for special in (False, True):
            made = encoder.encode(text, special=special)
            whole = tokenizer([text], add_special_tokens=special).encodings[0]
            if made is None:
                continue
            known += 1
            ids, places, leading = made
            assert ids == whole.ids, repr(text)
            assert leading == (begins and special)
            assert places.offsets[leading:].tolist() == [list(place) for place in whole.offsets[leading:]], repr(text)
            for place in range(len(text)):
                token = places.char_to_token(place)
                assert token == whole.char_to_token(place), (text, place)
                assert places.token_to_chars(token) == whole.token_to_chars(token)
    assert known > 600  # an added token that is not special is left to the tokenizer


def test_a_word_is_merged_once(monkeypatch):
    encoder, asked = PretokenEncoder.of(tokenizer_of(CUTS["gpt2"])), []
    merged = encoder._merged
    encoder._known.clear()
    monkeypatch.setattr(encoder._known, "_merged", lambda word: asked.append(word) or merged(word))
    for _ in range(3):
        encoder.encode("the end of the end", special=False)
    assert asked == ["the", " end", " of", " the"]
    monkeypatch.setattr(pretokens, "_MOST_WORDS", 2)
    encoder.encode("a new word", special=False)
    assert len(encoder._known) <= 2


@pytest.mark.parametrize(
    "given",
    [
        {"normalizer": normalizers.Lowercase()},
        {"post": processors.ByteLevel(trim_offsets=True)},
        {"cut": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"cut": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\w+|\W+"), "isolated"), BYTES])},
        {"cut": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pretokens._QWEN2), "removed"), BYTES])},
        {"cut": pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])},
    ],
    ids=str,
)
def test_a_tokenizer_that_is_not_known_here_does_it_itself(given):
    tokenizer = tokenizer_of(**{"cut": CUTS["gpt2"], **given})
    assert PretokenEncoder.of(tokenizer) is None
    assert TextEncoder(tokenizer)._pretokens is None


def test_a_tokenizer_that_disagrees_does_it_itself(monkeypatch):
    tokenizer = tokenizer_of(CUTS["gpt2"])
    monkeypatch.setattr(pretokens, "_GPT2", pretokens._QWEN2)
    assert PretokenEncoder.of(tokenizer) is None


@pytest.mark.parametrize("text", ["", "Straße", "a <left> b", "a<one>"])
def test_texts_that_only_the_tokenizer_knows(text):
    taking = [AddedToken("<left>", special=True, lstrip=True), AddedToken("<one>", special=False, normalized=True)]
    encoder = PretokenEncoder.of(tokenizer_of(CUTS["gpt2"], tokens=taking))
    assert encoder.encode(text, special=False) is None
    assert encoder.encode("a b", special=False) is not None


def test_a_word_with_a_byte_that_the_vocabulary_lacks():
    made = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    made.pre_tokenizer = CUTS["gpt2"]
    encoder = PretokenEncoder.of(PreTrainedTokenizerFast(tokenizer_object=made))
    assert encoder.encode("abc", special=False) is None
    assert encoder.encode("ab", special=False)[0] == [2]
