"""A recorder with the least that a run must say about itself."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult

RESULT = AlgorithmResult("dpo", {"eval/score": 0.5, "eval/kl": math.inf}, 1.5, 50, {"steps": 100})
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


@pytest.fixture
def run(create: Callable[..., Recorder]) -> Path:
    """The directory of a run of two steps that is through."""
    recorder = create()
    recorder.log(0, {"eval/score": 0.25})
    recorder.log(1, {"train/loss": 0.7})
    recorder.log(2, {"train/loss": 0.6, "eval/score": 0.5})
    recorder.finish(RESULT)
    return recorder.directory
