import numpy as np
import pytest

from rlx.rollout.draw import exchanged
from rlx.seeding import Stream


def test_none_changes_nothing():
    assert exchanged(400, 0.0, rng=Stream(0)) == list(range(400))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_the_completions_exchange_their_rewards(share):
    sources = np.array(exchanged(400, share, rng=Stream(0)))
    assert sorted(sources) == list(range(400))
    moved = (sources != np.arange(400)).mean()
    assert share - 0.03 <= moved <= share
    assert (sources // 8 == np.arange(400) // 8).mean() < 1 - share + 0.05  # they go to other groups too


def test_the_stream_decides_who_exchanges():
    first, again, other = (exchanged(400, 0.5, rng=Stream(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
