"""Examples that are written together are, to the character, what each of them is alone: the slow way is the judge."""

import random
import resource
import threading
from types import SimpleNamespace

import pytest
from transformers.utils import chat_template_utils

from rlx.data import rendering
from rlx.data.rendering import bounded_memory
from rlx.data.tokens import TextEncoder
from rlx.errors import ConfigError, DataError
from tests.data.test_conversation import FAMILIES, assistant, call, encoder_of, user

CONTENTS = [
    "1",
    " 1 ",
    "1\n",
    "",
    "a <|im_end|> b",
    "x</think>y",
    "<think>\nr\n</think>\n\n1",
    "é 好 😀",
    "<s>hi",
    "{{ x }}",
    "[INST]",
]
TOOL = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}


def examples_of(count):
    """Conversations of one and of several turns, begun answers, tools, and some that a template refuses."""
    rng = random.Random(0)
    says = lambda: rng.choice(CONTENTS)  # noqa: E731
    made = []
    for _ in range(count):
        prompt = [{"role": "system", "content": "Be brief."}] if rng.random() < 0.2 else []
        prompt += [turn for _ in range(rng.randint(0, 2)) for turn in (user(says()), assistant(says()))]
        prompt += [user(says())] + ([assistant("So ")] if rng.random() < 0.15 else [])
        tools = (TOOL,) if rng.random() < 0.2 else ()
        for _ in range(2):  # both sides of a pair have the same prompt and tools
            answer = [assistant(says(), **({"reasoning_content": says()} if rng.random() < 0.2 else {}))]
            if rng.random() < 0.1:
                answer = [assistant("", tool_calls=[call("Rome")["tool_calls"][0]])] if tools else [user("and?"), *answer]
            if rng.random() < 0.2:
                answer += [user(says()), assistant(says())]
            if rng.random() < 0.1:
                answer += [user("bye")]
            made.append((tuple(prompt), tuple(answer), tools))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_together_is_what_each_is_alone(family, monkeypatch):
    template = encoder_of(family).template
    examples = examples_of(40)
    alone = [template.write(*example) for example in examples]
    calls, render = [], chat_template_utils.render_jinja_template
    monkeypatch.setattr(chat_template_utils, "render_jinja_template", lambda **given: calls.append(given) or render(**given))
    monkeypatch.setattr(rendering, "_AT_ONCE", 7)
    assert template.write_all(examples) == alone
    together = len(calls)
    assert [template.write(*example) for example in examples] == alone  # nothing is left of the examples before
    assert together < len(calls) - together
    assert any(made.refused is None for made in alone)


def test_a_refused_conversation_leaves_those_beside_it_as_they_are():
    template = encoder_of("gemma2").template
    system = {"role": "system", "content": "Be brief."}
    examples = [((user("1?"),), (assistant("1"),), ()), ((system, user("2?")), (assistant("2"),), ())] * 2
    made = template.write_all(examples)
    assert [written.refused is not None for written in made] == [False, True, False, True]
    assert made[0].text.count("1") == 2


@pytest.mark.parametrize(
    ("template", "name", "refused"),
    [
        ("{% if enable_thinking %}<think>{% endif %}", "enable_thinking", None),
        ("{% if enable_thinking %}<think>{% endif %}", "enable_thinkng", "the chat template reads no such variable"),
        ("{% if enable_thinking %}<think>{% endif %}", "thinking", "the chat template reads no such variable"),
        (None, "enable_thinking", "the tokenizer has no chat template"),
        ({"default": "{{ messages }}", "tool_use": "{{ depth }}"}, "depth", None),
    ],
)
def test_a_variable_that_no_template_reads_is_said_once(template, name, refused, caplog):
    rendering._said_unread.clear()
    tokenizer = SimpleNamespace(chat_template=template)
    for _ in range(2):
        TextEncoder(tokenizer, chat_template_kwargs={name: False, "other": None})
    said = [] if refused is None else [f"policy.chat_template_kwargs.{name} changes nothing: {refused}"]
    assert [record.getMessage() for record in caplog.records] == said


def test_half_a_surrogate_pair_is_refused():
    encoder = encoder_of("chatml", template="{{ '\\ud800' }}")
    with pytest.raises(DataError, match="surrogates not allowed"):
        encoder.encode_prompt([user("1")])


def test_a_template_without_an_end_is_refused_at_its_first_use(monkeypatch):
    monkeypatch.setattr(rendering, "_MOST_SECONDS", 0.05)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    encoder = encoder_of("chatml", template=loop)
    with pytest.raises(ConfigError, match=r"nothing after 0\.05 s"):
        encoder.encode_prompt([user("1")])


def test_templates_of_which_none_is_the_default_are_refused():
    renderer = rendering.TemplateRenderer(SimpleNamespace(chat_template={"a": "b"}, get_chat_template=refuse), {})
    with pytest.raises(ConfigError, match=r"no default.*policy\.chat_template=FILE"):
        renderer.source()


def refuse(*_):
    raise ValueError("no default")


def test_what_asks_for_more_raises_and_what_asks_for_less_does_not():
    with pytest.raises(MemoryError), bounded_memory(2**26):
        bytes(2**28)
    with bounded_memory(2**28):
        assert len(bytes(2**26)) == 2**26
    assert len(bytes(2**28)) == 2**28  # afterwards there is no limit


def test_two_threads_leave_the_process_as_free_as_it_was():
    before = resource.getrlimit(resource.RLIMIT_AS)
    first_is_in, second_tries = threading.Event(), threading.Event()

    def first():
        with bounded_memory(2**28):
            first_is_in.set()
            second_tries.wait(10)

    def second():
        first_is_in.wait(10)
        threading.Timer(0.2, second_tries.set).start()  # while this thread waits, or is in too
        with bounded_memory(2**29):
            second_tries.wait(10)
            threads[0].join(1)  # the first one goes out before

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    after = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert after == before
