import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlx.seeding import Stream, uniforms


def test_an_address_gives_the_same_numbers_in_any_order():
    first = Stream(3).child("draw", 5)
    Stream(3).child("draw", 4).numpy().random(10)
    assert np.array_equal(first.numpy().random(4), Stream(3, ("draw", 5)).numpy().random(4))
    assert first.torch().initial_seed() == Stream(3).child("draw").child(5).torch().initial_seed()


def test_addresses_that_differ_have_different_keys():
    streams = [
        Stream(0),
        Stream(1),
        Stream(0, ("a",)),
        Stream(0, ("a", "b")),
        Stream(0, ("ab",)),
        Stream(0, (1,)),
        Stream(0, ("1",)),
    ]
    assert len({stream.key for stream in streams}) == len(streams)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(0, 10_000))
def test_a_uniform_depends_on_its_key_and_position_alone(keys, position):
    array = np.array(keys, dtype=np.uint64)
    whole = uniforms(array, position)
    alone = [uniforms(array[i : i + 1], position)[0] for i in range(len(keys))]
    assert whole.tolist() == alone
    assert ((whole >= 0) & (whole < 1)).all()


def test_uniforms_are_uniform_over_keys_and_positions():
    keys = np.array([Stream(0, (i,)).key for i in range(400)], dtype=np.uint64)
    table = np.stack([uniforms(keys, position) for position in range(100)])
    counts = np.histogram(table, bins=20, range=(0, 1))[0]
    expected = table.size / 20
    # chi-square with 19 degrees of freedom: 43.8 is exceeded once in a thousand
    assert ((counts - expected) ** 2 / expected).sum() < 43.8
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.02
