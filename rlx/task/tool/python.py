"""Python for the assistant, in a process with limits. It is not a sandbox: the code can read files and reach the network."""

from __future__ import annotations

import subprocess
import sys
import tempfile

_SECONDS, _MEMORY, _FILE = 5, 1 << 29, 1 << 20  # limits: CPU seconds; bytes of memory; bytes of a file
_LONGEST = 100_000  # characters of code, which is passed as a command-line argument

# sets the limits in the new process before it becomes the interpreter that runs the code
_LIMITED = f"""
import os, resource, sys
for what, limit in ((resource.RLIMIT_CPU, {_SECONDS}), (resource.RLIMIT_AS, {_MEMORY}), (resource.RLIMIT_FSIZE, {_FILE})):
    resource.setrlimit(what, (limit, limit))
os.execv(sys.executable, [sys.executable, "-I", "-c", sys.argv[1]])
"""


def python(code: str) -> str:
    """Run Python code and return what it prints.

    Args:
        code: the code; print what you want to know
    """
    if len(code) > _LONGEST or "\0" in code:
        raise ValueError(f"the code has more than {_LONGEST} characters, or a null character")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        command = [sys.executable, "-I", "-c", _LIMITED, code]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_SECONDS + 2,
                check=False,
            )
            ended = "" if done.returncode >= 0 else f"\nthe process was ended by signal {-done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"\nthe process was ended after {_SECONDS + 2} s"
        output.seek(0)
        return output.read().decode(errors="replace") + ended
