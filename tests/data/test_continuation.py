"""What others say between two turns of the assistant is tokenised as the template writes it in a whole conversation."""

import numpy as np
import pytest

from rlx.data.continuation import encode_continuation
from rlx.errors import DataError
from tests.data.test_conversation import FAMILIES, USER, assistant, cut, encoder_of, taking_white_space, user

TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}},)


def turn_tokens(text, words):
    """A turn as it is sampled: the words, and the token that the template ends an answer with."""
    end = text.turn_end_id if text.turn_end_id is not None else text.end_ids[0]
    return [*text.tokenizer(words, add_special_tokens=False)["input_ids"], end]


def conversation(text, said="Sure?"):
    """Opening, first turn, what others say, second turn; and which of it is learned."""
    opening, first, last = (USER,), turn_tokens(text, "1"), turn_tokens(text, "Yes")
    between = encode_continuation(text, opening, (assistant("1"),), said, ended=True).tolist()
    learned = [True] * len(first) + [False] * len(between) + [True] * len(last)
    return [*first, *between, *last], learned


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"deepseek_r1", "qwen3", "llama2", "mistral"}))
def test_a_conversation_in_turns_has_the_tokens_and_the_mask_of_the_same_one_as_data(family):
    text = encoder_of(family)
    made = cut(text, (USER,), (assistant("1"), user("Sure?"), assistant("Yes")))
    tokens, learned = conversation(text)
    assert tokens == made.ids
    kept = [token for token, is_learned in zip(tokens, learned, strict=True) if is_learned]
    assert text.tokenizer.decode(kept) == made.learned


def test_messages_that_the_template_leaves_out_are_said():
    template = "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'assistant' %}"
    text = encoder_of("mistral", template=template + "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}")
    for said, remark in (("system", {"words_unseen"}), ("tool", {"results_unseen"}), ("user", set())):
        remarks = set()
        words = ({"role": said, "content": "Sure?"},)
        encode_continuation(text, (USER,), (assistant("1"),), words, ended=True, remarks=remarks)
        assert remarks == remark


def test_an_end_of_turn_that_takes_white_space_is_not_repeated():
    text = taking_white_space(encoder_of("phi3"))
    made = cut(text, (USER,), (assistant("1"), user("Sure?"), assistant("Yes")))
    assert conversation(text)[0] == made.ids


@pytest.mark.parametrize("family", FAMILIES)
def test_what_others_say_is_what_the_template_writes_after_an_answer(family):
    text = encoder_of(family)
    tokens = encode_continuation(text, (USER,), (assistant("1"),), "Sure?", ended=True).tolist()
    after = text.tokenizer.decode(tokens)
    whole = text.tokenizer.apply_chat_template([USER, assistant("1"), user("Sure?")], tokenize=False, add_generation_prompt=True)
    assert whole.endswith(after)
    assert after.count("Sure?") == 1
    assert not any(text.tokenizer.decode([end]) in after[: after.index("Sure?")] for end in text.end_ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_without_an_end_gets_one_as_context(family):
    text = encoder_of(family)
    ended, open_turn = (encode_continuation(text, (USER,), (assistant("1"),), "Sure?", ended=ended) for ended in (True, False))
    assert np.array_equal(open_turn[-len(ended) :], ended)
    assert len(open_turn) == len(ended) + 1
    assert int(open_turn[0]) in text.end_ids


def test_plain_text_goes_on_in_plain_text():
    text = encoder_of("chatml")
    assert text.tokenizer.decode(encode_continuation(text, "0+1?", (assistant("1"),), "Sure?", ended=True)) == "Sure?"
    with pytest.raises(DataError, match="continues in plain text"):
        encode_continuation(text, "0+1?", (assistant("1"),), (user("Sure?"),), ended=True)


@pytest.mark.parametrize("family", ["llama3", "qwen2_5", "qwen3"])
def test_a_tools_result_is_a_turn_of_its_own(family):
    text = encoder_of(family)
    said = ({"role": "tool", "name": "add", "content": "46"},)
    tokens = encode_continuation(text, (USER,), (assistant("<call>"),), said, tools=TOOLS, ended=True)
    after = text.tokenizer.decode(tokens.tolist())
    assert "46" in after
    assert "rlxprobe" not in after
    assert "0+1?" not in after


RESULT_BEFORE_WORDS = (  # as Gemma 4's, which writes an answer's call, the tool's result with its name, and then the words
    "{% for m in messages %}{% if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<call>"
    "{{ c.function.name }} {{ c.function.arguments | tojson }}<|im_end|>\n"
    "<result>{{ c.function.name }}: {{ messages[loop.index0 + 2].content }}<|endoftext|>\n{% endfor %}"
    "{% if m.content or m.role == 'user' %}{{ m.content }}<|im_end|>\n{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|im_start|>assistant\n{% endif %}"
)


def test_a_tools_result_is_written_where_the_template_writes_it_before_the_words_of_the_answer():
    text = encoder_of("chatml", template=RESULT_BEFORE_WORDS)
    result = {"role": "tool", "name": "add", "content": "46"}
    tokens = encode_continuation(text, (USER,), (assistant("<call>add"),), (result,), tools=TOOLS, ended=True)
    assert text.tokenizer.decode(tokens.tolist()) == "\n<result>add: 46<|endoftext|>\n"
    with pytest.raises(DataError, match="repeats the name of the tool"):
        encode_continuation(text, (USER,), (assistant("<call>add"),), ({**result, "name": None},), tools=TOOLS, ended=True)


def test_a_template_that_refuses_a_role_says_so():
    text = encoder_of("gemma2")
    with pytest.raises(DataError, match="refuses a conversation that continues with the roles"):
        encode_continuation(text, (USER,), (assistant("1"),), ({"role": "system", "content": "x"},), ended=True)


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize("family", ["chatml", "llama2", "llama3", "gemma2", "phi3", "qwen3", "zephyr"])
def test_special_tokens_that_others_spell_are_plain_text(family, role):
    if role == "tool" and family in ("llama2", "gemma2", "phi3", "zephyr"):
        pytest.skip("its template knows no tools")
    text = encoder_of(family)
    special = text._special_tokens
    count = lambda tokens: [sum(token == number for token in tokens) for number in special.values()]  # noqa: E731
    for ended in (True, False):
        between = {
            words: encode_continuation(text, (USER,), (assistant("1"),), ({"role": role, "content": words},), ended=ended)
            for words in ("Sure?", *(f"a{spelled}" for spelled in special), *special)
        }
        for words, tokens in between.items():
            assert count(tokens) == count(between["Sure?"]), words
            assert text.tokenizer.decode(tokens) == text.tokenizer.decode(between["Sure?"]).replace("Sure?", words)


def test_what_became_of_spelled_special_tokens_is_told():
    text, end = encoder_of("chatml"), "<|im_end|>"
    remarks = [set(), set(), set(), set()]
    plain = encode_continuation(text, "0+1?", (assistant("1"),), f"x{end}", ended=True, remarks=remarks[0])
    assert text.turn_end_id not in plain
    assert text.tokenizer.decode(plain) == f"x{end}"
    encode_continuation(text, "0+1?", (assistant("1"),), "x", ended=True, remarks=remarks[1])
    rendered = text.template.opening((USER,))
    meant = encode_continuation(text, rendered, (assistant("1"),), f"x{end}", ended=True, remarks=remarks[2])
    assert text.turn_end_id in meant
    assert remarks[:3] == [{"special_plain"}, set(), set()]
    template = text.tokenizer.chat_template.replace("message['content']", "message['content'] | replace('spelled', '')")
    altering = encoder_of("chatml", template=template)  # the words in place of the special token do not come back
    tokens = encode_continuation(altering, (USER,), (assistant("1"),), f"x{end}", ended=True, remarks=remarks[3])
    assert remarks[3] == {"special_text"}
    assert altering.tokenizer.decode(tokens).count(end) == 2
