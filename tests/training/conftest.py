"""Runs of the command line, in this process, on a policy of a few thousand weights."""

import json
import shlex
from pathlib import Path

import pytest

from rlx.cli.main import main

SMALL = shlex.split(
    "policy=tiny_untrained policy.hidden_size=16 policy.intermediate_size=24 policy.num_layers=1 policy.num_heads=2 "
    "task.max_operand=20 algorithm.pairs_per_step=8 num_steps=6 eval_every=3 checkpoint.every=2 logger=[] threads=1 "
    "evaluation.num_prompts=8 evaluation.num_pairs=8 rollout.max_new_tokens=4"
)


@pytest.fixture
def rlx_run(tmp_path, monkeypatch, capfd):
    """Runs `rlx train` with small settings in a directory of its own; gives (exit code, run directory or None, output)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str, small: bool = True) -> tuple[int, Path | None, str]:
        code = main(["train", *(SMALL if small else ()), *arguments])
        printed = "".join(capfd.readouterr())
        runs = [path for path in (tmp_path / "outputs" / "train").glob("*") if path.name != "latest"]
        return code, max(runs, key=lambda path: path.stat().st_mtime_ns, default=None), printed

    return run


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def reproducible(run: Path) -> list[dict]:
    """What must be equal to the last bit in a run and its repetition."""
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in metrics(run)]


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())
