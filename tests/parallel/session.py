"""Runs of several numbers of ranks, one after another in the same processes, which are started once for many tests."""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.parallel.group import WORLD, environment, free_port

PATIENCE = 500  # seconds


@dataclass(frozen=True)
class Asked:
    """A command line `rlx train WORDS` with so many ranks."""

    ranks: int
    words: list[str]


@dataclass(frozen=True)
class Done:
    """The exit code, and what rank 0 wrote."""

    code: int
    said: str


def session(place: Path, asked: dict[str, Asked]) -> dict[str, Done]:
    """What became of each run; they are begun in the directory `place`."""
    file = place / "asked.json"
    ports = [free_port() for _ in asked]
    file.write_text(json.dumps([[port, asdict(one)] for port, one in zip(ports, asked.values(), strict=True)]))
    processes = []
    for rank in range(WORLD):
        variables = {**environment(rank, WORLD, 0), "RLX_CACHE": str(place / "cache")}
        command = [sys.executable, "-m", "tests.parallel.session", str(file)]
        with (place / f"rank_{rank}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=variables, cwd=place, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = "\n".join((place / f"rank_{rank}.log").read_text() for rank in range(WORLD))
    assert codes == [0] * WORLD, logs[-6000:]
    return {name: Done(*found) for name, found in zip(asked, json.loads((place / "done.json").read_text()), strict=True)}


def main(file: str) -> None:
    import torch.distributed as dist

    from rlx.cli.main import main as command_line
    from tests import composing

    composing.install()
    faulthandler.dump_traceback_later(0.8 * PATIENCE)
    rank, done = int(os.environ["RANK"]), []
    for number, (port, one) in enumerate(json.loads(Path(file).read_text())):
        if rank >= one["ranks"]:
            continue
        while rank > 0 and number > 0 and not Path(f"done_{number - 1}").exists():  # a run may go on with an earlier one
            time.sleep(0.05)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(one["ranks"]), "MASTER_PORT": str(port)}
        if one["ranks"] == 1:
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
                del os.environ[name]
        log = Path(f"said_{number}_{rank}.log")
        with log.open("wb") as out:
            before = os.dup(1), os.dup(2)
            os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
            code = command_line(["train", *one["words"]])
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(before[0], 1), os.dup2(before[1], 2)
        if dist.is_initialized():  # an error left it
            dist.destroy_process_group()
        done.append((code, log.read_text()))
        if rank == 0:
            Path(f"done_{number}").touch()
    if rank == 0:
        Path("done.json").write_text(json.dumps(done))
    sys.stdout.flush()
    os._exit(0)  # the threads of a group that an error left open would keep the interpreter from ending


if __name__ == "__main__":
    main(sys.argv[1])
