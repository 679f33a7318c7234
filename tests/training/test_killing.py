"""Runs and sweeps ended at random moments go on and end as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")
RUNS, SWEEPS = os.environ.get("RLX_TEST_KILLS", "7 1").split()  # "100 10" for an afternoon


@pytest.mark.slow
def test_runs_and_sweeps_survive_kills_at_random_moments(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), RUNS, SWEEPS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.stdout.strip(), done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"] == []
    assert sum(found["signals"].values()) >= int(RUNS) + int(SWEEPS)
