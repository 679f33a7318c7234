import numpy as np
import pytest
import torch

from rlx.data.preferences import PairBatch, epoch_rows
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.data.tokens import TextEncoder
from rlx.errors import DataError
from rlx.policy.tiny import character_tokenizer
from rlx.seeding import Stream
from rlx.task.base import Pair


def source_of(num_pairs=10, *, seed=0):
    draw = np.random.default_rng(seed)
    prompts = tuple(draw.integers(1, 50, draw.integers(1, 9)) for _ in range(num_pairs))
    groups = tuple(tuple(draw.integers(1, 50, draw.integers(1, 9)) for _ in range(2)) for _ in range(num_pairs))
    scores = torch.arange(2.0 * num_pairs).reshape(-1, 2)
    return TokenizedPairs(Sequences(prompts, groups), np.arange(num_pairs), scores=scores)


def test_rows_of_similar_lengths_lie_together_and_keep_their_columns():
    source = source_of()
    batch = PairBatch.of(source, [7, 2, 9, 4])
    lengths = source.lengths[batch.rows]
    assert lengths.tolist() == sorted(lengths)
    assert sorted(batch.rows) == [2, 4, 7, 9]
    assert batch.scores.tolist() == source.scores[torch.from_numpy(batch.rows)].tolist()
    assert all(batch.sequences.prompts[i] is source.sequences.prompts[row] for i, row in enumerate(batch.rows))


def test_a_slice_takes_weights_and_columns_along():
    batch = PairBatch.of(source_of(), range(6))
    mask = batch.chosen_mask
    weighted = batch.with_weights(preference=torch.arange(6.0), sft=mask / mask.sum())
    part = weighted[2:5]
    assert len(part) == 3
    assert part.weights["preference"].tolist() == [2, 3, 4]
    assert part.weights["sft"].shape == part.chosen_mask.shape
    assert torch.equal(part.scores, weighted.scores[2:5])
    assert part.rows.tolist() == weighted.rows[2:5].tolist()
    assert set(weighted.with_weights(other=mask).weights) == {"preference", "sft", "other"}
    assert not batch.weights


def test_mismatched_completions_depend_on_the_pair_not_on_the_batch():
    source = source_of()
    alone = PairBatch.of(source, [9]).mismatched
    together = PairBatch.of(source, [3, 9, 5])
    row = together.rows.tolist().index(9)
    assert alone.prompts[0] is together.mismatched.prompts[row] is source.sequences.prompts[9]
    assert alone.completions[0] is together.mismatched.completions[row] is source.sequences.completions[0]


def test_a_mismatched_completion_of_single_completions_is_the_one_that_is_there():
    pairs = [Pair("1+1=", "2", "", label=(True, None)), Pair("1+2=", "", "4", label=(None, False)), Pair("1+3=", "4", "5")]
    source = TokenizedPairs.of(pairs, TextEncoder(character_tokenizer()))
    batch = PairBatch.of(source, [0, 1, 2])
    found = {int(row): group for row, group in zip(batch.rows, batch.mismatched.completions, strict=True)}
    assert [len(group) for group in found.values()] == [1, 1, 1]
    assert found[0][0] is source.sequences.completions[1][1]
    assert found[1][0] is source.sequences.completions[2][0]


def test_rows_are_a_function_of_stream_and_step():
    def rows(stream, step):
        return epoch_rows(stream, num_rows=100, step=step, per_step=8).tolist()

    assert rows(Stream(0), 5) == rows(Stream(0), 5)
    assert rows(Stream(0), 5) != rows(Stream(1), 5) != rows(Stream(1), 6)
    assert rows(Stream(0), 0) != rows(Stream(0), 25 // 2)


def test_nothing_to_learn_from_is_said():
    with pytest.raises(DataError, match="dropped"):
        epoch_rows(Stream(0), num_rows=0, step=0, per_step=4)
