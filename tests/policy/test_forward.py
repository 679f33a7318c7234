from threading import Thread

import numpy as np
import pytest
import torch

from rlx.data.layout import plain_rows, shared_prefix_rows
from rlx.errors import ConfigError
from rlx.policy.forward import (
    NAME,
    activation_checkpointing,
    attend,
    attention_cost,
    branched_attention,
    checkpointed_layers,
    completion_logits,
)
from tests.policy.models import model_of, naive_logprobs, policy_of, sequences_of


def test_the_head_sees_completion_positions_alone():
    policy = policy_of("llama")
    seen = []
    policy.model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    sequences = sequences_of()
    policy.token_logprobs(sequences)
    assert seen == [(1, int(sequences.completion_lengths.sum()), 32)]


def test_what_follows_the_head_still_happens():
    policy = policy_of("gemma2_full")  # caps its logits at 0.5
    layout = policy.layout(sequences_of())
    gathered = completion_logits(policy.model, layout, gathers_before_head=True)
    assert policy.forward_choice.gathers_before_head
    assert 0.4 < float(gathered.detach().max()) <= 0.5
    torch.testing.assert_close(gathered, completion_logits(policy.model, layout, gathers_before_head=False), atol=1e-5, rtol=0)


def test_the_model_is_left_without_a_hook_even_after_an_error(monkeypatch):
    policy = policy_of("llama")
    head = policy.model.get_output_embeddings()
    policy.token_logprobs(sequences_of())
    layout = policy.layout(sequences_of())
    monkeypatch.setattr(policy.model.model, "norm", None)
    try:
        completion_logits(policy.model, layout, gathers_before_head=True)
    except TypeError:
        pass
    else:
        raise AssertionError("the broken model ran")
    assert not head._forward_pre_hooks


def test_attention_weighs_less_in_a_wide_model():
    assert 0 < attention_cost(model_of("llama")) < 1
    wide = model_of("llama")
    wide.config.hidden_size = 32
    wide.extra = torch.nn.Linear(512, 512)
    assert attention_cost(wide) < attention_cost(model_of("llama"))


# Attention branch by branch gives what one forward a sequence gives, where the model can do so.


def branched(sequences):
    return shared_prefix_rows(sequences, branched=True)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "opt"])
@pytest.mark.parametrize("num_tokens", [99, 3])
def test_log_probabilities_are_those_of_one_forward_per_sequence(architecture, num_tokens):
    policy = policy_of(architecture)
    assert policy.forward_choice.branched
    sequences = sequences_of(num_tokens=num_tokens)
    expected = naive_logprobs(policy.model, sequences)
    policy.layout = branched
    torch.testing.assert_close(policy.token_logprobs(sequences), expected, atol=1e-5, rtol=0)


def test_gradients_are_those_of_plain_rows():
    policy = policy_of("llama", dtype=torch.float64)
    sequences = sequences_of(num_tokens=3)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=sequences.completion_mask.shape))
    found = []
    for make in (plain_rows, branched):
        policy.layout = make
        total = (policy.token_logprobs(sequences) * weights).sum()
        found.append(torch.cat([part.reshape(-1) for part in torch.autograd.grad(total, policy.parameters())]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["gemma2_full", "mistral_window", "bloom", "mamba"])
def test_a_model_that_does_more_in_its_attention_is_left_to_do_so(architecture):
    assert not policy_of(architecture).forward_choice.branched


@pytest.mark.parametrize("asked", ["sliding_window", "softcap", "s_aux"])
def test_what_it_does_not_know_is_refused(asked):
    with pytest.raises(NotImplementedError, match=asked):
        attend(None, *torch.zeros(3, 1, 1, 1, 1), None, **{asked: 3})


def test_the_model_attends_as_before_even_after_an_error():
    policy = policy_of("llama")
    before = policy.model.config._attn_implementation
    within = branched_attention(policy.model, branched(sequences_of()).segments)

    def fails():
        with within:
            assert policy.model.config._attn_implementation == NAME
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert policy.model.config._attn_implementation == before


ROWS = {
    "plain": plain_rows,
    "shared": shared_prefix_rows,
    "branched": lambda sequences: shared_prefix_rows(sequences, branched=True),
}


def gradients(policy, sequences):
    weights = torch.linspace(-1, 1, sequences.completion_mask.numel()).reshape(sequences.completion_mask.shape)
    loss = (weights * policy.token_logprobs(sequences)).sum()
    return torch.autograd.grad(loss, policy.parameters())


def counted_forwards(policy):
    """A list that grows by one for each computation of a layer."""
    calls = []
    for layer in checkpointed_layers(policy.model):
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_gradients_are_equal_to_the_last_bit_and_layers_are_computed_twice(architecture, rows):
    policy = policy_of(architecture)
    policy.layout = ROWS[rows]
    sequences = sequences_of()
    calls = counted_forwards(policy)
    plain = gradients(policy, sequences)
    once = len(calls)
    policy.checkpoint_activations()
    calls.clear()
    found = gradients(policy, sequences)
    assert len(calls) == 2 * once == 2 * len(checkpointed_layers(policy.model))
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("rows", ROWS)
def test_fewer_activations_are_kept(rows):
    policy = policy_of("llama")
    policy.layout = ROWS[rows]
    sequences = sequences_of(num_prompts=20, longest=20)

    def kept():
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            policy.token_logprobs(sequences)
        return sum(sizes)

    plain = kept()
    policy.checkpoint_activations()
    assert kept() < plain / 2


@pytest.mark.parametrize("rows", ROWS)
def test_a_backward_pass_in_another_thread_finds_the_attention_of_its_rows(rows):
    """As with CUDA, whose backward pass runs in a thread of its own, without the context variables of the forward pass."""
    policy = policy_of("llama")
    policy.layout = ROWS[rows]
    sequences = sequences_of()
    plain = gradients(policy, sequences)
    policy.checkpoint_activations()
    weights = torch.linspace(-1, 1, sequences.completion_mask.numel()).reshape(sequences.completion_mask.shape)
    loss = (weights * policy.token_logprobs(sequences)).sum()
    found = []
    thread = Thread(target=lambda: found.extend(torch.autograd.grad(loss, policy.parameters())))
    thread.start()
    thread.join()
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


def test_two_terms_may_be_differentiated_one_after_the_other():
    policy = policy_of("llama")
    policy.checkpoint_activations()
    logprobs = policy.token_logprobs(sequences_of())
    first = torch.autograd.grad(logprobs.sum(), policy.parameters(), retain_graph=True)
    again = torch.autograd.grad(logprobs.sum(), policy.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_nothing_is_computed_again_where_no_gradient_is_wanted():
    policy = policy_of("llama")
    calls = counted_forwards(policy)
    policy.checkpoint_activations()
    with torch.no_grad():
        policy.token_logprobs(sequences_of())
    assert len(calls) == len(checkpointed_layers(policy.model))


def test_dropout_stays_off_and_the_model_is_left_as_it_was():
    model = model_of("gpt2")
    assert model.config.attn_pdrop > 0
    policy = policy_of("gpt2")
    before = [dict(vars(layer)) for layer in checkpointed_layers(policy.model)]
    policy.checkpoint_activations()
    sequences = sequences_of()
    assert torch.equal(policy.token_logprobs(sequences), policy.token_logprobs(sequences))
    assert [dict(vars(layer)).keys() for layer in checkpointed_layers(policy.model)] == [values.keys() for values in before]
    assert not any(module.training for module in policy.model.modules())


def test_the_marks_are_taken_off_after_an_error():
    model = model_of("llama").eval()
    with pytest.raises(RuntimeError, match="here"), activation_checkpointing(model, lambda: branched_attention(model, None)):
        raise RuntimeError("here")
    assert not any(layer.training or layer.gradient_checkpointing for layer in checkpointed_layers(model))


def test_a_model_without_such_layers_is_refused():
    policy = policy_of("llama")
    policy.model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match="cannot checkpoint the layers of LlamaForCausalLM; lower micro_batch"):
        policy.checkpoint_activations()
