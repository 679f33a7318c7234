"""What Hydra changes of the process, for as long as it runs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hydra_surroundings(arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, prints errors itself unless told not to, and only warns about a missing folder.

    For --info it logs to the standard output of the moment, and would go on with it in a notebook.
    """
    saved, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sys.argv = ["rlx", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=r"provider=.* is not\s+available")
            yield
    finally:
        sys.argv = saved
        root.handlers[:] = handlers
        root.setLevel(level)
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
