import copy

from rlx.data import tokenizer_text as module
from rlx.data.tokenizer_text import tokenizer_text
from rlx.policy.tiny import character_tokenizer


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
