import torch

from rlx.policy.forward import attention_cost, completion_logits
from tests.policy.models import model_of, policy_of, sequences_of


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
