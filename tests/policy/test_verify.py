import copy

import pytest
import torch

from rlx.errors import ConfigError
from rlx.policy.base import Policy
from tests.policy.models import model_of, naive_logprobs, policy_of, sequences_of, tokenizer


@pytest.mark.parametrize(
    ("architecture", "reason"), [("mistral_window", "differ by"), ("bloom", "refuses"), ("mamba", "refuses")]
)
def test_a_model_that_fails_with_shared_rows_gets_plain_ones_and_it_is_said(architecture, reason):
    policy = policy_of(architecture)
    assert not policy.shared_prefix
    assert len(policy.notes) == 1
    assert "own copy of the prompt" in policy.notes[0]
    assert reason in policy.notes[0]


def test_a_window_longer_than_the_short_probe_is_found():
    model = model_of("mistral_window")
    model.config.sliding_window = 40
    assert not Policy(model, tokenizer(), name="window").shared_prefix


def test_nearly_uniform_predictions_hide_no_difference():
    model = model_of("mistral_window")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-6)
    policy = Policy(model, tokenizer(), name="young")
    assert not policy.shared_prefix


def test_plain_rows_can_be_asked_for():
    policy = policy_of("llama", shared_prefix=False)
    assert not policy.shared_prefix
    assert not policy.notes


def test_a_head_that_needs_all_positions_gets_them_and_it_is_said():
    model = model_of("llama")
    head = model.get_output_embeddings()
    # Logits that depend on the neighbouring positions, as no gathered rows can reproduce.
    head.register_forward_hook(lambda module, inputs, output: output + output.cumsum(dim=1))
    policy = Policy(model, tokenizer(), name="odd")
    assert not policy.forward_choice.gathers_before_head
    assert "every position" in policy.notes[0]
    sequences = sequences_of(group_size=1)
    torch.testing.assert_close(policy.token_logprobs(sequences), naive_logprobs(model, sequences), atol=1e-4, rtol=0)


def test_a_model_that_sees_what_it_predicts_is_refused():
    with pytest.raises(ConfigError, match="not a causal language model"):
        policy_of("bert")


def test_damaged_weights_are_found_when_they_are_loaded():
    model = model_of("llama")
    with torch.no_grad():
        next(model.parameters())[5, 0] = float("nan")
        model.get_output_embeddings().weight[7, 0] = float("inf")
    with pytest.raises(ConfigError, match="its weights are damaged"):
        Policy(model, tokenizer(), name="damaged")


def test_half_precision_is_compared_in_float32_and_kept():
    model = model_of("llama", dtype=torch.bfloat16)
    weights = copy.deepcopy(model.state_dict())
    policy = Policy(model, tokenizer(), name="half")
    assert policy.shared_prefix
    assert policy.dtype == torch.bfloat16
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
