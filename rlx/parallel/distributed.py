"""Several ranks of a run, which communicate by torch.distributed. All communication of a training is here."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlx.errors import ConfigError, ExitCode, RlxError, TrainingError
from rlx.parallel.launch import PARENT, STORE, ranks_of_environment
from rlx.parallel.ranks import Ranks
from rlx.record.directory import is_alive, this_process

T = TypeVar("T")
_BUCKET = 1 << 24  # elements that are summed at once: the extra memory of a sum
_ANSWER_SECONDS = 3.0
_DYING_SECONDS = 1.0
_LOST = ("Connection closed", "Connection reset", "Timed out", "timed out", "Broken pipe")  # in gloo's message
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class RankError(TrainingError):
    """A rank died, does not answer, or is at a different point of the program from the others."""


class DistributedRanks(Ranks):
    """This process among several. timeout: seconds that a rank waits for the others.

    Raises RankError if a rank died or does not answer in time.
    """

    def __init__(self, group: Any, store: Any, *, rank: int, world: int, timeout: float) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self.group, self._store = group, store
        self._count = 0
        self._shared: Exception | None = None  # the last error raised by all ranks
        self._processes: list[dict[str, Any]] = [this_process()]
        self._processes = self.exchange("the start", this_process)

    def end(self, error: BaseException | None) -> None:
        # If only this rank knows of the error, it leaves at once, and the others notice the lost connection.
        seen = error
        while seen is not None and seen is not self._shared and not hasattr(seen, "signal_name"):
            seen = seen.__cause__
        if error is None or seen is not None:
            with contextlib.suppress(RankError):
                self.exchange("the end", lambda: None)
                dist.destroy_process_group()

    def rows(self, row_tokens: Sequence[int], rank: int | None = None) -> slice:
        tokens = np.asarray(row_tokens, dtype=np.float64) + 1
        middle = tokens.cumsum() - tokens / 2
        bounds = np.searchsorted(middle, tokens.sum() * np.arange(self.world + 1) / self.world)
        mine = self.rank if rank is None else rank
        return slice(int(bounds[mine]), int(bounds[mine + 1]))

    def exchange(self, what: str, function: Callable[[], T]) -> list[T]:
        value: T | None = None
        failure: Exception | None = None
        try:
            value = function()
        except RankError:
            raise
        except Exception as error:
            if self.lockstep is not None and self.lockstep.is_inside:
                with self.watched(what):
                    raise  # the others are in the middle of a pass, and notice the lost connection
            failure = error
        said = None if failure is None else _as_message(failure)
        given: list[Any] = [None] * self.world
        with self._collective(what):
            dist.all_gather_object(given, (what, said, value), group=self.group)
        failed = [(rank, message) for rank, (_, message, _) in enumerate(given) if message is not None]
        if failed:
            self._shared = self._error(failed, failure)
            raise self._shared from (None if self._shared is failure else failure)
        places = {place for place, _, _ in given}
        if len(places) > 1:
            said_by = "; ".join(f"rank {rank} is at {place}" for rank, (place, _, _) in enumerate(given))
            raise RankError(f"the ranks are doing different things: {said_by}; an algorithm must do the same on every rank")
        return [result for _, _, result in given]

    def together(self, what: str, function: Callable[[], T]) -> T:
        found: list[T] = []

        def call() -> None:
            found.append(function())

        self.exchange(what, call)
        return found[0]

    def from_first(self, what: str, function: Callable[[], T]) -> T:
        return cast("T", self.exchange(what, lambda: function() if self.is_first else None)[0])

    def agree(self, *flags: int) -> tuple[int, ...]:
        with self._collective("a decision"):
            return self._largest(flags)

    def largest(self, wish: int) -> int:
        with self._collective("a pass of the model", finishes=False):
            return self._largest([wish])[0]

    def _largest(self, flags: Sequence[int]) -> tuple[int, ...]:
        values = torch.tensor(flags, dtype=torch.int64)
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.group)
        return tuple(int(value) for value in values)

    def sum(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor], present: Sequence[bool]) -> list[Tensor | None]:
        result: list[Tensor | None] = [None] * len(like)
        for places in _buckets(like, present):
            exact = torch.float64 if like[places[0]].dtype == torch.float64 else torch.float32
            given = [tensors[place] for place in places]
            flat = torch.cat(
                [
                    torch.zeros(like[place].numel(), dtype=exact, device=like[place].device)
                    if tensor is None
                    else tensor.detach().reshape(-1).to(exact)
                    for place, tensor in zip(places, given, strict=True)
                ]
            )
            with self._collective("the sum of gradients"):
                dist.all_reduce(flat, group=self.group)
            for place, part in zip(places, torch.split(flat, [like[place].numel() for place in places]), strict=True):
                result[place] = part.reshape(like[place].shape).to(like[place].dtype)
        return result

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor in tensors:
                value = tensor.detach().contiguous()
                with self._collective("the weights of rank 0"):
                    dist.broadcast(value, src=0, group=self.group)
                tensor.copy_(value)

    def name(self, rank: int) -> str:
        """The name of a rank, with its process, for messages."""
        process = self._processes[rank] if rank < len(self._processes) else {}
        return f"rank {rank} (process {process.get('pid')} on {process.get('host')})"

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST):
                raise RankError(self._missing(what)) from error
            raise

    @contextmanager
    def _collective(self, what: str, *, finishes: bool = True) -> Iterator[None]:
        if finishes and self.lockstep is not None:
            self.lockstep.finish()
        self._count += 1
        start = time.perf_counter()
        try:
            self._store.set(f"at/{self.rank}", str(self._count))
            yield
            self.seconds += time.perf_counter() - start
        except RuntimeError as error:  # torch's communication errors derive from it
            raise RankError(self._missing(what)) from error

    def _missing(self, what: str) -> str:
        """Which rank is missing, in words: one whose process is dead, or one that is behind this one."""
        others = [rank for rank in range(len(self._processes)) if rank != self.rank]
        self._asked(lambda: self._store.set(f"missed/{self.rank}", ""))  # so that a later check does not count this rank as lost
        if dead := self._dead(others):
            return f"{' and '.join(map(self.name, dead))} ended before {what}; look at its last output"
        behind = self._behind(others)
        if behind:
            return (
                f"{' and '.join(map(self.name, behind))} did not reach {what}: it hangs, or the connection to it is lost; "
                f"parallel.timeout={self.timeout:g} seconds is how long ranks wait for each other"
            )
        return f"the ranks lost each other during {what}; a rank ended, or the connection to it is lost"

    def _dead(self, others: Sequence[int]) -> list[int]:
        """The ranks whose process is gone, except those that ended because they missed another one.

        A killed process loses its connections a moment before it is gone.
        """
        end = time.monotonic() + min(_DYING_SECONDS, 0.1 * self.timeout)
        while True:
            dead = [rank for rank in others if is_alive(self._processes[rank]) is False]
            missed = (
                (self._asked(lambda: [rank for rank in others if self._store.check([f"missed/{rank}"])]) or []) if dead else []
            )
            lost = [rank for rank in dead if rank not in missed]
            if lost or time.monotonic() > end:
                return lost
            time.sleep(0.05)

    def _behind(self, others: Sequence[int]) -> list[int]:
        """The ranks that have made fewer exchanges than this one; rank 0 if it does not answer at all."""

        def ask() -> dict[int, int]:
            return {rank: int(self._store.get(f"at/{rank}")) if self._store.check([f"at/{rank}"]) else 0 for rank in others}

        made = self._asked(ask)
        if made is None:
            return [] if self.is_first else [0]
        return [rank for rank in others if made[rank] < self._count]

    def _asked(self, function: Callable[[], T]) -> T | None:
        """The answer of rank 0, which holds the store; None if it does not answer."""
        found: list[T] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):
                found.append(function())

        asking = threading.Thread(target=ask, daemon=True)  # if rank 0 hangs, nobody answers
        asking.start()
        asking.join(min(_ANSWER_SECONDS, 0.1 * self.timeout))
        return found[0] if found else None

    def _error(self, failed: list[tuple[int, bytes]], mine: Exception | None) -> Exception:
        """The error that every rank raises: its own if all have the same, else the first one, with its rank."""
        errors = [(rank, cast("Exception", pickle.loads(message))) for rank, message in failed]
        error = errors[0][1]
        if len(errors) == self.world and len({str(each) for _, each in errors}) == 1:
            return error if mine is None else mine
        ranks = " and ".join(f"rank {rank}" for rank, each in errors if str(each) == str(error))
        first, *rest = error.args or ("",)
        error.args = (f"{ranks}: {first}", *rest)
        return error


def _as_message(error: Exception) -> bytes:
    """An RlxError unchanged; any other error as a TrainingError with its traceback."""
    if isinstance(error, RlxError):
        with contextlib.suppress(Exception):
            message = pickle.dumps(error)
            pickle.loads(message)
            return message
        return pickle.dumps(TrainingError(*str(error).splitlines()))
    if isinstance(error, torch.OutOfMemoryError):
        return pickle.dumps(torch.OutOfMemoryError(str(error)))
    return pickle.dumps(TrainingError(*"".join(traceback.format_exception(error)).rstrip().splitlines()))


def _buckets(like: Sequence[Tensor], present: Sequence[bool]) -> Iterator[list[int]]:
    """The indices of tensors that are summed together: of one type, up to _BUCKET elements."""
    bucket: list[int] = []
    size = 0
    for place, tensor in enumerate(like):
        if not present[place]:
            continue
        other = bucket and (tensor.dtype, tensor.device) != (like[bucket[0]].dtype, like[bucket[0]].device)
        if bucket and (other or size + tensor.numel() > _BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(place)
        size += tensor.numel()
    if bucket:
        yield bucket


def join(world: int, *, timeout: float, device: str) -> DistributedRanks:
    """Join the group described by the environment variables of `rlx train ranks=N` or torchrun. The local rank chooses the GPU.

    Raises ConfigError if this process was not started as one of `world`, or there are fewer GPUs than ranks on this machine;
    RankError if the others do not arrive in time.
    """
    if ranks_of_environment() != world:
        raise ConfigError(
            f"ranks={world}, and this process was started as one of {ranks_of_environment()}; rlx train ranks={world} starts "
            f"them, or torchrun --nproc-per-node={world} -m rlx train"
        )
    rank = int(os.environ["RANK"])
    _die_with_parent()
    use_gpu = device != "cpu" and torch.cuda.is_available()
    if use_gpu:
        local = int(os.environ.get("LOCAL_RANK", rank))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"rank {rank} is number {local + 1} on this machine, which has {torch.cuda.device_count()} GPUs; start as many "
                "ranks as there are GPUs (ranks=auto), or use device=cpu"
            )
        torch.cuda.set_device(local)
    wait = datetime.timedelta(seconds=timeout)
    try:
        store = _store(rank, world, wait)
        backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
        shared = dist.PrefixStore("group", store)
        patience = datetime.timedelta(
            seconds=max(0.5 * timeout, 0.9 * timeout - 10)
        )  # the rest of the time is for reporting and ending
        dist.init_process_group(backend, store=shared, rank=rank, world_size=world, timeout=patience)
    except RuntimeError as error:
        raise RankError(f"rank {rank} of {world} did not find the others within {timeout:g} seconds: {error}") from error
    return DistributedRanks(dist.group.WORLD, dist.PrefixStore("rlx", store), rank=rank, world=world, timeout=timeout)


def end_process(code: int) -> None:
    """End this process now, because the threads of a group left open by an error would keep the interpreter alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _store(rank: int, world: int, wait: datetime.timedelta) -> Any:
    """The store where the ranks meet: the socket that `rlx train` opened for them, or torchrun's."""
    port = os.environ.pop(STORE, None)
    if port is None:
        store, _, _ = next(dist.rendezvous("env://", timeout=wait))
        return store
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank == 0:
        return dist.TCPStore(*address, world, is_master=True, timeout=wait, master_listen_fd=int(port))
    return dist.TCPStore(*address, world, is_master=False, timeout=wait)


def _die_with_parent() -> None:
    """Let the kernel end this process when the process that started it is gone, however that ended."""
    started_by = os.environ.get(PARENT)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if started_by is not None and os.getppid() != int(started_by):  # it was already gone
        os._exit(ExitCode.FAILED)
