"""A limit on what a piece of foreign code may allocate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_STATISTICS = Path("/proc/self/statm")


@contextlib.contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """Let this process grow by at most `size` bytes; what asks for more raises MemoryError. No limit where /proc is not there."""
    if not _STATISTICS.exists():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(_STATISTICS.read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE") + size
    limits = [value for value in (limit, soft, hard) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
