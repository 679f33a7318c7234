"""Calls of a user's functions, sync or async, each with a time limit: one that raises or hangs does not hold up the others."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

_SPARE = 1.0  # seconds that a batch of coroutines may take beyond the limit of one, before its thread is given up


class TimeLimitError(Exception):
    """A call did not return within its time."""


@dataclass(eq=False)
class TimedCalls:
    """Runs calls in a thread of their own, which keeps one event loop for all coroutines.

    seconds: the limit of one call. A thread cannot be ended from outside: one whose call hangs is left behind (it ends with the
    process), and a new one takes the calls after it.
    """

    seconds: float
    _worker: _Worker | None = field(default=None, repr=False)

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each call returned, awaited where it is a coroutine; in place of a value the exception that it raised.

        Plain functions run one after the other, coroutines at the same time.
        """
        results: list[Any] = [None] * len(calls)
        waiting: dict[int, Any] = {}
        todo = list(range(len(calls)))
        while todo:
            outcomes = self._ask(calls[todo[0] :])
            for place, outcome in zip(todo, outcomes, strict=False):
                if inspect.isawaitable(outcome):
                    waiting[place] = outcome
                else:
                    results[place] = outcome
            todo = todo[len(outcomes) :]
        if waiting:
            awaited = self._await(list(waiting.values()))
            for place, outcome in zip(waiting, awaited, strict=True):
                results[place] = outcome
        return results

    def _ask(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """The outcomes of calls one by one; if one hangs, a TimeLimitError in its place and nothing of those after it."""
        worker = self._living()
        worker.orders.put(calls)
        outcomes: list[Any] = []
        for _ in calls:
            try:
                outcomes.append(worker.outcomes.get(timeout=self.seconds))
            except Empty:
                self._worker = None
                worker.abandoned = True
                return [*outcomes, TimeLimitError(f"no answer within {self.seconds:g} s")]
        return outcomes

    def _await(self, coroutines: list[Any]) -> list[Any]:
        worker, seconds, tasks = self._living(), self.seconds, list[asyncio.Future[Any]]()
        worker.orders.put([lambda: worker.gathered(coroutines, seconds, tasks)])  # holds no `self`, whose end is the thread's
        try:
            found = worker.outcomes.get(timeout=self.seconds + _SPARE)
        except Empty:
            self._worker = None
            worker.abandoned = True
            return worker.so_far(tasks, seconds, len(coroutines))
        if isinstance(found, BaseException):
            return [found] * len(coroutines)
        return list(found)

    def _living(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker()
            weakref.finalize(self, self._worker.orders.put, None)
            Thread(target=self._worker.work, daemon=True, name="rlx-calls").start()
        return self._worker


class _Worker:
    """A thread's two queues and its event loop."""

    def __init__(self) -> None:
        self.orders: SimpleQueue[Sequence[Callable[[], Any]] | None] = SimpleQueue()  # None ends the thread
        self.outcomes: SimpleQueue[Any] = SimpleQueue()
        self.abandoned = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def work(self) -> None:
        while not self.abandoned and (calls := self.orders.get()) is not None:
            for call in calls:
                if self.abandoned:
                    break
                try:
                    self.outcomes.put(call())
                except BaseException as error:  # a user's code; SystemExit must not end the thread in silence either
                    self.outcomes.put(error)
        if self.loop is not None:
            _close(self.loop)

    def gathered(self, coroutines: Sequence[Any], seconds: float, tasks: list[asyncio.Future[Any]]) -> list[Any]:
        """What the coroutines return, all at the same time; exceptions in place of values. tasks: gets a task of each."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()

        async def one(task: asyncio.Future[Any]) -> Any:
            try:
                return await asyncio.wait_for(task, seconds)
            except asyncio.TimeoutError:
                return TimeLimitError(f"no answer within {seconds:g} s")
            except Exception as error:  # whatever the user's code raises
                return error

        async def everyone() -> list[Any]:
            tasks.extend(asyncio.ensure_future(coroutine) for coroutine in coroutines)
            return list(await asyncio.gather(*(one(task) for task in tasks)))

        return self.loop.run_until_complete(everyone())

    def so_far(self, tasks: Sequence[asyncio.Future[Any]], seconds: float, count: int) -> list[Any]:
        """Outcomes of `gathered` while one of its tasks blocks the event loop: what is done, errors for the blocker and the rest.

        Asked from another thread.
        """
        running = None if self.loop is None else asyncio.current_task(self.loop)
        is_known = running in tasks
        late = f"no answer within {seconds:g} s"
        beside = "another async call beside it blocks the event loop (with time.sleep, say), and its error says so"
        if not is_known:
            beside = "an async call of this round blocks the event loop (with time.sleep, say); which one is not known"
        outcomes: list[Any] = [TimeLimitError(f"{late}: {beside}") for _ in range(count)]
        for place, task in enumerate(tasks):
            if task is running:
                outcomes[place] = TimeLimitError(
                    f"{late}: it blocks its event loop; await what takes time, or define it without async"
                )
            elif task.done():
                outcomes[place] = TimeLimitError(late) if task.cancelled() else task.exception() or task.result()
        return outcomes


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close an event loop; what still waits on it is cancelled, so that it gives back what it holds."""

    async def cancelled(tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), _SPARE)

    waiting = asyncio.all_tasks(loop)
    try:
        if waiting:
            loop.run_until_complete(cancelled(waiting))
    except asyncio.TimeoutError:  # one of them does not let itself be cancelled
        pass
    finally:
        loop.close()
