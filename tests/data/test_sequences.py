import numpy as np
import pytest
import torch

from rlx.data.preferences import PairBatch, TokenizedPairs
from rlx.data.sequences import Sequences
from rlx.errors import ShapeError
from rlx.policy.reference import Reference
from rlx.policy.tiny import build_tiny


def tokens(*numbers):
    return np.array(numbers, dtype=np.int64)


def test_masks_and_tokens_come_from_lengths_alone():
    sequences = Sequences((tokens(5), tokens(6, 7)), ((tokens(1, 2), tokens()), (tokens(0), tokens(3, 0, 0))))
    assert sequences.completion_mask.tolist() == [[[True, True, False], [False] * 3], [[True, False, False], [True] * 3]]
    assert sequences.completion_tokens.tolist() == [[[1, 2, 0], [0, 0, 0]], [[0, 0, 0], [3, 0, 0]]]
    assert sequences.completion_lengths.tolist() == [[2, 0], [1, 3]]
    assert sequences.num_tokens == 9


def test_tensors_of_the_whole_fit_its_slices():
    sequences = Sequences((tokens(5), tokens(6)), ((tokens(1),), (tokens(1, 2, 3),)))
    values = torch.arange(6.0).reshape(2, 1, 3)
    first = sequences[:1]
    assert first.completion_mask.shape == (1, 1, 3)
    assert values[:1][first.completion_mask].tolist() == [0.0]


def test_a_batch_without_completion_tokens_has_a_width():
    assert Sequences((tokens(5),), ((tokens(),),)).completion_mask.shape == (1, 1, 1)
    assert Sequences((), ()).completion_mask.shape == (0, 0, 1)


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        ((tokens(1),), (), "one group per prompt"),
        ((tokens(1), tokens(2)), ((tokens(1),), (tokens(1), tokens(2))), "same number"),
        ((tokens(),), ((tokens(1),),), "begin it with bos"),
    ],
)
def test_what_does_not_fit_is_refused(prompts, completions, message):
    with pytest.raises(ShapeError, match=message):
        Sequences(prompts, completions)


def with_a_turn_of_others():
    """A pair whose chosen completion has two tokens that others wrote."""
    completions = ((np.array([5, 6, 7, 8, 2]), np.array([5, 9, 2])),)
    learned = ((np.array([True, False, False, True, True]), np.ones(3, dtype=bool)),)
    return Sequences((np.array([3, 4]),), completions, learned=learned)


def test_tokens_that_others_wrote_are_tokens_but_not_learned():
    sequences = with_a_turn_of_others()
    assert sequences.completion_lengths.tolist() == [[5, 3]]
    assert sequences.learned_lengths.tolist() == sequences.completion_mask.sum(dim=-1).tolist() == [[3, 3]]
    assert sequences.token_mask.sum(dim=-1).tolist() == [[5, 3]]
    assert sequences.completion_mask[0, 0].tolist() == [True, False, False, True, True]
    assert sequences.completion_tokens[0, 0].tolist() == [5, 6, 7, 8, 2]
    assert sequences.row_tokens == [10]
    assert sequences.only(slice(1, 2)).learned_tokens is None  # all of them are learned
    assert sequences[0:1].completion_mask.equal(sequences.take([0]).completion_mask)
    with pytest.raises(ShapeError, match="learned has other lengths"):
        Sequences((np.array([3]),), ((np.array([1, 2]),),), learned=((np.array([True]),),))


@pytest.mark.parametrize("shared_prefix", [False, True])
def test_what_is_not_learned_is_context_for_what_follows(shared_prefix):
    policy = build_tiny() if shared_prefix else build_tiny().with_plain_rows()
    assert policy.shared_prefix is shared_prefix
    sequences = with_a_turn_of_others()
    all_learned = Sequences(sequences.prompts, sequences.completions)
    masked, whole = policy.token_logprobs(sequences), policy.token_logprobs(all_learned)
    assert torch.allclose(masked, whole * sequences.completion_mask, atol=1e-5)
    assert (masked[0, 0, 1:3] == 0).all()
    assert (whole[0, 0, 1:3] != 0).all()


def test_the_reference_keeps_log_probabilities_of_learned_tokens_alone(tmp_path):
    policy = build_tiny()
    one = with_a_turn_of_others()
    both = Sequences(
        one.prompts * 2, (one.completions[0], one.completions[0][::-1]), learned=(one.learned[0], one.learned[0][::-1])
    )
    source = TokenizedPairs(both, np.arange(2), recurs=True)
    batch = PairBatch.of(source, [1, 0])
    for _ in range(2):  # computed, then read again
        reference = Reference(policy, cache_dir=tmp_path)
        kept = reference.pair_logprobs(batch)
        ours = policy.pair_logprobs(batch)
        assert torch.allclose(kept.chosen, ours.chosen, atol=1e-5)
        assert torch.allclose(kept.rejected, ours.rejected, atol=1e-5)
        assert kept.chosen_length.tolist() == [3.0, 3.0]
    assert reference.pairs_read == 2
