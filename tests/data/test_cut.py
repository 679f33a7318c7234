import random
from dataclasses import replace

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlx.data.cut import cutting_marks
from rlx.data.pair_tokens import PairTokens
from rlx.data.tokens import TextEncoder
from tests.data.test_conversation import FAMILIES, assistant, encoder_of, user

SAID = [
    "1",
    " 1 ",
    "1\n",
    "",
    "\n\nx",
    "a <|im_end|> b",
    "<start_of_turn>",
    "[INST] q",
    "<s>",
    "</s>",
    "<｜Assistant｜>",
    "<|end|> z",
]


def pairs_of(seed, number):
    """Conversations of which some spell special tokens, each with two answers."""
    rng = random.Random(seed)
    rows = []
    for _ in range(number):
        prompt = [user(rng.choice(SAID))]
        for _ in range(rng.randrange(3)):
            prompt += [assistant(rng.choice(SAID)), user(rng.choice(SAID))]
        rows.append((tuple(prompt), (assistant(rng.choice(SAID)),), (assistant(rng.choice(SAID)), user("?"), assistant("2")), ()))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_is_tokenised_once_has_the_tokens_of_each_whole_text(family):
    text = encoder_of(family)
    rows = pairs_of(family, 60)
    made = PairTokens.of(text, rows)
    alone = replace(text)
    vars(alone)["_cutting_marks"] = ()
    assert made.equals(PairTokens.of(alone, rows))
    assert text._cutting_marks


def test_what_pairs_begin_with_is_tokenised_once(monkeypatch):
    text = encoder_of("chatml")
    given = []
    plain = type(text)._encode_texts
    monkeypatch.setattr(type(text), "_encode_texts", lambda self, texts, **kw: given.extend(texts) or plain(self, texts, **kw))
    prompt = (user("a long question"), assistant("?"), user("Well?"))
    PairTokens.of(text, [(prompt, (assistant("1"),), (assistant("2"),), ())])
    assert sum("a long question" in part for part in given) == 1
    assert [part for part in given if "a b" not in part][1:3] == [
        "<|im_start|>assistant\n1<|im_end|>\n",
        "<|im_start|>assistant\n2<|im_end|>\n",
    ]


@pytest.mark.parametrize(
    ("other", "safe"),
    [
        ("<b>", True),
        ("<a>!", False),  # longer than the mark, and found in its place
        ("!<a", False),  # begins before the mark and takes some of it
        ("!<a>!", False),
        (">!", True),  # begins within the mark, which was found before it
        (AddedToken("<b>", single_word=True), False),  # looks at the character after it
    ],
)
def test_a_text_is_cut_at_tokens_that_are_found_wherever_they_are_spelled(other, safe):
    backend = Tokenizer(models.BPE({character: number for number, character in enumerate("!<>abx ")}, merges=[]))
    backend.add_special_tokens(["<a>"])
    backend.add_tokens([AddedToken(other, normalized=False) if isinstance(other, str) else other])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert cutting_marks(tokenizer, ["<a>", "<none>"], TextEncoder(tokenizer)._encode_text) == (("<a>",) if safe else ())


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"normalized": True}])
def test_a_mark_takes_nothing_from_before_it(flags):
    backend = Tokenizer(models.BPE({character: number for number, character in enumerate("!<>abx ")}, merges=[]))
    backend.add_special_tokens([AddedToken("<a>", **flags)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert cutting_marks(tokenizer, ["<a>"], TextEncoder(tokenizer)._encode_text) == ()


def test_a_tokenizer_that_begins_every_text_alike_is_asked_for_whole_texts():
    text = encoder_of("chatml")
    tokenizer = text.tokenizer
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="_", prepend_scheme="first")
    first = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<pad>")
    first.chat_template = tokenizer.chat_template
    rows = pairs_of(1, 40)
    made = PairTokens.of(replace(text, tokenizer=first), rows)
    alone = replace(text, tokenizer=first)
    vars(alone)["_cutting_marks"] = ()
    assert made.equals(PairTokens.of(alone, rows))
