import copy

import numpy as np
import pytest
import torch

from rlx.data.layout import plain_rows, shared_prefix_rows
from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError, DataError
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.task.base import Pair
from tests.policy.models import model_of, naive_logprobs, policy_of, sequences_of, tokenizer

SHARING = ("llama", "qwen2", "gpt2", "opt", "gemma2_full")


def gradients(policy, loss):
    policy.model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in policy.parameters()])


@pytest.mark.parametrize("architecture", SHARING)
@pytest.mark.parametrize("num_tokens", [99, 3])
def test_shared_prefix_rows_equal_one_forward_per_sequence(architecture, num_tokens):
    policy = policy_of(architecture)
    assert policy.shared_prefix
    assert policy.forward_choice.gathers_before_head
    assert not policy.notes
    sequences = sequences_of(num_tokens=num_tokens)
    expected = naive_logprobs(policy.model, sequences)
    for rows_of in (None, np.array([0, 1, 0, 1, 0]), np.zeros(5, dtype=np.int64)):
        policy.layout = lambda s, r=rows_of: shared_prefix_rows(s, rows_of=r)
        torch.testing.assert_close(policy.token_logprobs(sequences), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", [*SHARING, "mistral_window", "bloom", "mamba"])
def test_log_probabilities_are_those_of_the_model(architecture):
    policy = policy_of(architecture)
    sequences = sequences_of(seed=1)
    torch.testing.assert_close(policy.token_logprobs(sequences), naive_logprobs(policy.model, sequences), atol=1e-5, rtol=0)


def test_shared_prefix_rows_give_the_gradient_of_plain_rows():
    policy = policy_of("llama", dtype=torch.float64)
    sequences = sequences_of(num_tokens=3)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=sequences.completion_mask.shape))
    found = []
    for make in (plain_rows, shared_prefix_rows):
        policy.layout = make
        found.append(gradients(policy, (policy.token_logprobs(sequences) * weights).sum()))
    # Norms are in float32 inside of a float64 model, so the two agree to that and no further.
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_repeated_predictors_get_the_same_bits_each_time():
    policy = policy_of("llama")
    sequences = Sequences((np.arange(3),) * 4, ((np.arange(5), np.arange(5), np.arange(5)[::-1].copy()) * 4,) * 4)
    found = [gradients(policy, policy.token_logprobs(sequences).sum()) for _ in range(3)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_neither_order_nor_company_changes_a_row():
    policy = policy_of("llama", dtype=torch.float64)
    sequences = sequences_of(num_prompts=6)
    whole = policy.token_logprobs(sequences)
    order = [4, 2, 0, 5, 1, 3]
    permuted = Sequences(tuple(sequences.prompts[i] for i in order), tuple(sequences.completions[i] for i in order))
    torch.testing.assert_close(policy.token_logprobs(permuted), whole[order], atol=1e-6, rtol=0)
    pieces = torch.cat([policy.token_logprobs(sequences[slice(i, i + 1)]) for i in range(6)])
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=0)


def test_garbage_in_the_padding_changes_nothing():
    policy = policy_of("llama")
    sequences = sequences_of()
    for make in (plain_rows, shared_prefix_rows):
        layout = make(sequences)
        clean = policy.completion_logits(layout)
        rows = list(zip(sequences.prompts, sequences.completions, strict=True))
        lengths = np.array([len(p) + sum(max(len(c) - 1, 0) for c in g) for p, g in rows])
        if make is plain_rows:
            lengths = np.array([len(p) + max(len(c) - 1, 0) for p, g in rows for c in g])
        padding = torch.arange(layout.tokens.shape[1]) >= torch.from_numpy(lengths)[:, None]
        assert padding.any()
        layout.tokens[padding] = 77
        torch.testing.assert_close(policy.completion_logits(layout), clean, atol=1e-6, rtol=0)


def test_temperature_divides_the_logits():
    policy = policy_of("llama")
    sequences = sequences_of()
    layout = policy.layout(sequences)
    expected = torch.log_softmax(policy.completion_logits(layout) / 0.5, dim=-1).gather(-1, layout.targets[:, None])[:, 0]
    torch.testing.assert_close(policy.token_logprobs(sequences, temperature=0.5)[sequences.completion_mask], expected)
    with pytest.raises(ConfigError, match="positive"):
        policy.token_logprobs(sequences, temperature=0.0)


def test_log_probabilities_are_float32_or_the_models_float64():
    sequences = sequences_of()
    assert policy_of("llama", dtype=torch.bfloat16).token_logprobs(sequences).dtype == torch.float32
    assert policy_of("llama", dtype=torch.float64).token_logprobs(sequences).dtype == torch.float64


def test_empty_completions_have_no_log_probability_and_allow_backward():
    policy = policy_of("llama")
    nothing = np.zeros(0, dtype=np.int64)
    values = policy.token_logprobs(Sequences((np.array([1, 2]),), ((nothing, nothing),)))
    assert values.shape == (1, 2, 1)
    assert not values.any()
    values.sum().backward()
    assert policy.token_logprobs(Sequences((), ())).shape[0] == 0


def test_a_frozen_copy_shares_nothing_and_stays():
    policy = policy_of("llama")
    sequences = sequences_of()
    frozen = policy.frozen_copy()
    before = policy.token_logprobs(sequences).detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    assert torch.equal(frozen.token_logprobs(sequences), before)
    assert not torch.equal(policy.token_logprobs(sequences), before)
    assert not frozen.parameters()
    assert policy.parameters()


def test_pairs_are_tokenised_once():
    policy = policy_of("llama")
    pairs = [Pair("1+1=", "2", "3"), Pair("2+2=", "4", "5")]
    assert policy.pair_tokenizer(pairs) is policy.pair_tokenizer(pairs)
    assert policy.pair_tokenizer(tuple(pairs)) is policy.pair_tokenizer(pairs)
    assert policy.pair_tokenizer(pairs[:1]) is not policy.pair_tokenizer(pairs)


def test_pair_logprobs_are_the_token_logprobs_of_both_sides():
    policy = policy_of("llama")
    batch = PairBatch.of(policy.pair_tokenizer([Pair("1+1=", "2", "33"), Pair("12+2=", "14", "5")]), [0, 1])
    values, pairs = policy.token_logprobs(batch.sequences), policy.pair_logprobs(batch)
    assert torch.equal(pairs.chosen, values[:, 0])
    assert torch.equal(pairs.rejected, values[:, 1])
    assert pairs.chosen_length.tolist() == [2, 3]
    assert pairs.rejected_length.tolist() == [3, 2]


def test_what_a_loss_requires_comes_with_the_pairs():
    policy = policy_of("llama")
    source = policy.pair_tokenizer([Pair("1+1=", "2", "33", scores=(1.0, 0.0)), Pair("12+2=", "14", "5", scores=(3.0, 2.0))])
    batch = PairBatch.of(source, [0, 1])
    wanted = frozenset({"entropy", "sum_p_squared", "vocabulary_kl", "scores", "mismatched"})
    pairs = policy.pair_logprobs(batch, wanted, reference=Reference(policy))
    assert pairs.chosen_entropy.shape == pairs.chosen.shape == pairs.rejected_sum_p_squared.shape
    assert pairs.chosen_vocabulary_kl.abs().max() < 1e-5
    assert pairs.scores.tolist() == [[1.0, 0.0], [3.0, 2.0]]
    # The other pair's completions after this prompt, scored one by one.
    crossed = Sequences(batch.sequences.prompts, (batch.sequences.completions[1], batch.sequences.completions[0]))
    torch.testing.assert_close(pairs.mismatched, policy.token_logprobs(crossed).sum(-1).detach(), atol=1e-5, rtol=0)
    assert not pairs.mismatched.requires_grad
    assert policy.pair_logprobs(batch).scores is None


def test_tokens_that_the_model_does_not_know_are_refused():
    model = model_of("llama")
    grown = copy.deepcopy(tokenizer())
    grown.add_tokens(["<think>"])
    policy = Policy(model, grown, name="mixed")
    with pytest.raises(DataError, match="token 99, but the model knows only 99"):
        policy.pair_tokenizer([Pair("a", "<think>", "b")])
