"""Limits on the memory and time that untrusted code, such as a chat template, may use."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from rlx.interrupt import handled

_STATISTICS = Path("/proc/self/statm")
_limits = threading.RLock()  # the limit applies to the process: two threads that set it would reset each other's


@contextlib.contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """Let this process grow by at most `size` bytes; larger allocations raise MemoryError. No limit if /proc does not exist.

    Only one thread at a time can be in this context.
    """
    if not _STATISTICS.exists():
        yield
        return
    import resource

    with _limits:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = int(_STATISTICS.read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE") + size
        limits = [value for value in (limit, soft, hard) if value != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def bounded_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after this many seconds of CPU time. No limit outside the main thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    with handled(stop, [signal.SIGVTALRM]):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
