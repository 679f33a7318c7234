import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.data.layout import balanced, cheapest_rows, plain_rows, shared_beginnings, shared_prefix_rows
from rlx.data.sequences import Sequences


@st.composite
def sequences(draw, most_tokens=4):
    group_size = draw(st.integers(1, 3))
    some = st.lists(st.integers(1, 2), max_size=most_tokens)

    def array(values):
        return np.array(values, dtype=np.int64)

    prompts = draw(st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=most_tokens), min_size=1, max_size=5))
    groups = [tuple(array(draw(some)) for _ in range(group_size)) for _ in prompts]
    if not any(len(completion) for group in groups for completion in group):
        groups[0] = (array([1]), *groups[0][1:])
    return Sequences(tuple(map(array, prompts)), tuple(groups))


def histories(rows):
    """What each predictor sees, in the order of positions."""
    width = rows.tokens.shape[1]
    seen = []
    for predictor in rows.predictors.tolist():
        row, column = divmod(predictor, width)
        if rows.attention_mask is None:
            visible = torch.arange(width) <= column
            positions = torch.arange(width)
        else:
            visible, positions = rows.attention_mask[row, 0, column], rows.positions[row]
        order = positions[visible].argsort()
        assert sorted(positions[visible].tolist()) == list(range(int(visible.sum())))
        seen.append(rows.tokens[row][visible][order].tolist())
    return seen


def expected_histories(batch):
    groups = zip(batch.prompts, batch.completions, strict=True)
    return [[*prompt, *completion[:t]] for prompt, group in groups for completion in group for t in range(len(completion))]


@given(sequences(), st.integers(0, 3))
@settings(deadline=None, max_examples=200)
def test_each_token_is_predicted_from_its_prompt_and_what_precedes_it(batch, num_rows):
    layouts = [plain_rows(batch), shared_prefix_rows(batch), cheapest_rows(batch, attention_cost=0.0)]
    if num_rows:
        layouts.append(shared_prefix_rows(batch, rows_of=balanced(np.ones(len(batch)), min(num_rows, len(batch)))))
    for rows in layouts:
        assert histories(rows) == expected_histories(batch)
        assert rows.targets.tolist() == batch.completion_tokens[batch.completion_mask].tolist()


@given(sequences())
@settings(deadline=None, max_examples=50)
def test_every_query_sees_something_and_none_sees_the_future(batch):
    mask = shared_prefix_rows(batch, rows_of=np.zeros(len(batch), dtype=np.int64)).attention_mask
    padded = shared_prefix_rows(batch).attention_mask
    for each in (mask, padded):
        assert each.any(dim=-1).all()
        assert not each.triu(1).any()


def test_what_all_completions_begin_with_is_computed_once():
    batch = Sequences((np.array([9]),), ((np.array([1, 2, 3, 6]), np.array([1, 2, 4, 5, 7])),))
    assert shared_beginnings(batch).tolist() == [2]
    assert shared_prefix_rows(batch).tokens.tolist() == [[9, 1, 2, 3, 4, 5]]
    assert shared_prefix_rows(batch).positions.tolist() == [[0, 1, 2, 3, 3, 4]]


def test_the_last_token_of_a_completion_is_not_read():
    prompts = (np.array([9]), np.array([8, 8]))
    batch = Sequences(prompts, ((np.array([1, 2]), np.array([3])), (np.array([4, 5, 6]), np.array([], dtype=np.int64))))
    assert plain_rows(batch).tokens.tolist() == [[9, 1, 0, 0], [9, 0, 0, 0], [8, 8, 4, 5], [8, 8, 0, 0]]
    assert shared_prefix_rows(batch).tokens.tolist() == [[9, 1, 0, 0], [8, 8, 4, 5]]
