import numpy as np
import pytest
import torch

from rlx.data.sequences import Sequences
from rlx.errors import ShapeError


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
        ((tokens(1),), (), "one group a prompt"),
        ((tokens(1), tokens(2)), ((tokens(1),), (tokens(1), tokens(2))), "same number"),
        ((tokens(),), ((tokens(1),),), "begin it with bos"),
    ],
)
def test_what_does_not_fit_is_refused(prompts, completions, message):
    with pytest.raises(ShapeError, match=message):
        Sequences(prompts, completions)
