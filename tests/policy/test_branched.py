"""Attention branch by branch gives what one forward a sequence gives, where the model can do so."""

import numpy as np
import pytest
import torch

from rlx.data.layout import plain_rows, shared_prefix_rows
from rlx.policy.branched import NAME, attend, branched_attention
from tests.policy.models import naive_logprobs, policy_of, sequences_of


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
