"""A run that is there to be looked at: six steps of GRPO on a policy of a few thousand weights."""

from __future__ import annotations

import atexit
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from rlx.cli.main import main
from tests.training.conftest import SMALL

ALGORITHM = ["algorithm=custom_grpo", "algorithm.prompts_per_step=4", "algorithm.group_size=4", "seed=3"]


@functools.cache
def trained_run() -> Path:
    """Its directory; it is made once a process."""
    place = tempfile.TemporaryDirectory()
    atexit.register(place.cleanup)
    small = [word for word in SMALL if not word.startswith("algorithm.")]
    assert main(["train", *small, *ALGORITHM, "checkpoint.keep_last=2", f"output_dir={place.name}"]) == 0
    return next(path for path in (Path(place.name) / "train").iterdir() if path.name != "latest")


def last_evaluation(run: Path) -> dict[str, Any]:
    """The last line of its metrics, which ends with an evaluation."""
    line: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return line
