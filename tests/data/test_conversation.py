"""The rule of completions on chat templates of ten families: prompts as sampled, answers as generated, all else masked."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlx.data.tokenized import TokenizedPairs
from rlx.data.tokens import TextEncoder
from rlx.task.base import Pair

TEMPLATES = Path(__file__).parent / "template"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
# template: bos, eos, further special tokens, whether the tokenizer itself puts bos before a text, end tokens of the model
FAMILIES = {
    "chatml": (None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"], False, ["<|im_end|>"]),
    "llama2": ("<s>", "</s>", [], True, ["</s>"]),
    "llama3": ("<|begin|>", "<|end_of_text|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], True, ["<|eot_id|>"]),
    "gemma2": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], True, ["<eos>", "<end_of_turn>"]),
    "gemma3": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], True, ["<eos>", "<end_of_turn>"]),
    "mistral": ("<s>", "</s>", ["[INST]", "[/INST]"], True, ["</s>"]),
    "phi3": ("<s>", "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], False, ["<|endoftext|>", "<|end|>"]),
    "deepseek_r1": ("<b>", "<｜end▁of▁sentence｜>", ["<｜User｜>", "<｜Assistant｜>"], True, ["<｜end▁of▁sentence｜>"]),
    "qwen2_5": (None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"], False, ["<|im_end|>", "<|endoftext|>"]),
    "qwen3": (None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"], False, ["<|im_end|>", "<|endoftext|>"]),
    "zephyr": ("<s>", "</s>", [], True, ["</s>"]),
}
# what the assistant generates for the answer "1", up to the token at which sampling ends
ANSWERS = {
    "chatml": "1<|im_end|>",
    "llama2": " 1 </s>",
    "llama3": "1<|eot_id|>",
    "gemma2": "1<end_of_turn>",
    "gemma3": "1<end_of_turn>",
    "mistral": " 1</s>",
    "phi3": "1<|end|>",
    "deepseek_r1": "\n</think>\n\n1<｜end▁of▁sentence｜>",
    "qwen2_5": "1<|im_end|>",
    "qwen3": "<think>\n\n</think>\n\n1<|im_end|>",
    "zephyr": "1</s>",
}
NO_REASONING = ("<think>\n\n</think>\n\n", "\n</think>\n\n")  # what stands before an answer without reasoning


def without_reasoning(answer):
    return functools.reduce(str.removeprefix, NO_REASONING, answer)


USER = {"role": "user", "content": "0+1?"}
SCHEMA = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}}


@functools.cache
def tokenizer_of(family, template=None):
    bos, eos, others, adds_bos, _ = FAMILIES[family]
    special = ["<pad>", *([bos] if bos else []), eos, *others]
    vocabulary = {token: number for number, token in enumerate([*special, *CHARACTERS])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.normalizer = normalizers.Replace(Regex(r"[^\n -~｜▁]"), "?")
    backend.decoder = decoders.Fuse()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    names = {"bos_token": bos} if bos else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token=eos, additional_special_tokens=others, **names
    )
    tokenizer.chat_template = template or (TEMPLATES / f"{family}.jinja").read_text()
    return tokenizer


def encoder_of(family, *, knows_ends=True, template=None, **settings):
    tokenizer = tokenizer_of(family, template)
    ends = tokenizer.convert_tokens_to_ids(FAMILIES[family][4])
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends))
    text = TextEncoder(tokenizer, **settings)
    return text.for_model(model) if knows_ends else text


def assistant(content, **fields):
    return {"role": "assistant", "content": content, **fields}


def user(content):
    return {"role": "user", "content": content}


def cut(text, prompt, chosen, rejected="another", *, tools=()):
    """The first pair: prompt ids, the chosen completion as text, what of it is learned as text, dropped, remarks."""
    other = rejected if not isinstance(rejected, str) or isinstance(prompt, str) else (assistant(rejected),)
    made = TokenizedPairs.of([Pair(prompt, chosen, other, tools=tools)], text)
    if not len(made):
        return SimpleNamespace(dropped=dict(made.dropped), shown=made.shown)
    tokens, decode = made.sequences.completions[0][0], text.tokenizer.decode
    kept = tokens[made.sequences.completion_mask[0, 0, : len(tokens)].numpy()]
    return SimpleNamespace(
        prompt=made.sequences.prompts[0].tolist(),
        chosen=decode(tokens.tolist()),
        ids=tokens.tolist(),
        learned=decode(kept.tolist()),
        dropped=dict(made.dropped),
        remarks=dict(made.remarks),
    )


def sampled(text, prompt, **settings):
    """The ids of a prompt as transformers itself makes them."""
    return text.tokenizer.apply_chat_template(list(prompt), tokenize=True, return_dict=False, **settings)


@pytest.mark.parametrize("knows_ends", [True, False], ids=["with generation config", "tokenizer alone"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_completion_is_what_generation_writes_and_ends_where_it_ends(family, knows_ends):
    text = encoder_of(family, knows_ends=knows_ends)
    made = cut(text, (USER,), (assistant("1"),))
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True)
    assert made.prompt == text.encode_prompt((USER,)).tolist()
    assert made.chosen == made.learned == ANSWERS[family]
    assert made.ids[-1] in text.end_ids
    assert not set(made.ids[:-1]) & set(text.end_ids)
    assert cut(text, (USER,), "1", "2").chosen == ANSWERS[family]  # text after a conversation is the assistant's
    whole = cut(text, (), (USER, assistant("1")), (USER, assistant("2")))
    assert (whole.prompt, whole.ids) == (made.prompt, made.ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_longer_conversation_the_assistants_words_alone_are_learned(family):
    text = encoder_of(family)
    turns = (assistant("1"), user("Sure?"), assistant("Yes"))
    made = cut(text, (USER,), turns)
    if family == "deepseek_r1":  # its prompt opens reasoning that its history does not have: no one sequence holds both
        assert made.dropped == {"rewrites": 1}
        return
    first, last = ANSWERS[family], ANSWERS[family].replace("1", "Yes")
    first = first.removeprefix("<think>\n\n</think>\n\n")  # Qwen 3 leaves it out of all turns but the last
    assert made.learned == first + last
    assert "Sure?" in made.chosen
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True)
    whole = sampled(text, [USER, *turns])
    assert [*made.prompt, *made.ids] == whole[: len(made.prompt) + len(made.ids)]
    # A history is part of the prompt, and so is what follows the last answer part of nothing.
    history = cut(text, (USER, *turns[:2]), (turns[2], user("Fine.")))
    assert history.learned == history.chosen == last
    assert history.remarks == {"trailing": 1}
    assert history.prompt == sampled(text, [USER, *turns[:2]], add_generation_prompt=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_ends_with_the_assistants_words_is_continued(family):
    text = encoder_of(family)
    prompt = (USER, assistant("The answer is "))
    made = cut(text, prompt, (assistant("1"),))
    assert made.prompt == sampled(text, prompt, continue_final_message=True)
    assert made.prompt == text.encode_prompt(prompt).tolist()
    assert made.chosen.strip() == without_reasoning(ANSWERS[family]).strip()
    assert text.tokenizer.decode(made.prompt).endswith(("The answer is", "The answer is "))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rendered_prompt_gets_no_second_bos_and_its_answer_the_end_of_a_turn(family):
    text = encoder_of(family)
    rendered = text.tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    for completion in ("1", f"1{ANSWERS[family].rpartition('1')[2]}"):
        made = cut(text, rendered, completion)
        assert made.prompt == sampled(text, [USER], add_generation_prompt=True)
        assert made.prompt == text.encode_prompt(rendered).tolist()
        bare = rendered.removeprefix(text.tokenizer.bos_token or "")
        assert cut(text, bare, completion).prompt == text.encode_prompt(bare).tolist() == made.prompt
        assert made.chosen.replace(" ", "") == f"1{ANSWERS[family].rpartition('1')[2].strip()}"


def test_what_follows_the_end_of_generation_is_left_out_and_counted():
    text = encoder_of("gemma2")
    made = cut(text, "0+1=", "1<end_of_turn>\nand more")
    assert made.chosen == "1<end_of_turn>"
    assert made.remarks == {"ended_early": 1}
    assert cut(text, "0+1=", "1<end_of_turn>\n").remarks == {}
    assert cut(text, "0+1=", "1").chosen == "1<eos>"


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"deepseek_r1", "qwen3"}))
def test_an_earlier_answer_that_spells_the_end_of_generation_is_refused(family):
    text = encoder_of(family)
    end = text.tokenizer.decode([text.turn_end_id])
    for words in (f"1{end}", f"1{end} and more"):
        assert cut(text, (USER,), (assistant(words), user("Sure?"), assistant("Yes"))).dropped == {"ends_within": 1}
        assert cut(text, (USER,), (assistant("1"), user("Sure?"), assistant(words))).dropped == {}
        asked = (USER, assistant(words), user("Sure?"))
        assert cut(text, asked, (assistant("1"),)).prompt == sampled(text, asked, add_generation_prompt=True)


def test_an_end_within_a_call_or_a_reasoning_is_counted():
    text = encoder_of("qwen2_5")
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome<|im_end|>"}}}
    result = {"role": "tool", "content": "20"}
    made = cut(text, (USER,), (assistant("", tool_calls=[call]),), tools=(SCHEMA,))
    assert (made.learned.rpartition("Rome")[2], made.remarks) == ("<|im_end|>", {"ended_early": 1})
    turns = (assistant("", tool_calls=[call]), result, assistant("20"))
    assert cut(text, (USER,), turns, tools=(SCHEMA,)).dropped == {"ends_within": 1}
    reasons = (assistant("1", reasoning_content="one<|im_end|>"), user("Sure?"), assistant("Yes"))
    assert cut(encoder_of("qwen3"), (USER,), reasons).dropped == {"ends_within": 1}


def test_an_end_that_is_no_token_of_its_own_kind_ends_where_the_tokenizer_reads_it():
    text = encoder_of("llama3")
    vocabulary = text.tokenizer.get_vocab()
    dots = replace(text, model_end_ids=(*text.model_end_ids, vocabulary["."]))  # a token of text
    assert cut(dots, (USER,), (assistant("1. Two"),)).learned == "1."
    assert cut(dots, (USER,), (assistant("1. Two"),)).remarks == {"ended_early": 1}
    assert cut(dots, (USER,), (assistant("1."),)).remarks == {}
    assert cut(dots, (USER,), (assistant("1. Two"), user("Sure?"), assistant("Yes"))).dropped == {"ends_within": 1}
    assert cut(dots, (user("0.5?"),), (assistant("1"), user("Sure..."), assistant("Yes"))).learned == "1<|eot_id|>Yes<|eot_id|>"
    backend = Tokenizer.from_str(text.tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken("END", single_word=True, normalized=False)])
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end_of_text|>", bos_token="<|begin|>")
    words.chat_template = text.tokenizer.chat_template
    ends = replace(text, tokenizer=words, model_end_ids=(*text.model_end_ids, words.convert_tokens_to_ids("END")))
    turns = (assistant("ENDING"), user("Sure?"), assistant("Yes"))
    assert cut(ends, (USER,), turns).learned == "ENDING<|eot_id|>Yes<|eot_id|>"
    assert cut(ends, (USER,), (assistant("1 END of it"), *turns[1:])).dropped == {"ends_within": 1}
    assert cut(ends, (USER,), (assistant("1 END of it"),)).learned == "1 END"


THINKING = "<think>\nadd one\n</think>\n\n1"


def test_reasoning_is_learned_whole_after_the_prompt_of_sampling():
    r1 = encoder_of("deepseek_r1")
    for answer in (assistant(THINKING), assistant("1", reasoning_content="add one")):
        made = cut(r1, (USER,), (answer,), (assistant("<think>\nguess\n</think>\n\n2"),))
        assert made.prompt == sampled(r1, [USER], add_generation_prompt=True)
        assert r1.tokenizer.decode(made.prompt).endswith("<think>\n")
        assert made.learned == made.chosen == "add one\n</think>\n\n1<｜end▁of▁sentence｜>"
        assert made.remarks == {"rewritten": 1}
    # Without reasoning an answer closes first what the prompt opens; words of the data that open it are continued as they are.
    made = cut(r1, (USER,), (assistant("1"),), (assistant("2"),))
    assert made.learned == made.chosen == "\n</think>\n\n1<｜end▁of▁sentence｜>"
    assert made.remarks == {"no_reasoning": 1}
    begun = cut(r1, (USER, assistant("<think>\n")), (assistant("1"),), (assistant("2"),))
    assert (begun.chosen, begun.remarks) == ("1<｜end▁of▁sentence｜>", {"unclosed": 1})
    # Reasoning that the data does not close stays reasoning.
    broken_off = cut(r1, (USER,), (assistant("<think>\nadd o"),), (assistant("2</think>2"),))
    assert (broken_off.chosen, broken_off.remarks) == ("add o<｜end▁of▁sentence｜>", {"unclosed": 1, "rewritten": 1})
    # What the prompt has opened is not left out.
    template = r1.tokenizer.chat_template.replace("{% set content = content.split('</think>')[-1] %}", "")
    whole = cut(encoder_of("deepseek_r1", template=template), (USER,), (assistant(THINKING), user("?"), assistant(THINKING)))
    assert (whole.chosen.count("add one"), whole.remarks.keys()) == (2, {"no_reasoning"})
    qwen = encoder_of("qwen3")
    for answer in (assistant(THINKING), assistant("1", reasoning_content="add one")):
        made = cut(qwen, (USER,), (answer,))
        assert made.learned == made.chosen == f"{THINKING}<|im_end|>"
        assert made.remarks == {}
    # Reasoning that begins alike in both sides is not part of the prompt.
    both = TokenizedPairs.of([Pair((USER,), (assistant(THINKING),), (assistant(f"{THINKING}0"),))], r1).sequences
    assert both.prompts[0].tolist() == sampled(r1, [USER], add_generation_prompt=True)
    # Without a place for it, it is said.
    made = cut(encoder_of("llama3"), (USER,), (assistant("1", reasoning_content="add one"),))
    assert made.learned == "1<|eot_id|>"
    assert made.remarks == {"reasoning_dropped": 1}


def test_a_conversation_whose_earlier_reasoning_is_dropped_is_refused():
    made = cut(encoder_of("qwen3"), (USER,), (assistant(THINKING), user("Sure?"), assistant("Yes")))
    assert made.dropped == {"rewrites": 1}


def test_variables_of_the_template_hold_in_prompts_and_answers():
    text = encoder_of("qwen3", chat_template_kwargs={"enable_thinking": False, "unused": None})
    made = cut(text, (USER,), (assistant("1"),))
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True, enable_thinking=False)
    assert made.prompt == text.encode_prompt((USER,)).tolist()
    assert made.chosen == "1<|im_end|>"
    assert text.identity() != encoder_of("qwen3").identity()


def call(city, **message):
    return {
        "role": "assistant",
        **message,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": city}}],
    }


@pytest.mark.parametrize("content", [{"content": ""}, {}, {"content": "Let me look."}], ids=["empty", "absent", "text"])
@pytest.mark.parametrize("family", ["qwen2_5", "qwen3"])
def test_calls_of_tools_are_learned_and_their_results_are_context(family, content):
    text = encoder_of(family)
    turns = (call({"city": "Rome"}, **content), {"role": "tool", "content": "17 C"}, assistant("17 degrees"))
    made = cut(text, (USER,), turns, (call({"city": "Oslo"}, **content),), tools=(SCHEMA,))
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True, tools=[SCHEMA])
    assert made.prompt == text.encode_prompt((USER,), (SCHEMA,)).tolist()
    assert '"weather"' in text.tokenizer.decode(made.prompt)
    assert '{"name": "weather", "arguments": {"city": "Rome"}}' in made.learned
    assert "17 degrees<|im_end|>" in made.learned
    assert "17 C" in made.chosen
    assert "17 C" not in made.learned
    assert made.remarks == {}
    alone = cut(text, (USER,), turns[:1], (call({"city": "Oslo"}, **content),), tools=(SCHEMA,))
    assert alone.chosen == alone.learned
    assert alone.chosen.endswith("</tool_call><|im_end|>")


def test_a_template_without_tools_says_so():
    text = encoder_of("llama3")
    calls = (call({"city": "Rome"}, content="Let me look."),), (call({"city": "Oslo"}, content="Let me look."),)
    assert cut(text, (USER,), *calls, tools=(SCHEMA,)).dropped == {"tool_calls": 1}
    assert cut(text, (USER,), (assistant("1"),), tools=(SCHEMA,)).remarks == {"tools_unseen": 1}
    assert cut(encoder_of("mistral"), (USER,), *calls).dropped == {"tool_calls": 1}


def test_a_system_message_that_the_template_refuses_is_refused_with_its_words():
    made = cut(encoder_of("gemma2"), ({"role": "system", "content": "Be brief."}, USER), (assistant("1"),))
    assert made.dropped == {"template": 1}
    assert made.shown["template"] == (0, "System role not supported")
    # Mistral's stands in the last question alone, and so not in what it writes of a finished answer.
    mistral = encoder_of("mistral")
    prompt = ({"role": "system", "content": "Be brief."}, USER)
    made = cut(mistral, prompt, (assistant("1"),))
    assert made.prompt == sampled(mistral, prompt, add_generation_prompt=True)
    assert (made.chosen, made.remarks) == (" 1</s>", {"rewritten": 1})


def test_a_completion_without_the_assistant_is_refused():
    assert cut(encoder_of("chatml"), (USER,), (user("me again"),)).dropped == {"no_answer": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_of_weight_0_is_context_and_the_other_ones_are_learned(family):
    text = encoder_of(family)
    last = ANSWERS[family].replace("1", "Yes")
    begun = cut(text, (USER,), (assistant("7", weight=0), user("Sure?"), assistant("Yes")))
    between = (assistant("1"), user("And?"), assistant("8", weight=0), user("Sure?"), assistant("Yes"), user("Oh"))
    made = cut(text, (USER,), (*between, assistant("9", weight=0)))
    if family == "deepseek_r1":  # as of any longer conversation
        assert begun.dropped == made.dropped == {"rewrites": 1}
        return
    assert begun.prompt == made.prompt[: len(begun.prompt)]
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True)
    assert (begun.learned, begun.remarks) == (last, {"excluded": 1})
    assert "7" in begun.chosen
    assert (made.learned, made.remarks) == (ANSWERS[family].removeprefix(NO_REASONING[0]) + last, {"excluded": 1})
    bare = [{name: value for name, value in turn.items() if name != "weight"} for turn in between[:-1]]
    assert made.chosen == cut(text, (USER,), tuple(bare)).chosen  # the same words, of which fewer are learned
    assert cut(text, (USER,), (assistant("1", weight=0),)).dropped == {"no_answer": 1}


def test_a_weight_is_no_word_of_a_conversation_and_an_excluded_answer_may_be_silent_or_end_early():
    text = encoder_of("chatml", template="{% for m in messages %}{{ m | tojson }}{% endfor %}<|im_start|>")
    assert "weight" not in text.tokenizer.decode(text.encode_prompt((USER, assistant("1", weight=0), USER)).tolist())
    text = encoder_of("chatml")
    for words, remarks in (("", {}), ("2<|im_end|> 3", {"special_text": 1})):
        made = cut(text, (USER,), (assistant("1"), USER, assistant(words, weight=0), USER, assistant("5")))
        assert (made.learned, made.remarks) == ("1<|im_end|>5<|im_end|>", {"excluded": 1, **remarks})
    goes_on = cut(text, (USER, assistant("1", weight=0)), (assistant("2"),))  # words of the prompt, as any prefill
    assert (goes_on.learned, goes_on.remarks) == ("2<|im_end|>", {"excluded": 1})
    assert cut(text, ({**USER, "weight": 1},), (assistant("1"),)).remarks == {"others_weighed": 1}


def test_others_that_speak_first_in_a_completion_are_context():
    made = cut(encoder_of("chatml"), (USER, assistant("1")), (user("Sure?"), assistant("Yes")), (user("Sure?"), assistant("No")))
    assert made.learned == "Yes<|im_end|>"
    assert made.chosen.endswith("Sure?<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>")


def test_a_template_that_marks_generation_is_followed():
    marked = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = (assistant("1"), user("Sure?"), assistant("Yes"))
    for template in (marked, marked.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")):
        text = encoder_of("chatml", template=template)
        made = cut(text, (USER,), turns)
        plain = cut(encoder_of("chatml"), (USER,), turns)
        assert (made.prompt, made.ids) == (plain.prompt, plain.ids)
        assert made.learned.endswith("Yes<|im_end|>")
        assert "Sure?" not in made.learned
        excluded = cut(text, (USER,), (assistant("1", weight=0), user("Sure?"), assistant("Yes"), user("?"), assistant("9")))
        assert excluded.learned == "Yes<|im_end|>9<|im_end|>"
    # It may mark less than the whole turn: the rest is context.
    text = encoder_of(
        "chatml",
        template=marked.replace("{{ m.content }}<|im_end|>{% end", "{{ m.content }}<|im_end|>{% end", 1).replace(
            "{% generation %}", "(said) {% generation %}"
        ),
    )
    assert cut(text, (USER,), (assistant("1"),)).learned == "1<|im_end|>"
    # What it leaves out of an answer is counted.
    assert cut(text, (USER,), (assistant("1", reasoning_content="add one"),)).remarks == {"reasoning_dropped": 1}


def test_a_rendered_prompt_is_known_where_the_users_turn_opens_the_answer():
    template = "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}<|end|>\n<|assistant|>\n"
    text = encoder_of("phi3", template=template + "{% else %}{{ m.content }}<|end|>\n{% endif %}{% endfor %}")
    made = cut(text, text.tokenizer.apply_chat_template([USER], tokenize=False), "1", "2")
    assert (made.chosen, made.remarks) == ("1<|end|>", {})  # as of messages
    assert made.ids == cut(text, (USER,), (assistant("1"),)).ids
    assert cut(text, "0+1?", "1", "2").chosen == "1<|endoftext|>"


def test_a_template_of_ones_own_takes_the_place_of_the_tokenizers(tmp_path):
    file = tmp_path / "own.jinja"
    opening = "{% if add_generation_prompt %}[assistant] {% endif %}"
    file.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}" + opening)
    tokenizer = tokenizer_of.__wrapped__("chatml")
    text = TextEncoder(tokenizer, chat_template=str(file))
    assert cut(text, (USER,), (assistant("1"),)).chosen == "1<|im_end|>"
    assert text.tokenizer.decode(text.encode_prompt((USER,))) == "[user] 0+1?<|im_end|>[assistant] "
    assert tokenizer.chat_template == file.read_text()  # so checkpoints keep it


def test_a_prompt_whose_last_token_merges_with_the_completion_is_counted():
    vocabulary = {token: number for number, token in enumerate(["<eos>", *CHARACTERS, "12"])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[("1", "2")]))
    backend.decoder = decoders.Fuse()
    text = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>"))
    made = cut(text, "=1", "2", "3")
    assert (text.tokenizer.decode(made.prompt), made.chosen) == ("=", "12<eos>")
    assert made.remarks == {"boundary": 1}
    assert cut(text, "=1", "4", "3").remarks == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_of_a_turn_in_the_data_ends_an_answer_and_is_counted(family):
    text = encoder_of(family)
    end = ANSWERS[family].rpartition("1")[2].strip()
    made = cut(text, (USER,), (assistant(f"1 {end} and more"),))
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True)
    assert made.learned == made.chosen == ANSWERS[family].rpartition("1")[0] + f"1 {end}"
    assert made.remarks.pop("ended_early") == 1
    assert set(made.remarks) <= {"no_reasoning"}
    assert "ended_early" not in cut(text, (USER,), (assistant(f"1{end}\n"),)).remarks


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_that_the_data_spells_in_a_prompt_are_read_as_by_sampling_and_counted(family):
    text = encoder_of(family)
    end = ANSWERS[family].rpartition("1")[2].strip()
    told = user(f"Say {end}")
    made = cut(text, (told,), (assistant("1"),))
    assert made.prompt == sampled(text, [told], add_generation_prompt=True)
    assert made.chosen == ANSWERS[family]
    assert made.remarks.pop("special_text") == 1
    later = cut(text, (USER,), (assistant("1"), told, assistant("2")))
    assert later.dropped == {"rewrites": 1} if family == "deepseek_r1" else later.remarks == {"special_text": 1}
    assert "special_text" not in cut(text, (user("Say <end>"),), (assistant("1"),)).remarks


QUOTING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }} {{ ARGUMENTS }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("written", "changes"),
    [
        ("c.function.arguments | tojson", "text"),
        ("'' + c.function.arguments", "object"),
        ("c.function.arguments", "object"),
        ("'{' ~ c.function.arguments ~ '}' if c.function.arguments is string else c.function.arguments | tojson", "text"),
        ("c.function.arguments if c.function.arguments is string else c.function.arguments | tojson", None),
    ],
    ids=["writes objects", "writes text", "writes whatever it gets", "encloses text", "writes both"],
)
def test_arguments_are_learned_as_one_json_object_whatever_form_the_data_has(written, changes):
    """A template that writes JSON puts text in quotes; one that joins strings refuses an object."""
    text = encoder_of("chatml", template=QUOTING.replace("ARGUMENTS", written))
    for form, arguments in (("object", {"city": "Rome"}), ("text", '{"city": "Rome"}')):
        made = cut(text, (USER,), (call(arguments, content=""),), (call({"city": "Oslo"}, content=""),))
        assert made.learned == made.chosen == 'weather {"city": "Rome"}<|im_end|>'
        assert ("arguments" in made.remarks) == (changes in (form, "object"))  # the rejected side has an object
    assert cut(text, (USER,), (call("not JSON", content="x"),), (call("no JSON", content=""),)).chosen.startswith("xweather ")


OF_NULL_CONTENT = (  # as DeepSeek's do
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.content is none %}{% for c in m.tool_calls %}"
    "{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("content", [{"content": ""}, {}, {"content": None}], ids=["empty", "absent", "null"])
def test_calls_are_learned_where_a_template_writes_them_beside_null_content_alone(content):
    text = encoder_of("chatml", template=OF_NULL_CONTENT)
    own, others = call('{"city": "Rome"}', **content), call('{"city": "Oslo"}', **content)
    result = {"role": "tool", "content": "17 C"}
    made = cut(text, (USER,), (own, result, assistant("17")), (others,))
    assert made.learned == 'weather {"city": "Rome"}<|im_end|>17<|im_end|>'
    assert made.remarks == {}
    asked = cut(text, (USER, own, result), (assistant("17"),), (assistant("18"),))
    assert 'weather {"city": "Rome"}' in text.tokenizer.decode(asked.prompt)
    assert asked.prompt == text.encode_prompt((USER, own, result)).tolist()
    assert asked.remarks == {}
    with_words = [Pair((USER,), ({**own, "content": "Let me look."},), (others,))]
    assert TokenizedPairs.of(with_words, text).dropped == {"tool_calls": 1}


OPENS_NEXT = (  # as GLM's: the token of the next message is where generation ends
    "{% for m in messages %}{{ {'user': '<|im_end|>', 'tool': '<|endoftext|>'}.get(m.role, '<|im_start|>') }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
CALL, RESULT = call({"city": "Rome"}, content=""), {"role": "tool", "content": "17 C"}
CALLED = 'weather {"city": "Rome"}<|endoftext|>'


@pytest.mark.parametrize(
    ("turns", "learned"),
    [
        ((assistant("1"), user("Sure?"), assistant("2")), "1<|im_end|>2<|im_end|>"),
        ((CALL, RESULT, assistant("17")), f"{CALLED}17<|im_end|>"),
        ((CALL,), CALLED),
    ],
    ids=["answers", "a call and an answer", "a call"],
)
def test_an_answer_ends_with_the_token_that_opens_the_next_message_where_generation_ends_there(turns, learned):
    text = encoder_of("qwen2_5", template=OPENS_NEXT)
    made = cut(text, (USER,), turns)
    assert (made.learned, made.dropped) == (learned, {})
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True)
    whole = sampled(text, [USER, *turns, USER if turns[-1] is not CALL else RESULT])
    assert [*made.prompt, *made.ids] == whole[: len(made.prompt) + len(made.ids)]


def test_an_answer_that_a_template_closes_with_two_tokens_ends_with_that_of_generation():
    """Cohere's templates write `<|END_RESPONSE|>` before `<|END_OF_TURN_TOKEN|>`, with which sampling ends."""
    template = QUOTING.replace("<|im_end|>", "<|endoftext|><|im_end|>")
    made = cut(encoder_of("chatml", template=template), (USER,), (assistant("1"), user("?"), assistant("2")))
    assert made.learned == "1<|endoftext|><|im_end|>2<|endoftext|><|im_end|>"


@pytest.mark.parametrize("begins", ["<think>", "\n <think>"])
def test_reasoning_in_the_text_gets_no_empty_reasoning_before_it(begins):
    """As Qwen 3.5's later templates do, which read the reasoning from its own field alone."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}"
        "\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    text = encoder_of("chatml", template=template)
    reasons = assistant(f"{begins}\nsum\n</think>\n\n1")
    made = cut(text, (USER,), (reasons,))
    assert (
        made.learned == cut(text, (USER,), (assistant("1", reasoning_content="sum"),)).learned == "sum\n</think>\n\n1<|im_end|>"
    )
    assert made.remarks == {"rewritten": 1, "no_reasoning": 1}  # the latter is the rejected side
    assert cut(text, (USER,), (reasons, user("?"), reasons)).dropped == {"rewrites": 1}


def test_reasoning_that_is_never_closed_gets_no_other_reasoning_before_it():
    text = encoder_of("qwen3")
    begun = assistant("<think>\nI do not know")
    made = cut(text, (USER,), (begun,), (assistant("2"),))
    assert made.learned == "<think>\nI do not know<|im_end|>"
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True)
    assert {"rewritten", "unclosed"} <= made.remarks.keys()
    several = [Pair((USER,), (assistant("1"), user("Sure?"), begun), (assistant("2"),))]
    assert TokenizedPairs.of(several, text).dropped == {"rewrites": 1}


@pytest.mark.parametrize(
    ("answer", "learned"),
    [
        ("<think>\n\n</think>\n\n1", "\n</think>\n\n1"),
        ("<think>\n\nsum\n</think>\n\n1", "\nsum\n</think>\n\n1"),
        ("<think>sum</think>1", "sum</think>1"),
        ("<think>\nsum\n</think>\n\n1", "sum\n</think>\n\n1"),
    ],
)
def test_reasoning_goes_on_where_the_prompt_has_opened_it(answer, learned):
    text = merging(encoder_of("deepseek_r1"), "\n\n")
    made = cut(text, (USER,), (assistant(answer),), (assistant("2"),))
    assert made.learned == made.chosen == f"{learned}<｜end▁of▁sentence｜>"
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True)


MARKS_OPENINGS = (  # as SmolLM3's does
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n"
    "{% endgeneration %}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_opening_of_an_answer_is_not_learned_where_the_template_marks_it_as_generated():
    text = encoder_of("chatml", template=MARKS_OPENINGS)
    made = cut(text, (USER,), (assistant("1"), user("Sure?"), assistant("2"), assistant("3")), (assistant("4"),))
    assert made.learned == "1<|im_end|>2<|im_end|>3<|im_end|>"
    asked_first = cut(text, (USER,), (user("Sure?"), assistant("1")), (user("Sure?"), assistant("2")))
    assert asked_first.learned == "1<|im_end|>"


def test_an_answer_that_stays_within_the_reasoning_of_a_rendered_prompt_is_counted():
    text = encoder_of("deepseek_r1")
    prompt = text.template.prompt((USER,))
    assert prompt.endswith("<think>\n")
    assert cut(text, prompt, "1", "2").remarks == {"unclosed": 1}
    assert cut(text, prompt, "sum\n</think>\n\n1", "</think>2").remarks == {}


HOSTILE = {
    "white space around": ([user("  q \n\n")], " a \n"),
    "separators of lines": ([user("a\u2028b\u2029c\x85d")], "x\u2028y"),
    "beyond ASCII": ([user("é 好 😀")], "Ünï"),
    "jinja": ([user("{{ 7 * 7 }}{% if x %}")], "{{ messages }}"),
    "carriage returns": ([user("a\r\nb")], "c\r\nd"),
    "an empty question": ([user("")], "1"),
    "tags of reasoning in a question": ([user("what is <think>?")], "a tag"),
    "an answer like a question": ([user("1")], "1"),
    "an answer that repeats the prompt": ([user("assistant")], "assistant"),
    "quotes and backslashes": ([user('"\\n" \'')], "\\n"),
    "null bytes": ([user("a\x00b")], "c\x00d"),
    "a history with white space": ([user("a"), assistant(" b \n"), user("c")], "d"),
    "a history with an empty answer": ([user("a"), assistant(""), user("c")], "d"),
    "the probe's words": ([user("rlx_probe")], "rlx_probe_answer"),
    "names": ([{"role": "user", "name": "Ann", "content": "hi"}], "hello"),
    "tabs": ([user("\t\ta")], "\tb"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("family", FAMILIES)
def test_hostile_words_are_read_as_by_sampling_and_learned_as_generated(family, case):
    text = encoder_of(family)
    prompt, answer = HOSTILE[case]
    made = cut(text, tuple(prompt), (assistant(answer),))
    assert made.prompt == sampled(text, prompt, add_generation_prompt=True)
    assert made.prompt == text.encode_prompt(tuple(prompt)).tolist()
    assert made.learned == made.chosen
    assert made.ids[-1] in text.end_ids
    whole = sampled(text, [*prompt, assistant(answer)])
    if family == "deepseek_r1":  # its history has no reasoning, which its prompt opens
        assert made.remarks == {"no_reasoning": 1}
        assert text.tokenizer.decode(made.ids) == f"{NO_REASONING[1]}{text.tokenizer.decode(whole_answer(text, answer))}"
        return
    assert [*made.prompt, *made.ids] == whole[: len(made.prompt) + len(made.ids)]
    rest = text.tokenizer.decode(whole[len(made.prompt) + len(made.ids) :], skip_special_tokens=True)
    assert not rest.strip()
    assert made.remarks == {}


def whole_answer(text, answer):
    ids = text.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*ids, text.tokenizer.eos_token_id]


def taking_white_space(text):
    """The encoder of Phi 3 with its tokenizer's special tokens, which take the white space after them."""
    backend = Tokenizer.from_str(text.tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(token, rstrip=True, normalized=False) for token in ("<|assistant|>", "<|end|>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", additional_special_tokens=["<|assistant|>", "<|end|>"]
    )
    tokenizer.chat_template = text.tokenizer.chat_template
    return replace(text, tokenizer=tokenizer)


@pytest.mark.parametrize("answer", ["1", " 1", "\n1", "\n\n  1", "\t1"])
def test_a_special_token_that_takes_white_space_after_it_belongs_to_the_prompt(answer):
    text = taking_white_space(encoder_of("phi3"))
    tokenizer = text.tokenizer
    assert tokenizer.decode(tokenizer("<|end|>\n1", add_special_tokens=False)["input_ids"]) == "<|end|>1"
    for made in (cut(text, (USER,), (assistant(answer),)), cut(text, (USER,), (user("?"), assistant(answer)))):
        assert (made.dropped, made.learned) == ({}, "1<|end|>")
        assert made.remarks == {}
    made = cut(text, (USER,), (assistant(answer), user("?"), assistant(answer)))
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True) == text.encode_prompt((USER,)).tolist()
    assert made.learned == "1<|end|>1<|end|>"
    rendered = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    plain = cut(text, rendered, answer, "2")
    assert (plain.prompt, plain.learned) == (made.prompt, "1<|end|>")


@pytest.mark.parametrize("family", ["chatml", "llama3", "zephyr"])
def test_calls_in_a_prompt_that_the_template_leaves_out_are_counted(family):
    text = encoder_of(family)
    prompt = (USER, call({"city": "Rome"}, content=""), {"role": "tool", "content": "17 C"})
    made = cut(text, prompt, (assistant("17"),))
    assert made.remarks.pop("calls_unseen") == 1
    assert "calls_unseen" in text.prompt_remarks(prompt)
    qwen = encoder_of("qwen2_5")
    assert "calls_unseen" not in cut(qwen, prompt, (assistant("17"),)).remarks
    assert "calls_unseen" not in qwen.prompt_remarks(prompt)


def test_messages_that_the_template_leaves_out_are_counted():
    template = "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content | trim }}[/INST]{% elif m.role == 'tool' %}"
    template += "{{ m.content | tojson }}{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    text = encoder_of("mistral", template=template)
    result = {"role": "tool", "content": 'say "hi"\n'}
    for role in ("system", "developer"):
        prompt = ({"role": role, "content": "Be brief."}, user(" 0+1?\n"))
        assert cut(text, prompt, (assistant("1"),)).remarks == {"words_unseen": 1}
        assert text.prompt_remarks(prompt) == {"words_unseen"}
        assert cut(text, (USER,), (assistant("1"), prompt[0], assistant("2"))).remarks == {"words_unseen": 1}
    assert cut(text, (user(" 0+1?\n"), assistant("1"), result), (assistant("2"),)).remarks == {}
    unread = encoder_of("mistral", template=template.replace("{{ m.content | tojson }}", ""))
    assert cut(unread, (user("?"), assistant("1"), result), (assistant("2"),)).remarks == {"results_unseen": 1}
    assert cut(unread, (user("?"),), (assistant("1"), result, assistant("2"))).remarks == {"results_unseen": 1}


def test_a_template_that_asks_for_a_call_before_a_result_writes_calls():
    template = (
        "{% for m in messages %}{% if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}"
        "{{ raise_exception('a result without a call') }}{% endif %}<|im_start|>{{ m.role }}\n"
        "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    text = encoder_of("chatml", template=template)
    turns = (call({"city": "Rome"}, content=""), {"role": "tool", "content": "17 C"})
    made = cut(text, (USER,), (*turns, assistant("17")))
    assert made.learned.endswith("<|im_end|>17<|im_end|>")
    assert "calls_unseen" not in text.prompt_remarks((USER, *turns))


def merging(text, *tokens, normalizer=None):
    """The encoder with a tokenizer that has these tokens too, of one character or of two."""
    parts = json.loads(text.tokenizer.backend_tokenizer.to_str())
    parts["model"]["merges"] = [list(token) for token in tokens if len(token) == 2]
    for token in tokens:
        parts["model"]["vocab"][token] = max(parts["model"]["vocab"].values()) + 1
    backend = Tokenizer.from_str(json.dumps(parts))
    backend.normalizer = normalizer
    names = {name: getattr(text.tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{name: token for name, token in names.items() if token})
    tokenizer.chat_template = text.tokenizer.chat_template
    return replace(text, tokenizer=tokenizer)


def test_what_is_put_before_an_answer_leaves_the_prompt_its_tokens():
    text = merging(encoder_of("deepseek_r1"), "\n\n")
    made = cut(text, (USER,), (assistant("1"),), "2")
    assert made.prompt == sampled(text, [USER], add_generation_prompt=True) == text.encode_prompt((USER,)).tolist()
    assert made.chosen == made.learned == ANSWERS["deepseek_r1"]
    assert made.remarks == {"no_reasoning": 1}
    alone = [made.ids[0], *text.tokenizer("</think>\n\n1", add_special_tokens=False)["input_ids"]]
    assert made.ids[:-1] == alone  # one line break, and no two as one token


OPENS_REASONING = (
    "{% for m in messages %}{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
)
OPENS_REASONING += "<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant\n<think>\n{% endif %}"  # as Qwen 3 Thinking's
SPACED = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])  # as Llama 2's, before every text


@pytest.mark.parametrize(
    ("family", "tokens", "normalizer", "template", "begun", "answer", "ids_of", "remark"),
    [
        ("chatml", ["\n\n"], None, None, None, "\n1", "\n1", "boundary"),
        ("chatml", [" 1"], None, None, "It is ", "1", "1", "boundary"),
        ("chatml", ["é", "\u0301"], normalizers.NFC(), None, "cafe", "\u0301!", "\u0301!", "boundary"),
        ("llama2", ["_1", "\x01"], SPACED, None, "It is ", "1", "1", "boundary"),
        ("qwen3", ["\n\n"], None, OPENS_REASONING, None, "1", "\n</think>\n\n1", "no_reasoning"),
    ],
)
def test_a_prompt_keeps_its_tokens_where_the_tokenizer_would_merge_its_end_with_the_answer(
    family, tokens, normalizer, template, begun, answer, ids_of, remark
):
    text = merging(encoder_of(family, template=template), *tokens, normalizer=normalizer)
    prompt = (USER, assistant(begun)) if begun else (USER,)
    made = cut(text, prompt, (assistant(answer),), (assistant(f"{answer}2"),))
    opens = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
    assert made.prompt == sampled(text, prompt, **opens) == text.encode_prompt(prompt).tolist()
    characters = text.tokenizer.convert_tokens_to_ids(list(ids_of.replace("\n\n", "")))
    assert [token for token in made.ids if token in characters] == characters
    assert made.chosen.removeprefix(ids_of).strip("_") in text.template.ends
    assert made.learned == made.chosen
    assert made.remarks == {remark: 1}


def test_what_is_said_begins_a_line_where_there_is_no_chat_template():
    text = merging(encoder_of("chatml"), " 1")
    text.tokenizer.chat_template = None
    made = cut(text, (USER,), (assistant("1"),), "2")
    assert made.prompt == text.encode_prompt((USER,)).tolist()
    assert (made.chosen, made.remarks) == ("1<|im_end|>", {})


def test_an_opened_answer_is_not_learned_where_others_speak_first_in_the_other_completion():
    text = encoder_of("chatml")
    made = TokenizedPairs.of([Pair((USER,), (user("Sure?"), assistant("Yes")), (assistant("1"),))], text)
    learned = made.sequences.completion_mask[0]
    rejected = made.sequences.completions[0][1]
    assert text.tokenizer.decode(rejected.tolist()) == "<|im_start|>assistant\n1<|im_end|>"
    assert text.tokenizer.decode(rejected[learned[1, : len(rejected)].numpy()].tolist()) == "1<|im_end|>"


def test_a_prompt_has_the_tokens_of_sampling_where_a_tokenizer_cuts_its_end_otherwise_before_words():
    """GPT-2's rule reads two line breaks at the end of a text as one token, and before a word as two."""
    text = encoder_of("llama3")
    parts = json.loads(text.tokenizer.backend_tokenizer.to_str())
    characters = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    parts["model"] = {**parts["model"], "vocab": {**characters, "\u010a\u010a": 256}, "merges": [["\u010a", "\u010a"]]}
    for number, token in enumerate(parts["added_tokens"]):
        token["id"] = 257 + number
    parts["normalizer"] = parts["post_processor"] = None
    parts["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    parts["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    backend = Tokenizer.from_str(json.dumps(parts))
    special = [token["content"] for token in parts["added_tokens"]]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|eot_id|>", bos_token="<|begin|>", additional_special_tokens=special
    )
    tokenizer.chat_template = text.tokenizer.chat_template
    text = TextEncoder(tokenizer)
    whole = sampled(text, [USER, assistant("one")])
    prompt = sampled(text, [USER], add_generation_prompt=True)
    assert whole[: len(prompt)] != prompt
    made = cut(text, (USER,), (assistant("one"),), "two")
    assert made.prompt == prompt == text.encode_prompt((USER,)).tolist()
    assert made.chosen == made.learned == "one<|eot_id|>"
    assert made.remarks == {}
    plain = cut(text, "Say:\n\n", "one", "two")
    assert (plain.prompt, plain.chosen) == (text.encode_prompt("Say:\n\n").tolist(), "one<|eot_id|>")
    # So it is before every later answer: what was said before stays as it was sampled.
    made = TokenizedPairs.of([Pair((USER,), (assistant("one"), user("two?"), assistant("three")), (assistant("two"),))], text)
    tokens, learned = made.sequences.completions[0][0].tolist(), made.sequences.learned[0][0].tolist()
    context = [token for token, is_own in zip(tokens, learned, strict=True) if not is_own]
    asked = text.encode_prompt((USER, assistant("one"), user("two?"))).tolist()
    opening = asked[-len("assistant") - 3 :]
    assert tokenizer.decode(opening).endswith("assistant<|end_header_id|>\n\n")
    assert context[-len(opening) :] == opening
    assert (
        tokenizer.decode([token for token, is_own in zip(tokens, learned, strict=True) if is_own])
        == "one<|eot_id|>three<|eot_id|>"
    )


def test_a_later_answer_that_merges_with_what_stands_before_it_is_counted():
    text = merging(encoder_of("chatml"), "\n\n")
    made = cut(text, (USER,), (assistant("one"), user("two?"), assistant("\nthree")))
    assert made.learned == "one<|im_end|>\n\nthree<|im_end|>"
    assert made.remarks == {"boundary": 1}


def test_messages_of_a_role_that_is_unknown_are_counted():
    talk = (user("1?"), {"role": "critic", "content": "2"}, user("3?"))
    assert cut(encoder_of("chatml"), talk, (assistant("4"),)).remarks == {"other_roles": 1}
