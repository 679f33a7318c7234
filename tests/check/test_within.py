"""Losses are found wherever an algorithm holds them."""

import rlx
from rlx.check.subject import losses_of


def test_losses_are_found_by_their_path():
    paths = [path for path, _ in losses_of(rlx.load("algorithm", "hybrid"))]
    assert paths
    assert all(path.startswith("algorithm.") for path in paths)
