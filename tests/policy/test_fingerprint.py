import copy

import torch

from rlx.policy.base import Policy, fingerprint
from tests.policy.models import model_of, tokenizer


def test_equal_weights_have_equal_fingerprints():
    assert fingerprint(model_of("llama"), tokenizer()) == fingerprint(model_of("llama"), tokenizer())


def test_each_part_counts():
    model = model_of("llama")
    before = fingerprint(model, tokenizer())
    different = [fingerprint(model_of("llama", seed=1), tokenizer()), fingerprint(model_of("llama").double(), tokenizer())]
    rotated = model_of("llama")
    rotated.config.rms_norm_eps = 1e-3
    different.append(fingerprint(rotated, tokenizer()))
    renamed = copy.deepcopy(tokenizer())
    renamed.chat_template = "{{ messages }}"
    different.append(fingerprint(model, renamed))
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-6
    different.append(fingerprint(model, tokenizer()))
    assert len({before, *different}) == len(different) + 1


def test_neither_use_nor_place_nor_a_journey_to_disk_counts(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = Policy(model_of("llama"), copy.deepcopy(tokenizer()), name="a")
    before = policy.fingerprint()
    policy.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert policy.fingerprint() == before == fingerprint(*again)
