import contextlib
import logging

import numpy as np
import pytest
import torch

from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.policy import reference as module
from rlx.policy.reference import Reference, pairs_per_block, vocabulary_kl
from rlx.task.base import Pair
from tests.policy.models import policy_of, sequences_of

PAIRS = [Pair(f"{a}+{b}=", f"{a + b}", f"{a + b + 1}") for a in range(9) for b in range(7)]


@pytest.fixture
def policy(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PAIRS", 8)
    return policy_of("llama")


def batches(policy):
    source = policy.pair_tokenizer(PAIRS)
    return [PairBatch.of(source, rows) for rows in ([3, 50, 4, 4], np.arange(63), [62])]


def files(cache):
    return sorted(cache.glob("reference/*/*.safetensors"))


def test_log_probabilities_are_the_policys_without_a_gradient(policy, tmp_path):
    reference = Reference(policy, cache_dir=tmp_path)
    for batch in batches(policy):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        torch.testing.assert_close(ours.chosen, theirs.chosen, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.rejected, theirs.rejected, atol=1e-5, rtol=0)
        assert torch.equal(ours.rejected_mask, theirs.rejected_mask)
        assert not theirs.chosen.requires_grad


def test_it_stays_when_the_policy_moves_even_if_nothing_was_asked_before(policy):
    reference = Reference(policy)
    batch = batches(policy)[0]
    before = policy.pair_logprobs(batch).chosen.detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    torch.testing.assert_close(reference.pair_logprobs(batch).chosen, before, atol=1e-5, rtol=0)
    assert not torch.allclose(policy.pair_logprobs(batch).chosen, before, atol=1e-3)


def test_values_are_the_same_bits_whatever_run_and_batch_needed_them_first(policy, tmp_path):
    first, whole, last = batches(policy)
    memory = Reference(policy)
    expected = memory.pair_logprobs(whole)
    other_order = Reference(policy, cache_dir=tmp_path)
    other_order.pair_logprobs(last)
    other_order.pair_logprobs(first)
    read = Reference(policy, cache_dir=tmp_path)
    for reference in (other_order, read):
        found = reference.pair_logprobs(whole)
        assert torch.equal(found.chosen, expected.chosen)
        assert torch.equal(found.rejected, expected.rejected)


def test_a_second_run_computes_a_sample_only(policy, tmp_path):
    whole = batches(policy)[1]
    first = Reference(policy, cache_dir=tmp_path)
    first.pair_logprobs(whole)
    assert (first.pairs_computed, first.pairs_read) == (63, 0)
    assert len(files(tmp_path)) == 8
    second = Reference(policy, cache_dir=tmp_path)
    second.pair_logprobs(whole)
    second.pair_logprobs(whole)
    assert (second.pairs_computed, second.pairs_read) == (8, 63)


def test_a_block_that_another_run_is_computing_is_read_when_it_is_done(policy, tmp_path, monkeypatch):
    whole = batches(policy)[1]
    expected = Reference(policy).pair_logprobs(whole)
    Reference(policy, cache_dir=tmp_path).pair_logprobs(whole)
    left_out, order = files(tmp_path)[3], []
    content = left_out.read_bytes()
    left_out.unlink()

    @contextlib.contextmanager
    def held_by_another(store, block, *, wait):
        order.append(wait)
        if wait:  # it was written while this run waited
            left_out.write_bytes(content)
        yield wait

    monkeypatch.setattr("rlx.policy.reference.ReferenceStore.claim", held_by_another)
    reference = Reference(policy, cache_dir=tmp_path)
    assert torch.equal(reference.pair_logprobs(whole).chosen, expected.chosen)
    assert order == [False, True]
    assert (reference.pairs_computed, reference.pairs_read) == (8, 63)  # 8: the sample


def test_only_the_blocks_that_a_batch_needs_are_computed(policy):
    reference = Reference(policy)
    reference.pair_logprobs(PairBatch.of(policy.pair_tokenizer(PAIRS), [0, 9, 10]))
    assert reference.pairs_computed == 16


def test_other_weights_or_other_pairs_are_other_files(policy, tmp_path):
    Reference(policy, cache_dir=tmp_path).pair_logprobs(batches(policy)[1])
    with torch.no_grad():
        policy.parameters()[0].add_(1e-3)
    moved = Reference(policy, cache_dir=tmp_path)
    moved.pair_logprobs(batches(policy)[1])
    assert moved.pairs_read == 0
    longer = policy.pair_tokenizer([*PAIRS, Pair("9+9=", "18", "19")])
    again = Reference(policy, cache_dir=tmp_path)
    again.pair_logprobs(PairBatch.of(longer, np.arange(64)))
    assert again.pairs_read == 56  # the last block has another content


def test_a_stored_value_that_is_not_the_policys_is_found_and_replaced(policy, tmp_path, monkeypatch, caplog):
    whole = batches(policy)[1]
    expected = Reference(policy).pair_logprobs(whole).chosen
    with monkeypatch.context() as patch:  # a run whose values are wrong, though its files are whole
        patch.setattr(Reference, "_compute", lambda self, block: torch.full((int(block.completion_lengths.sum()),), -9.0))
        Reference(policy, cache_dir=tmp_path).pair_logprobs(whole)
    with caplog.at_level(logging.WARNING, logger="rlx"):
        found = Reference(policy, cache_dir=tmp_path)
        assert torch.equal(found.pair_logprobs(whole).chosen, expected)
    assert "belong to another policy" in caplog.text
    assert found.pairs_read == 0
    healed = Reference(policy, cache_dir=tmp_path)
    assert torch.equal(healed.pair_logprobs(whole).chosen, expected)
    assert healed.pairs_read == 63


def test_pairs_that_do_not_come_again_are_not_kept(policy, tmp_path):
    sequences = sequences_of(group_size=2, num_prompts=4)
    batch = PairBatch.of(TokenizedPairs(sequences, np.arange(4)), np.arange(4))
    found = Reference(policy, cache_dir=tmp_path).pair_logprobs(batch)
    torch.testing.assert_close(found.chosen, policy.pair_logprobs(batch).chosen, atol=1e-5, rtol=0)
    assert not files(tmp_path)


def test_blocks_are_small_where_a_forward_is_long(policy):
    short = policy.pair_tokenizer(PAIRS)
    long = policy.pair_tokenizer([Pair("1" * 40, "2" * 400, "3" * 400)] * 4)
    policy.model.big = torch.nn.Linear(10000, 100)
    assert pairs_per_block(policy, short) == 8
    assert pairs_per_block(policy, long) == 1


def test_a_reference_has_mismatched_completions_and_its_own_statistics(policy):
    reference = Reference(policy)
    batch = batches(policy)[0]
    found = reference.pair_logprobs(batch, frozenset({"mismatched", "vocabulary_kl"}))
    torch.testing.assert_close(found.mismatched, policy.pair_logprobs(batch, frozenset({"mismatched"})).mismatched)
    entropy = reference.token_statistics(batch.sequences, requires=frozenset({"entropy"})).entropy
    assert not entropy.requires_grad


def test_kl_over_the_vocabulary_is_exact_and_its_pieces_do_not_show(policy, monkeypatch):
    reference = Reference(policy)
    with torch.no_grad():
        policy.parameters()[0].mul_(1.5)
    sequences = sequences_of()
    kl, entropy = vocabulary_kl(policy, reference, sequences)
    wanted = frozenset({"kl_to_reference", "entropy"})
    expected = policy.token_statistics(sequences, requires=wanted, reference=reference)
    torch.testing.assert_close(kl, expected.kl_to_reference.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, expected.entropy.detach(), atol=1e-5, rtol=1e-5)
    assert kl[sequences.completion_mask].min() > 0
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 99 * 8)
    in_pieces = vocabulary_kl(policy, reference, sequences)
    torch.testing.assert_close(in_pieces[0], kl, atol=1e-5, rtol=1e-5)
    assert not vocabulary_kl(policy, policy, sequences)[0].abs().max() > 1e-6
    assert vocabulary_kl(policy, reference, Sequences((), ()))[0].shape[0] == 0


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [([3, 3, 3], 6, [(0, 2), (2, 3)]), ([9, 1, 1], 5, [(0, 1), (1, 3)]), ([], 5, []), ([0, 0], 5, [(0, 2)])],
)
def test_pieces_hold_what_fits(sizes, most, expected):
    assert [(piece.start, piece.stop) for piece in module._pieces(sizes, most)] == expected


def test_a_reference_that_follows_the_policy_is_the_mixture_and_comes_back_from_a_checkpoint(policy, tmp_path):
    reference, batch = Reference(policy, cache_dir=tmp_path), batches(policy)[0]
    assert reference.state_dict() is None
    start = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    before = reference.pair_logprobs(batch).chosen
    kept = files(tmp_path)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    reference.follow(policy, lambda mine, theirs: mine.lerp(theirs, 0.5))
    for name, weight in reference.model.named_parameters():
        torch.testing.assert_close(weight, start[name] + 0.025)
    moved = reference.pair_logprobs(batch).chosen
    assert not torch.allclose(moved, before, atol=1e-3)
    assert files(tmp_path) == kept  # the store is the start's
    other = Reference(policy)
    other.load_state_dict(reference.state_dict())
    assert torch.equal(other.pair_logprobs(batch).chosen, moved)
    reference.follow(policy, lambda mine, theirs: theirs)
    torch.testing.assert_close(
        reference.pair_logprobs(batch).chosen, policy.pair_logprobs(batch).chosen.detach(), atol=1e-5, rtol=0
    )
