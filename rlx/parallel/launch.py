"""Starts the ranks of a run on this machine and waits for them. No rank outlives the others or this process.

Does not import torch. torchrun can be used instead, also over several machines. But torchrun sends SIGTERM to every rank as soon
as one ends and turns every exit code except 0 into 1; here a stopped run ends with 75 or 130, which sweeps and schedulers need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rlx.errors import ConfigError, ExitCode
from rlx.interrupt import handled

STORE, RECORD, PARENT = "RLX_STORE_SOCKET", "RLX_RECORD_PIPE", "RLX_PARENT"
STOPPED = (ExitCode.STOPPED, ExitCode.INTERRUPTED)
LINES = 20  # lines of a failed rank's output that are shown
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of the container
_POLL = 0.05  # seconds between two checks of the ranks
_TELL_SECONDS = 2.0  # after a rank was stopped, the others are, if they have not noticed


def ranks_of_environment(environment: Mapping[str, str] = os.environ) -> int:
    """The number of ranks that torchrun, or another launcher with its variables, has started; 1 without one."""
    named = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return int(environment["WORLD_SIZE"]) if all(environment.get(name) for name in named) else 1


@dataclass
class Rank:
    """A started process. log: its output; rank 0 writes to the output of this process instead."""

    number: int
    process: subprocess.Popen[bytes]
    log: IO[bytes] | None
    ended: float | None = None
    was_killed: bool = False

    @property
    def code(self) -> int | None:
        """The return code as in Popen: negative after a signal; None while the process runs."""
        return self.process.returncode

    def last_lines(self) -> str:
        """The last lines of its output."""
        if self.log is None:
            return ""
        self.log.seek(0)
        return "\n".join(self.log.read().decode(errors="replace").splitlines()[-LINES:])

    def how_it_ended(self) -> str:
        """How the process ended, in words."""
        if self.code is not None and self.code < 0:
            return f"was killed by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


@dataclass
class Outcome:
    """How the ranks ended. code: the exit code of the command. message: for stderr, if no rank has printed it.

    directory: of the record, once there is one.
    """

    code: int
    message: str = ""
    directory: Path | None = None

    def said(self) -> int:
        """Print the message to stderr and return the exit code."""
        if self.message:
            print(self.message, file=sys.stderr, flush=True)
        return self.code


@dataclass
class RankGroup:
    """The ranks of a run on this machine. grace: seconds that the others get to end by themselves after one has failed."""

    ranks: list[Rank]
    grace: float
    signals: list[int] = field(default_factory=list)

    def wait(self) -> None:
        """Wait until every rank has ended by itself, or was killed `grace` seconds after another one failed."""
        sent, has_told = 0, False
        while running := self._running():
            for number in self.signals[sent:]:
                self._send(number, running)
            sent = len(self.signals)
            alone = None if has_told else self._alone()
            if alone is not None:
                self._send(alone, running)
                has_told = True
            failed = [rank.ended for rank in self.ranks if rank.ended is not None and rank.code]
            if failed and time.monotonic() - min(failed) > self.grace:
                for rank in running:
                    rank.was_killed = True
                    rank.process.kill()
            time.sleep(_POLL)

    def _running(self) -> list[Rank]:
        for rank in self.ranks:
            if rank.ended is None and rank.process.poll() is not None:
                rank.ended = time.monotonic()
        return [rank for rank in self.ranks if rank.ended is None]

    def _alone(self) -> int | None:
        """The signal that stopped a rank before it could tell the others."""
        now = time.monotonic()
        codes = [rank.code for rank in self.ranks if rank.ended is not None and now - rank.ended > _TELL_SECONDS]
        return next(
            (signal.SIGINT if code == ExitCode.INTERRUPTED else signal.SIGTERM for code in codes if code in STOPPED), None
        )

    @staticmethod
    def _send(number: int, ranks: Sequence[Rank]) -> None:
        for rank in ranks:
            if rank.process.poll() is None:
                rank.process.send_signal(number)

    def outcome(self) -> tuple[int, str]:
        """The exit code of all ranks, and a message for stderr about a failure that rank 0 has not reported."""
        codes = [rank.code or 0 for rank in self.ranks]
        if len(set(codes)) == 1 and codes[0] >= 0:
            return codes[0], ""
        stopped = [code for code in codes if code in STOPPED]
        others = [rank for rank in self.ranks if rank.code and rank.code not in STOPPED and not rank.was_killed]
        hung = [rank for rank in self.ranks if rank.was_killed]
        if stopped and not others:
            return stopped[0], ""
        guilty = [rank for rank in others if (rank.code or 0) < 0] or hung or sorted(others, key=lambda rank: rank.ended or 0)[:1]
        said = []
        for rank in guilty:
            how = "hung and was killed" if rank.was_killed else rank.how_it_ended()
            lines = rank.last_lines()
            said.append(f"rlx: rank {rank.number} {how}" + (f"; its last lines:\n{lines}" if lines else ""))
        code = next((rank.code for rank in guilty if rank.code is not None and rank.code > 0), 1)
        return code, "\n".join(said)

    def end(self) -> None:
        """Kill the ranks that still run, and close the logs."""
        for rank in self.ranks:
            if rank.process.poll() is None:
                rank.process.kill()
                rank.process.wait()
            if rank.log is not None:
                rank.log.close()


def num_cores() -> int:
    """The number of cores that this process may use: the smaller of its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()[:2]
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def require_few_processes(key: str, wanted: int) -> None:
    """Raises ConfigError if a key asks for far more parallel processes than this machine has cores."""
    cores = os.cpu_count() or 1
    if wanted > (most := max(32, 8 * cores)):
        raise ConfigError(
            f"{key}={wanted}: as many processes would start at once, and this machine has {cores} cores; at most {most}"
        )


def launch(arguments: Sequence[str], *, ranks: int, timeout: float, threads: int | None, module: str = "rlx") -> Outcome:
    """Run `python -m MODULE ARGUMENTS` as `ranks` processes on this machine.

    timeout: seconds that ranks wait for each other. threads: CPU threads of each rank, unless OMP_NUM_THREADS is set; None: an
    equal share of the cores. Raises ConfigError for far more ranks than this machine has cores.
    """
    threads = threads or max(1, num_cores() // ranks)
    require_few_processes("ranks", ranks)
    listening = _listening()
    reading, writing = os.pipe()
    group = RankGroup([], grace=min(10.0, 0.1 * timeout))
    try:
        with handled(lambda caught, _: group.signals.append(caught)):
            for number in range(ranks):
                if group.signals and group.ranks:  # asked to stop meanwhile
                    break
                variables = _variables(number, ranks, listening, threads)
                files = []
                if number == 0:
                    variables |= {STORE: str(listening.fileno()), RECORD: str(writing)}
                    files = [listening.fileno(), writing]
                group.ranks.append(_started(number, [module, *arguments], variables, files))
            listening.close()
            os.close(writing)
            group.wait()
        with os.fdopen(reading, "rb") as pipe:
            place = pipe.read().decode()
        code, message = group.outcome()
        return Outcome(code, message, Path(place) if place else None)
    finally:
        group.end()


def _listening() -> socket.socket:
    """A listening socket that rank 0 takes over, so that no other process can take its port in the meantime."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


def _variables(number: int, ranks: int, listening: socket.socket, threads: int) -> dict[str, str]:
    variables = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": listening.getsockname()[1],
        PARENT: os.getpid(),
    }
    defaults = {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
    if sys.platform != "linux":
        del defaults["GLOO_SOCKET_IFNAME"]
    return {**defaults, **os.environ, **{name: str(value) for name, value in variables.items()}}


def _started(number: int, command: Sequence[str], variables: Mapping[str, str], files: Sequence[int]) -> Rank:
    """Start a rank in its own session, so that a Ctrl-C of the terminal reaches it only once, through this process."""
    log = None if number == 0 else tempfile.TemporaryFile()  # noqa: SIM115 (it has no name, so that nothing stays behind)
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        env=dict(variables),
        pass_fds=tuple(files),
        start_new_session=True,
    )
    return Rank(number, process, log)


def tell_record(directory: os.PathLike[str]) -> None:
    """Report the record's directory to the process that started the ranks."""
    number = os.environ.pop(RECORD, None)
    if number is not None:
        with contextlib.suppress(OSError), os.fdopen(int(number), "w") as pipe:
            pipe.write(os.fspath(directory))
