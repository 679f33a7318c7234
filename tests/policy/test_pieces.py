import pytest
import torch

from rlx.policy import pieces
from rlx.policy.reference import Reference
from tests.policy.models import policy_of, sequences_of

STATISTICS = frozenset({"entropy", "sum_p_squared", "kl_to_reference", "kl_from_reference"})


def moved(policy):
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.02 * torch.sin(torch.arange(parameter.numel(), dtype=parameter.dtype)).reshape(parameter.shape))


def small(monkeypatch, rows, policy):
    """Pieces of so many rows, or of twice as many and 10 tokens of the vocabulary."""
    monkeypatch.setattr(pieces, "ELEMENTS", rows * policy.vocabulary_size)
    monkeypatch.setattr(pieces, "_ROWS", 2 * rows)
    monkeypatch.setattr(pieces, "CACHED", 1)
    monkeypatch.setattr(pieces, "_NARROWEST", 10)


def found(policy, sequences, *, requires, temperature, reference):
    statistics = policy.token_statistics(sequences, requires=requires, temperature=temperature, reference=reference)
    values = {name: value for name, value in vars(statistics).items() if value is not None}
    weights = torch.linspace(-1, 2, sequences.completion_mask.numel()).reshape(sequences.completion_mask.shape)
    loss = sum((weights * value).sum() for value in values.values())
    return values, torch.autograd.grad(loss, policy.parameters())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "opt"])
@pytest.mark.parametrize("requires", [frozenset(), {"entropy"}, STATISTICS], ids=["log-probability", "entropy", "all"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_pieces_equal_the_whole_forward_and_backward(architecture, requires, temperature, monkeypatch):
    policy = policy_of(architecture, dtype=torch.float64)
    reference = Reference(policy)
    moved(policy)
    sequences = sequences_of(num_prompts=4)
    settings = {"requires": requires, "temperature": temperature, "reference": reference if requires else None}
    whole, of_whole = found(policy, sequences, **settings)
    small(monkeypatch, 7, policy)
    assert policy.computes_in_pieces(policy.layout(sequences))
    parts, of_parts = found(policy, sequences, **settings)
    assert parts.keys() == whole.keys()
    for name, value in parts.items():
        torch.testing.assert_close(value, whole[name], atol=1e-9, rtol=1e-9)
    for one, other in zip(of_parts, of_whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_float32_agrees_to_a_millionth(monkeypatch):
    policy = policy_of("llama")
    sequences = sequences_of()
    settings = {"requires": frozenset(), "temperature": 1.0, "reference": None}
    whole, of_whole = found(policy, sequences, **settings)
    small(monkeypatch, 5, policy)
    parts, of_parts = found(policy, sequences, **settings)
    torch.testing.assert_close(parts["token_logprobs"], whole["token_logprobs"], atol=1e-5, rtol=1e-6)
    scale = max(float(value.abs().max()) for value in of_whole)
    assert max(float((a - b).abs().max()) for a, b in zip(of_parts, of_whole, strict=True)) < 1e-6 * scale


@pytest.mark.parametrize("used", ["token_logprobs", "entropy"])
def test_one_statistic_alone_is_learned_from(used, monkeypatch):
    policy = policy_of("llama", dtype=torch.float64)
    sequences = sequences_of(num_prompts=4)

    def gradients():
        statistics = policy.token_statistics(sequences, requires=frozenset({"entropy"}))
        return torch.autograd.grad(getattr(statistics, used).square().sum(), policy.parameters())

    whole = gradients()
    small(monkeypatch, 7, policy)
    torch.testing.assert_close(gradients(), whole, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_frozen_head_computes_its_logits_once(temperature, monkeypatch):
    policy = policy_of("llama", dtype=torch.float64)
    head = policy.model.get_output_embeddings().weight
    head.requires_grad_(False)
    sequences = sequences_of(num_prompts=4)
    weights = torch.linspace(-1, 2, sequences.completion_mask.numel()).reshape(sequences.completion_mask.shape)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    counted = []
    computed = pieces.HeadInput.logits
    monkeypatch.setattr(pieces.HeadInput, "logits", lambda *arguments: counted.append(arguments) or computed(*arguments))

    def gradients():
        logprobs = policy.token_statistics(sequences, temperature=temperature).token_logprobs
        return torch.autograd.grad((weights * logprobs).sum(), trained)

    whole = gradients()
    assert not counted
    small(monkeypatch, 7, policy)
    torch.testing.assert_close(gradients(), whole, atol=1e-9, rtol=1e-9)
    assert len(counted) == -(-int(sequences.completion_mask.sum()) // 14) * -(-policy.vocabulary_size // 10)


@pytest.mark.parametrize("name", ["entropy", "sum_p_squared"])
def test_no_tensor_is_as_large_as_the_logits_of_all_tokens(name, monkeypatch):
    policy = policy_of("llama")
    sequences = sequences_of(num_prompts=30, longest=30)
    num_tokens, vocabulary = int(sequences.completion_mask.sum()), policy.vocabulary_size
    small(monkeypatch, 16, policy)
    seen = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.extend(x.shape for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor))
            return out

    policy.layout(sequences)
    with Sizes():
        found(policy, sequences, requires=frozenset({name}), temperature=1.0, reference=None)
    wide = 10 if name == "entropy" else vocabulary
    of_logits = [shape for shape in seen if shape[-1:] == (wide,) and shape != (32, vocabulary)]  # nor the weight
    assert not [shape for shape in seen if shape[-1:] == (vocabulary,) and shape[0] > 32 and len(shape) == 2 and wide == 10]
    assert of_logits
    assert max(shape.numel() for shape in of_logits) <= 16 * vocabulary < num_tokens * vocabulary


def test_a_value_head_reads_the_same_hidden_states(monkeypatch):
    policy = policy_of("llama")
    policy.add_value_head()
    torch.nn.init.normal_(policy.value_head.linear.weight)
    sequences = sequences_of()
    whole = policy.token_statistics(sequences, requires=frozenset({"values"}))
    small(monkeypatch, 5, policy)
    parts = policy.token_statistics(sequences, requires=frozenset({"values"}))
    torch.testing.assert_close(parts.values, whole.values)
    assert torch.autograd.grad(parts.values.sum(), policy.value_head.parameters())[0].any()


def test_a_model_that_changes_its_logits_after_the_head_keeps_them_whole(monkeypatch):
    policy = policy_of("gemma2_full")
    monkeypatch.setattr(pieces, "ELEMENTS", 1)
    assert not policy.forward_choice.linear_head
    assert not policy.computes_in_pieces(policy.layout(sequences_of()))


def test_few_logits_are_computed_at_once():
    policy = policy_of("llama")
    assert policy.forward_choice.linear_head
    assert not policy.computes_in_pieces(policy.layout(sequences_of()))
