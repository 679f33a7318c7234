"""Processes that run tools, so that one that hangs or crashes can be ended without blocking the others."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from queue import SimpleQueue
from threading import Thread
from typing import Any

_LONGEST = 1 << 20  # bytes of one result
_START_SECONDS = 120.0  # time limit for starting a process and importing a tool's module
_COMMAND = "from rlx.task.tool.worker import serve; serve()"


class ToolError(Exception):
    """A tool raised, hung or ended its process; the message is for the assistant."""


class ToolWorkers:
    """Runs functions by name in a pool of processes; a process whose call exceeds the time limit is ended.

    seconds: the limit of one call. most: the largest number of processes, which are started on demand.
    """

    def __init__(self, *, seconds: float, most: int) -> None:
        self.seconds, self.most = seconds, most
        self._idle: list[_Process] = []
        self._turns: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()

    async def call(self, target: tuple[str, str], arguments: Mapping[str, Any]) -> str:
        """The result of the function `target`, (module, name), as text. Raises ToolError with a message for the assistant."""
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.most)):
            process = self._idle.pop() if self._idle else _Process()
            try:
                if target not in process.imported:
                    await process.answer({"target": target}, _START_SECONDS)
                    process.imported.add(target)
                reply = await process.answer({"target": target, "arguments": dict(arguments)}, self.seconds)
            except BaseException:
                process.end()
                raise
            self._idle.append(process)
        if "error" in reply:
            raise ToolError(reply["error"])
        return str(reply["value"])


class _Process:
    """A process that runs one tool at a time."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        self.imported: set[tuple[str, str]] = set()
        self.end = weakref.finalize(self, _end, self.popen)

    async def answer(self, order: Mapping[str, Any], seconds: float) -> dict[str, str]:
        """Its answer to a request. Raises ToolError if there is none within this many seconds."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        loop, file, read = asyncio.get_running_loop(), self.popen.stdout.fileno(), bytearray()
        complete: asyncio.Future[str] = loop.create_future()

        def readable() -> None:
            part = os.read(file, 1 << 16)
            read.extend(part)
            if complete.done():
                return
            if not part:
                complete.set_result("the tool ended its process")
            elif len(read) > _LONGEST:
                complete.set_result(f"the result of the tool is longer than {_LONGEST} bytes")
            elif read.endswith(b"\n"):
                complete.set_result("")

        loop.add_reader(file, readable)
        try:
            self.popen.stdin.write(json.dumps(order).encode() + b"\n")
            self.popen.stdin.flush()
            problem = await asyncio.wait_for(complete, seconds)
        except BrokenPipeError:
            problem = "the tool ended its process"
        except TimeoutError:
            problem = f"the tool gave no result within {seconds:g} s"
        finally:
            loop.remove_reader(file)
        if problem:
            raise ToolError(problem)
        reply: dict[str, str] = json.loads(read)
        return reply


def _end(popen: subprocess.Popen[bytes]) -> None:
    """End the process and all processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


# ---- in the worker process -----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer the requests on standard input, one per line; when it closes, end this process, whatever it is doing.

    The output of tools goes to standard error.
    """
    orders, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def listen() -> None:
        for line in orders:
            queue.put(json.loads(line))
        os._exit(0)

    Thread(target=listen, daemon=True).start()
    while True:
        replies.write(json.dumps(_reply(queue.get())).encode() + b"\n")
        replies.flush()


def _reply(order: Mapping[str, Any]) -> dict[str, str]:
    """Import the function of a request, or call it if the request has arguments."""
    module, name = order["target"]
    try:
        function: Any = reduce(getattr, name.split("."), importlib.import_module(module))
        if "arguments" not in order:
            return {"value": ""}
        value = function(**order["arguments"])
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except BaseException as error:  # user code, called with arguments from the assistant
        return {"error": f"{type(error).__name__}: {error}"}
    if isinstance(value, str):
        return {"value": value}
    try:
        return {"value": json.dumps(value, ensure_ascii=False, allow_nan=False)}
    except (TypeError, ValueError, RecursionError):
        return {"error": f"the tool returned {type(value).__name__}, which is neither text nor JSON"}
