from threading import Thread

import pytest
import torch

from rlx.data.layout import plain_rows, shared_prefix_rows
from rlx.errors import ConfigError
from rlx.policy.branched import branched_attention
from rlx.policy.checkpointing import activation_checkpointing, checkpointed_layers
from tests.policy.models import model_of, policy_of, sequences_of

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
