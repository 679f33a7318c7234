"""A base model in four bits under an adapter, and the refusals around it."""

import importlib.util

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlx.errors import ConfigError
from rlx.policy.adapter import Lora
from rlx.policy.pretrained import load_pretrained
from rlx.training.checkpoint import export_policy, write_policy
from tests.policy.models import sequences_of, tokenizer

# Its import calls torch.jit, which is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LORA = Lora(rank=4, alpha=8.0)


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    words = tokenizer()
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), num_key_value_heads=2, **sizes)).save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def logprobs(policy):
    return policy.token_statistics(sequences_of()).token_logprobs


def test_only_the_adapter_is_trained_and_without_it_the_base_is_the_reference(path, tmp_path):
    pytest.importorskip("bitsandbytes")
    policy = load_pretrained(path, quantization="nf4", adapter=LORA)
    assert policy.is_quantized
    trained = logprobs(policy)
    with torch.no_grad():  # bitsandbytes has an arithmetic of its own for passes without a gradient
        assert torch.equal(trained, logprobs(policy))
        assert torch.equal(trained, logprobs(policy.start()))
    difference = (trained - logprobs(load_pretrained(path))).abs().max()
    assert 1e-4 < difference < 0.5
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    trained.sum().backward()
    optimizer.step()
    moved = {name for name, tensor in policy.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    write_policy(policy, tmp_path / "adapter")
    again = load_pretrained(str(tmp_path / "adapter"))
    assert again.is_quantized
    assert torch.equal(logprobs(again), logprobs(policy))
    with pytest.raises(ConfigError, match="cannot be added to weights in 4 bits"):
        export_policy(policy, tmp_path / "whole", dtype=torch.float32, merge=True)


def test_weights_in_four_bits_are_trained_by_an_adapter_alone(path):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match="cannot be trained; add policy/adapter=lora"):
        load_pretrained(path, quantization="fp4").require_trainable()
    adapted = load_pretrained(path, quantization="fp4", adapter=LORA)
    adapted.require_trainable()
    with pytest.raises(ConfigError, match=r"export\.merge=true would add the adapter to weights in 4 bits"):
        adapted.require_trainable(merges=True)


def test_what_cannot_be_quantized_is_refused(path, monkeypatch):
    with pytest.raises(ConfigError, match=r"policy\.quantization is int3; choose nf4, fp4"):
        load_pretrained(path, quantization="int3")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else found(name, *more))
    with pytest.raises(ConfigError, match=r"needs the package bitsandbytes: pip install 'rlx\[quantization\]'"):
        load_pretrained(path, quantization="nf4", adapter=LORA)
