"""A recorder with the least that a run must say about itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlx.record.recorder import Recorder

FACTS: dict[str, Any] = {
    "verb": "train",
    "command": ["rlx", "train", "loss.beta=0.2"],
    "config": {"seed": 3, "algorithm": {"_target_": "rlx.algorithm.dpo.Dpo"}, "loss": {"beta": 0.2}},
    "config_yaml": "seed: 3\nloss:\n  beta: 0.2\n",
    "overrides": ["seed=3", "loss.beta=0.2"],
    "algorithm": "dpo",
    "task": "arithmetic",
    "seed": 3,
    "provenance": {"rlx": {"version": "0"}},
}


@pytest.fixture
def create(tmp_path: Path) -> Callable[..., Recorder]:
    """Makes a recorder below the test's own directory; keywords replace the facts above."""

    def make(directory: Path | None = None, **changed: Any) -> Recorder:
        return Recorder.create(directory, **{"output_dir": tmp_path / "outputs", **FACTS, **changed})

    return make
