"""Two sides that take turns: each trains in a process of its own and waits at the end of a round until it is told to go on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlx.training.summary import peak_memory


class Gate:
    """The worker's end: says what a round took, then waits. What libraries print goes to stderr meanwhile."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._began = self._began_cpu = 0.0

    def wait(self) -> None:
        """Stop until the other end says go; the clock runs from then on."""
        if not sys.stdin.readline():
            os._exit(0)  # the other end is gone, or has seen enough
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def report(self, **figures: float) -> None:
        """What this round took, and the most memory that the process has held so far."""
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._began_cpu
        peak = peak_memory()
        self._out.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak": peak, **figures}) + "\n")


class Worker:
    """The other end: a process that makes one round whenever it is asked."""

    def __init__(self, side: str, place: Path, *, threads: int, log: Path) -> None:
        self.side = side
        self._log = log
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment["HF_HOME"] = str(place / "huggingface")
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.peers.side", side, str(place)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    def round(self) -> Mapping[str, Any]:
        """Let it make a round; returns what it reports."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"{self.side} ended with {self._process.wait()}; the last it said, in {self._log}:\n{self._tail()}")
        found: Mapping[str, Any] = json.loads(line)
        return found

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
