import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.rollout.decoding.loop import branch, distinct


def test_equal_prompts_are_met_once():
    prompts = [np.array([1, 2]), np.array([3]), np.array([1, 2]), np.array([1]), np.array([3])]
    first, numbers = distinct(prompts)
    assert first == [0, 1, 3]
    assert numbers.tolist() == [0, 1, 0, 2, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=30))
def test_each_completion_goes_on_from_its_row_with_its_token(said):
    rows, tokens = (np.array(column) for column in zip(*said, strict=True))
    parents, following, places = branch(rows, tokens)
    assert np.array_equal(parents[places], rows)
    assert np.array_equal(following[places], tokens)
    assert len(parents) == len(set(said))  # one row for all that said the same
    # no row is copied that could have stayed: each surviving row below the new size is in its place once
    assert all(parents[row] == row for row in set(rows.tolist()) if row < len(parents))
