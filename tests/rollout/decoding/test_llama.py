from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlx.errors import RlxError
from rlx.policy.adapter import Lora
from rlx.policy.tiny import build_tiny
from rlx.rollout.decoding import llama
from rlx.rollout.decoding.forward import PlainForward
from rlx.rollout.decoding.llama import LlamaForward, SharedPrompts, shares_prompts, supports_llama_forward
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


def test_an_adapter_is_added_under_autocast_as_the_model_adds_it():
    policy, prompts = adapted(), [np.array([3, 4, 9])]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        ours, models = (f(policy.model).start(prompts, max_rows=1, max_new_tokens=1) for f in (LlamaForward, PlainForward))
        with policy.adapter.start():
            without = LlamaForward(policy.model).start(prompts, max_rows=1, max_new_tokens=1)
    assert ours.dtype == models.dtype
    error = (ours - models).abs().max()
    assert error < 0.05 * (ours - without).abs().max()  # 8 bits of a mantissa


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


# Rows that continue one prompt attend to one copy of its keys and values; the numbers are those of a copy a row.


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("mask", [None, (0, 2, 1)], ids=["equal", "ragged"])
@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 2, 2, 1, 0], [1, 1, 1], [2, 0, 2]])
def test_attention_is_that_over_a_prompt_and_own_tokens_in_one_row(rows, mask):
    keys, values = drawn(3, 2, 5, 4), drawn(3, 2, 5, 4) + 1
    hidden = torch.zeros(3, 1, 1, 5)
    for prompt, padding in enumerate(mask or ()):
        hidden[prompt, ..., :padding] = torch.finfo(torch.float32).min
    shared = SharedPrompts([(keys, values)], hidden if mask else None)
    shared.select(torch.tensor(rows))
    query, own_keys, own_values = drawn(len(rows), 2, 3, 4), drawn(len(rows), 2, 6, 4), drawn(len(rows), 2, 6, 4) - 1
    found = shared.attend(0, query, own_keys, own_values, 0.5)
    whole = [torch.cat([prompt[rows], own], dim=2) for prompt, own in ((keys, own_keys), (values, own_values))]
    seen = torch.cat([hidden[rows], torch.zeros(len(rows), 1, 1, 6)], dim=-1)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, *whole, attn_mask=seen, scale=0.5))


def test_scores_that_would_overflow_are_joined_by_the_larger():
    shared = SharedPrompts([(torch.full((1, 1, 2, 1), 200.0), torch.ones(1, 1, 2, 1))], None)
    found = shared.attend(0, torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), -200.0), torch.zeros(1, 1, 1, 1), 1.0)
    assert found.item() == 1.0


def test_prompts_that_no_row_continues_are_given_up_once_they_are_half():
    keys = drawn(4, 1, 3, 2)
    shared = SharedPrompts([(keys, keys)], None)
    shared.select(torch.tensor([0, 1, 3]))
    assert len(shared.layers[0][0]) == 4
    shared.select(torch.tensor([2, 0, 2]))
    assert torch.equal(shared.layers[0][0], keys[[0, 3]])
    assert shared.of_row.tolist() == [1, 0, 1]
    assert torch.equal(shared.states(0, 0)[0], keys[3])


def test_what_is_kept_of_a_row_is_what_a_row_of_its_own_holds():
    model, draw = model_of("llama"), np.random.default_rng(1)
    prompts = [draw.integers(0, 41, size) for size in (4, 7)]
    apart, shared = (LlamaForward(model, shares_prompts=shares) for shares in (False, True))
    with torch.no_grad():
        for forward in (apart, shared):
            forward.start(prompts, max_rows=8, max_new_tokens=4)
        torch.testing.assert_close(shared.states(0), apart.states(0))
        for parents, tokens in (([0, 1, 1], [3, 4, 5]), ([2, 0], [6, 7]), ([0, 1], [8, 9])):
            for forward in (apart, shared):
                forward.step(torch.tensor(parents), torch.tensor(tokens))
        for row, length in ((0, 7 + 3), (1, 4 + 3)):
            assert shared.states(row).shape[-2] == length
            torch.testing.assert_close(shared.states(row), apart.states(row))


def test_a_prompt_is_held_once_for_all_of_its_rows():
    model = model_of("llama")
    forward = LlamaForward(model)
    with torch.no_grad():
        forward.start([np.arange(40)], max_rows=8, max_new_tokens=2)
        forward.step(torch.zeros(8, dtype=torch.int64), torch.arange(8))
    assert forward.shared.layers[0][0].shape[:3:2] == (1, 40)
    assert forward.cache[0].states(7)[0].shape[1] == 1


@pytest.mark.parametrize(
    ("prompts", "rows", "length", "shares"), [(2, 8, 32, True), (2, 7, 32, False), (2, 8, 31, False), (1, 1, 400, False)]
)
def test_prompts_are_shared_where_many_rows_continue_long_ones(prompts, rows, length, shares):
    assert shares_prompts(prompts, rows, length) is shares
