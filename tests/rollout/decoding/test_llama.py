from contextlib import nullcontext

import numpy as np
import pytest
import torch

from rlx.errors import RlxError
from rlx.policy.adapter import Lora
from rlx.policy.tiny import build_tiny
from rlx.rollout.decoding import llama
from rlx.rollout.decoding.forward import PlainForward
from rlx.rollout.decoding.llama import LlamaForward, supports_llama_forward
from rlx.rollout.decoding.probe import forward_for
from tests.rollout.stand_in import model_of

KINDS = {
    "llama": {},
    "llama with shared keys": {"num_key_value_heads": 2},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "llama with wide heads": {"head_dim": 12},
    "llama with scaled positions": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    "qwen2": {},
}


def of(kind):
    return model_of(kind.partition(" ")[0], **KINDS[kind])


@pytest.mark.parametrize("shares", [False, True], ids=["each row its prompt", "shared prompts"])
@pytest.mark.parametrize("lengths", [(5, 5), (9, 2, 4)], ids=["equal", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_its_logits_are_those_of_the_model_while_rows_split_and_end(kind, lengths, shares):
    model, draw = of(kind), np.random.default_rng(1)
    assert supports_llama_forward(model)
    prompts = [draw.integers(0, 41, size) for size in lengths]
    ours, plain = LlamaForward(model, shares_prompts=shares), PlainForward(model)
    with torch.no_grad():
        logits = [forward.start(prompts, max_rows=4, max_new_tokens=5) for forward in (ours, plain)]
        torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
        for parents in ([0, 1, 1, 0], [0, 3, 2, 1], [1, 0], [0, 1]):
            tokens = torch.from_numpy(draw.integers(0, 41, len(parents)))
            logits = [forward.step(torch.tensor(parents), tokens) for forward in (ours, plain)]
            torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_it_sees_weights_that_change_between_draws():
    model = of("llama")
    forward = LlamaForward(model)
    prompts = [np.array([3, 4])]
    with torch.no_grad():
        before = forward.start(prompts, max_rows=1, max_new_tokens=1)
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)
        after = LlamaForward(model).start(prompts, max_rows=1, max_new_tokens=1)
        torch.testing.assert_close(after, PlainForward(model).start(prompts, max_rows=1, max_new_tokens=1))
    assert not torch.allclose(before, after)


def adapted(**lora):
    """A tiny policy whose adapter was moved away from 0."""
    pytest.importorskip("peft")
    policy = build_tiny(hidden_size=32, intermediate_size=64, num_layers=2, adapter=Lora(rank=4, alpha=8.0, **lora))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.mark.parametrize("lora", [{}, {"rslora": True}, {"targets": ["q_proj", "down_proj"]}], ids=str)
@pytest.mark.parametrize("at", ["trained", "start", "earlier adapter"])
def test_an_adapter_is_part_of_it_where_it_is_switched_on(lora, at):
    policy = adapted(**lora)
    if at == "earlier adapter":
        policy.adapter.is_fresh = False
        policy.adapter.freeze_start()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(-0.5)
    prompts = [np.array([3, 4, 9])]
    found = {}
    for name in ("trained", at):
        with torch.no_grad(), policy.adapter.start() if name != "trained" else nullcontext():
            assert supports_llama_forward(policy.model)
            logits = [
                forward(policy.model).start(prompts, max_rows=1, max_new_tokens=1) for forward in (LlamaForward, PlainForward)
            ]
            torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
            found[name] = logits[0]
    assert at == "trained" or not torch.allclose(found["trained"], found[at], atol=1e-2)


def test_an_adapter_that_it_cannot_add_is_left_to_the_model():
    assert not supports_llama_forward(adapted(dora=True).model)
    merged = adapted()
    for layer in merged.adapter.layers()[:1]:
        layer.merge()
    assert not supports_llama_forward(merged.model)
    with pytest.raises(RlxError, match="an adapter was merged"):
        LlamaForward(merged.model)
    assert supports_llama_forward(adapted().adapter.merged())


def test_a_fresh_adapter_is_moved_while_ways_are_compared(monkeypatch):
    pytest.importorskip("peft")
    policy = build_tiny(hidden_size=32, intermediate_size=64, num_layers=2, adapter=Lora(rank=4, alpha=8.0))
    before = {name: tensor.clone() for name, tensor in policy.adapter.state().items()}
    own = llama.linear_parts
    monkeypatch.setattr(llama, "linear_parts", lambda layer: (own(layer)[0], None))  # wrong, and seen only where B is not 0
    assert forward_for(policy.model)[0].__class__ is not LlamaForward
    monkeypatch.undo()
    assert forward_for(adapted().model)[0].__class__ is LlamaForward
    after = policy.adapter.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_no_plain_llama_does_not_fit():
    hooked, wrapped, replaced, half = (of("llama") for _ in range(4))
    hooked.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    wrapped.model.layers[1].self_attn.q_proj = torch.nn.Sequential(wrapped.model.layers[1].self_attn.q_proj)
    replaced.forward = lambda **_: None
    others = [
        hooked,
        wrapped,
        replaced,
        half.bfloat16(),
        model_of("llama", hidden_act="gelu"),
        model_of("gpt2"),
        model_of("mistral"),
    ]
    assert not any(map(supports_llama_forward, others))
