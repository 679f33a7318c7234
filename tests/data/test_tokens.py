import functools
from typing import ClassVar

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlx.data.tokenized import TokenizedPairs
from rlx.data.tokenizer import tokenizer_text
from rlx.data.tokens import TextEncoder
from rlx.errors import ConfigError, DataError
from rlx.policy.tiny import character_tokenizer
from rlx.task.base import Pair

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def bytes_tokenizer(*, adds_bos: bool = False, adds_eos: bool = False):
    """A byte-level BPE tokenizer that merges across most boundaries; pad is eos, as in many published models."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["the answer is forty-two", "question: what is it? answer: 42"] * 9
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, max_token_length=4, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    around = f"{'<s> ' if adds_bos else ''}$A{' <|im_end|>' if adds_eos else ''}"
    backend.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(token, backend.token_to_id(token)) for token in special]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        bos_token="<s>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def pair_of(prompt, chosen, rejected, text):
    source = TokenizedPairs.of([Pair(prompt, chosen, rejected)], text)
    assert len(source) == 1
    return source.sequences.prompts[0], *source.sequences.completions[0]


def message(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("the ans", "wer is forty-two", "wer: 42"),
        ("question: what", " is it?", "?"),
        ("the answer is fo", "rty-two", "od"),
        ("naïve – ", "日本", "é"),
        ("ends in space ", "x", " x"),
    ],
)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_prompt_and_completion_are_the_tokens_of_the_whole_text(prompt, chosen, rejected, adds_bos):
    tokenizer = bytes_tokenizer(adds_bos=adds_bos)
    shared, *completions = pair_of(prompt, chosen, rejected, TextEncoder(tokenizer))
    for completion, text in zip(completions, (chosen, rejected), strict=True):
        whole = tokenizer(prompt + text)["input_ids"]
        assert [*shared, *completion] == [*whole, tokenizer.eos_token_id]
    assert prompt.startswith(tokenizer.decode(shared, skip_special_tokens=True))
    assert (shared[0] == tokenizer.bos_token_id) == adds_bos


def test_a_token_that_straddles_the_boundary_belongs_to_its_completion_and_is_context_of_the_other():
    tokenizer = bytes_tokenizer()
    sentence = "the answer is forty-two"
    offsets = tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"]
    begin, _end = next((begin, end) for begin, end in offsets if begin > 0 and end - begin > 1)
    prompt, rest = sentence[: begin + 1], sentence[begin + 1 :]
    shared, chosen, rejected = pair_of(prompt, rest, "#", TextEncoder(tokenizer))
    assert tokenizer.decode(shared) == sentence[:begin]
    assert tokenizer.decode(chosen) == sentence[begin:] + "<|im_end|>"
    assert tokenizer.decode(rejected) == sentence[begin] + "#<|im_end|>"


def test_the_end_token_is_learned_once_though_it_is_also_the_padding():
    text = TextEncoder(bytes_tokenizer())
    eos = text.tokenizer.eos_token_id
    _shared, chosen, rejected = pair_of("q: ", "a", "bbbb<|im_end|>", text)
    assert chosen[-1] == rejected[-1] == eos
    assert (chosen == eos).sum() == (rejected == eos).sum() == 1
    source = TokenizedPairs.of([Pair("q: ", "a", "bbbb")], text)
    lengths = source.sequences.completion_mask.sum(dim=-1)
    assert lengths.tolist() == [[len(chosen), len(rejected)]]


def test_special_tokens_that_close_a_text_are_left_out_of_the_prompt():
    tokenizer = bytes_tokenizer(adds_bos=True, adds_eos=True)
    text = TextEncoder(tokenizer)
    assert text.encode_prompt("the").tolist() == tokenizer("the")["input_ids"][:-1]
    _, chosen, _ = pair_of("the", " a", " b", text)
    assert (chosen == tokenizer.eos_token_id).sum() == 1


def test_conversations_go_through_the_chat_template_once():
    text = TextEncoder(bytes_tokenizer(adds_bos=True))
    prompt = (message("system", "Be brief."), message("user", "what is it?"))
    shared, chosen, rejected = pair_of(prompt, (message("assistant", "42"),), (message("assistant", "the answer"),), text)
    opening = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nwhat is it?<|im_end|>\n<|im_start|>assistant\n"
    assert text.tokenizer.decode(shared) == opening
    assert text.tokenizer.decode(chosen) == "42<|im_end|>"
    assert text.tokenizer.decode(rejected) == "the answer<|im_end|>"
    assert text.encode_prompt(prompt).tolist() == shared.tolist()


def test_a_conversation_may_go_on_after_the_prompt():
    text = TextEncoder(bytes_tokenizer())
    turns = (message("assistant", "42"), message("user", "why?"), message("assistant", "the question"))
    _, chosen, _ = pair_of((message("user", "it?"),), turns, (message("assistant", "43"),), text)
    decoded = text.tokenizer.decode(chosen)
    assert decoded.startswith("42<|im_end|>\n<|im_start|>user\nwhy?")
    assert decoded.endswith("the question<|im_end|>")


def test_a_plain_prompt_becomes_a_user_message_where_that_is_asked_for():
    plain, always = (TextEncoder(bytes_tokenizer(), chat_template=form) for form in ("auto", "always"))
    assert plain.tokenizer.decode(plain.encode_prompt("it?")) == "it?"
    assert always.tokenizer.decode(always.encode_prompt("it?")) == "<|im_start|>user\nit?<|im_end|>\n<|im_start|>assistant\n"
    _, chosen, _ = pair_of("it?", "42", "43", always)
    assert always.tokenizer.decode(chosen) == "42<|im_end|>"


def test_a_tokenizer_without_a_template_writes_roles_plainly():
    text = TextEncoder(character_tokenizer())
    shared, chosen, _ = pair_of((message("user", "1+1"),), (message("assistant", "2"),), (message("assistant", "3"),), text)
    assert text.tokenizer.decode(shared) == "user:\n1+1\nassistant:\n"
    assert text.tokenizer.decode(chosen) == "2<eos>"


def test_what_does_not_fit_together_is_refused():
    conversation = (message("user", "hi"),)
    with pytest.raises(DataError, match="chat_template=never"):
        TextEncoder(bytes_tokenizer(), chat_template="never").encode_prompt(conversation)
    with pytest.raises(DataError, match="plain text needs completions"):
        TextEncoder(bytes_tokenizer()).write([("hi", conversation, ())])
    picky = bytes_tokenizer.__wrapped__()
    picky.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(DataError, match=r"roles \['user'\]: no system messages"):
        TextEncoder(picky).encode_prompt(conversation)


@pytest.mark.parametrize(("key", "value"), [("chat_template", "no_such.jinja"), ("max_length", 1), ("max_prompt_length", 0)])
def test_settings_that_mean_nothing_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"policy.{key}"):
        TextEncoder(bytes_tokenizer(), **{key: value})


def test_an_empty_prompt_begins_with_bos_or_eos():
    text = TextEncoder(bytes_tokenizer())
    assert text.encode_prompt("").tolist() == [text.tokenizer.bos_token_id]
    without = bytes_tokenizer.__wrapped__()
    without.bos_token = None
    assert TextEncoder(without).encode_prompt("").tolist() == [without.eos_token_id]


def test_the_prompt_keeps_its_end():
    text = TextEncoder(character_tokenizer(), max_prompt_length=3)
    assert text.tokenizer.decode(text.encode_prompt("abcdef")) == "def"


def test_a_tokenizer_without_offsets_is_cut_where_the_prompts_tokens_agree():
    class WithoutOffsets:
        """A character tokenizer that fuses `12` and knows no offsets."""

        is_fast = False
        eos_token_id, bos_token_id, chat_template = 0, None, None

        def __call__(self, text, add_special_tokens=True, **_):
            return {"input_ids": [ord(c) for c in text.replace("12", "\x01")]}

        def get_special_tokens_mask(self, tokens, already_has_special_tokens):
            return [0] * len(tokens)

        def decode(self, tokens, skip_special_tokens):
            return "".join(map(chr, tokens))

    text = TextEncoder(WithoutOffsets())
    merged, other = text.encode_written(text.write([("a1", "2b", ()), ("a1", "3", ())]))
    assert merged.tokens.tolist() == [ord("a"), 1, ord("b"), 0]
    assert merged.prompt_length == 1
    assert other.tokens.tolist() == [ord("a"), ord("1"), ord("3"), 0]
    assert other.prompt_length == 2


def test_end_tokens_of_the_model_count_too():
    class Model:
        class generation_config:  # noqa: N801
            eos_token_id: ClassVar = [7, 1]

    tokenizer = bytes_tokenizer()
    assert TextEncoder(tokenizer).for_model(Model).end_ids == (tokenizer.eos_token_id, 7) == (1, 7)
    assert TextEncoder(tokenizer).for_model(object()).end_ids == (1,)


def test_many_pairs_at_once_are_those_one_by_one():
    text = TextEncoder(bytes_tokenizer())
    chat = Pair((message("user", "it?"),), (message("assistant", "42"),), (message("assistant", "43"),))
    pairs = [Pair("the ans", "wer", "x"), chat, Pair("it? ", "42", "4")]
    together = TokenizedPairs.of(pairs, text).sequences
    for row, pair in enumerate(pairs):
        alone = TokenizedPairs.of([pair], text).sequences
        assert np.array_equal(alone.prompts[0], together.prompts[row])
        assert all(np.array_equal(a, b) for a, b in zip(alone.completions[0], together.completions[row], strict=True))


def test_a_tokenizer_without_a_fast_backend_has_its_vocabulary():
    class Slow:
        chat_template = None
        special_tokens_map: ClassVar[dict[str, str]] = {}

        def get_vocab(self):
            return {"a": 0}

    assert '"a": 0' in tokenizer_text(Slow())


def test_prompts_that_are_tokenised_together_have_the_tokens_of_each_alone():
    tokenizer = bytes_tokenizer.__wrapped__(adds_bos=True)
    chat = ({"role": "user", "content": "what is it?"},)
    prompts = [("the answer", ()), (chat, ()), ("", ()), ("<s>question: what", ()), (chat * 2, ({"type": "function"},))]
    for template in (CHATML, None):
        tokenizer.chat_template = template
        for limit in (3, None):
            text = TextEncoder(tokenizer, max_prompt_length=limit)
            together = [tokens.tolist() for tokens in text.encode_prompts(prompts)]
            assert together == [text.encode_prompt(prompt, tools).tolist() for prompt, tools in prompts]
            assert together[2] == text.begin().tolist()
            assert text.encode_prompts([]) == []
        assert len({*map(tuple, together)}) == 5
    with pytest.raises(DataError, match=r"policy\.chat_template=never"):
        TextEncoder(tokenizer, chat_template="never").encode_prompts(prompts)
