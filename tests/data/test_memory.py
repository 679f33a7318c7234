"""Foreign code may make this process grow by so much and no more."""

import pytest

from rlx.data.memory import bounded_memory


def test_what_asks_for_more_raises_and_what_asks_for_less_does_not():
    with pytest.raises(MemoryError), bounded_memory(2**26):
        bytes(2**28)
    with bounded_memory(2**28):
        assert len(bytes(2**26)) == 2**26
    assert len(bytes(2**28)) == 2**28  # afterwards there is no limit
