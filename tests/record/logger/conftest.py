"""A run that stops on the way, is resumed before its end, and ends; watched by one logger."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from rlx.record.logger.base import Logger
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult

HOSTILE = "a <b> [x](y)\n| `c` |\ud800\x1b[2J"
CONFIG = {
    "seed": 3,
    "task": {"_target_": "rlx.task.arithmetic.Arithmetic", "path": None, "text": HOSTILE, "digits": [1, 2], "noise": False},
    "loss": {"beta": 0.1, "bound": math.inf},
}


@pytest.fixture
def watched(create) -> Callable[[Callable[[], Logger]], Path]:
    """Logs steps 0-7, is interrupted, goes on from step 4 to 9. A logger that fails fails the test."""

    def fail(text: str) -> None:
        raise AssertionError(text)

    def steps(run: Recorder, first: int, last: int) -> None:
        for step in range(first, last + 1):
            run.log(step, {"train/loss": 1 / (step + 1), "train/odd name <é>": math.nan})
            if step % 2 == 0:
                run.log(step, {"eval/score": step / 10, "eval/kl": math.inf})
                run.samples(step, [{"prompt": HOSTILE, "completion": f"sample {step}", "reward": 1.0}])

    def run(make: Callable[[], Logger]) -> Path:
        first = create(config=CONFIG, overrides=[f"task.text={HOSTILE}"], loggers={"it": make()}, warn=fail)
        steps(first, 0, 7)
        first.interrupt()
        again = Recorder.reopen(first.directory, 4, loggers={"it": make()}, warn=fail)
        steps(again, 5, 9)
        again.finish(AlgorithmResult("dpo", {"eval/score": 0.8}, 1.0, 8, {}))
        return first.directory

    return run
