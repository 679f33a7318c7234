from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlx.errors import ConfigError
from rlx.task.base import pass_at_k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_it_is_the_share_of_choices_of_k_with_a_right_one(case):
    n, right, k = case
    samples = [index < right for index in range(n)]
    choices = list(combinations(samples, k))
    assert pass_at_k(right, n, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("right", "n", "k"), [(1, 4, 5), (1, 4, 0), (5, 4, 1), (-1, 4, 1)])
def test_what_cannot_be_estimated_is_refused(right, n, k):
    with pytest.raises(ConfigError, match="cannot be estimated"):
        pass_at_k(right, n, k)
