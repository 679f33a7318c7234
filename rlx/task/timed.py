"""Calls of user functions, sync or async, with a time limit each, so that one that raises or hangs does not block the others."""

from __future__ import annotations

import asyncio
import inspect
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

_spend: ContextVar[Callable[[float], None]] = ContextVar("spend")  # charges time to the call that created a task
_NOT_BEGUN = object()  # placeholder for the outcome of a coroutine that may be run in another thread
_SPARE = 1.0  # seconds beyond one call's limit without any progress of a batch's coroutines, before its thread is abandoned


class TimeLimitError(Exception):
    """A call did not return within its time limit."""


@dataclass(eq=False)
class TimedCalls:
    """Runs calls in a separate thread, which has one event loop for all coroutines.

    seconds: the limit of one call. While a coroutine, or a task that it created, runs without awaiting, the clocks of the others
    stop. A thread cannot be ended from outside: one whose call hangs is abandoned (it ends with the process), and a new thread
    takes over the later calls.
    """

    seconds: float
    _worker: _Worker | None = field(default=None, repr=False)

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """The result of each call, awaited if it is a coroutine; an exception that it raised replaces its result.

        Plain functions run one after the other, coroutines concurrently.
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
        """The outcomes of calls, one by one; if one hangs, a TimeLimitError for it and no outcomes for those after it."""
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

    def _await(self, coroutines: Sequence[Any]) -> list[Any]:
        """The outcomes of coroutines. If one blocks the event loop, those that had not begun are run one by one in new loops.

        After two more timeouts the rest is not tried, as each would use up its whole limit.
        """
        outcomes, late = self._await_once(coroutines), 0
        for place, coroutine in enumerate(coroutines):
            if outcomes[place] is _NOT_BEGUN and late < 2:
                (outcomes[place],) = self._await_once([coroutine])
                late += isinstance(outcomes[place], TimeLimitError)
            elif outcomes[place] is _NOT_BEGUN and inspect.iscoroutine(coroutine):
                coroutine.close()
        never = TimeLimitError(f"it was not begun within {self.seconds:g} s")
        return [never if outcome is _NOT_BEGUN else outcome for outcome in outcomes]

    def _await_once(self, coroutines: Sequence[Any]) -> list[Any]:
        worker, seconds, tasks = self._living(), self.seconds, list[asyncio.Future[Any]]()
        worker.progressed = time.monotonic()
        worker.orders.put([lambda: worker.gathered(coroutines, seconds, tasks)])  # without `self`, whose deletion ends the thread
        while True:
            waits = worker.progressed + self.seconds + _SPARE - time.monotonic()
            if waits <= 0:
                self._worker = None
                return worker.so_far(tasks, seconds, len(coroutines))
            with suppress(Empty):
                found = worker.outcomes.get(timeout=waits)
                break
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
        self._begun: set[int] = set()  # indices of the coroutines that have begun in the current batch
        self._lock = Lock()
        self._spent = 0.0  # seconds that coroutines ran without awaiting
        self.progressed = 0.0  # when a coroutine with time left last ran
        self.loop: asyncio.AbstractEventLoop | None = None

    def work(self) -> None:
        while not self.abandoned and (calls := self.orders.get()) is not None:
            for call in calls:
                if self.abandoned:
                    break
                try:
                    self.outcomes.put(call())
                except BaseException as error:  # user code; SystemExit must not end the thread silently either
                    self.outcomes.put(error)
        if self.loop is not None:
            _close(self.loop)

    def gathered(self, coroutines: Sequence[Any], seconds: float, tasks: list[asyncio.Future[Any]]) -> list[Any]:
        """The results of the coroutines, run concurrently; exceptions replace results. tasks: receives a task for each."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            self.loop.set_task_factory(_metered_task)
        self._begun.clear()

        async def begun(place: int, coroutine: Any) -> Any:
            with self._lock:
                if self.abandoned:  # it may already run in another thread
                    raise asyncio.CancelledError
                self._begun.add(place)
            self.progressed = began = time.monotonic()  # others may have blocked the loop before
            own, before, used, is_late, is_over = asyncio.current_task(), self._spent, 0.0, False, False
            timer: asyncio.TimerHandle

            def spend(part: float) -> None:
                nonlocal used
                used += part
                self._spent += part
                if not is_late and not is_over:  # a task that it created may outlive it
                    self.progressed = time.monotonic()

            def late() -> None:
                nonlocal is_late, timer
                by_others = self._spent - before - used
                rest = began + seconds + by_others - time.monotonic()
                if rest > 0:
                    timer = asyncio.get_running_loop().call_later(rest, late)
                    return
                is_late = True
                if own is not None:
                    own.cancel()

            timer = asyncio.get_running_loop().call_later(seconds, late)
            _spend.set(spend)  # inherited by tasks that it creates
            try:
                return await _Metered(_awaited(coroutine), spend)
            except asyncio.CancelledError:
                if is_late:
                    raise TimeLimitError(f"no answer within {seconds:g} s") from None
                raise
            finally:
                is_over = True
                timer.cancel()
                self.progressed = time.monotonic()

        async def one(task: asyncio.Future[Any]) -> Any:
            try:
                return await task
            except asyncio.CancelledError as error:
                if not task.cancelled():
                    raise
                return error
            except Exception as error:  # any type that the user's code raises
                return error

        async def everyone() -> list[Any]:
            tasks.extend(asyncio.ensure_future(begun(place, coroutine)) for place, coroutine in enumerate(coroutines))
            return list(await asyncio.gather(*(one(task) for task in tasks)))

        return self.loop.run_until_complete(everyone())

    def so_far(self, tasks: Sequence[asyncio.Future[Any]], seconds: float, count: int) -> list[Any]:
        """Abandon `gathered`, from another thread, while one of its tasks blocks the event loop.

        Returns finished outcomes, errors for the blocking task and for those that had begun, _NOT_BEGUN for the rest.
        """
        with self._lock:
            self.abandoned = True
            begun = set(self._begun)
        running = None if self.loop is None else asyncio.current_task(self.loop)
        is_known = running in tasks
        late = f"no answer within {seconds:g} s"
        beside = "another async call beside it blocks the event loop (with time.sleep, say), and its error says so"
        if running is None:
            beside = "it was cancelled and still awaits; let asyncio.CancelledError through"
        elif not is_known:
            beside = "an async call of this round blocks the event loop (with time.sleep, say); which one is not known"
        outcomes = [TimeLimitError(f"{late}: {beside}") if place in begun else _NOT_BEGUN for place in range(count)]
        for place, task in enumerate(tasks):
            if task is running:
                outcomes[place] = TimeLimitError(
                    f"{late}: it blocks its event loop; await what takes time, or define it without async"
                )
            elif task.done() and place in begun:
                outcomes[place] = TimeLimitError(late) if task.cancelled() else task.exception() or task.result()
        return outcomes


class _Metered(Coroutine[Any, Any, Any]):
    """Wraps a coroutine; reports to `spend` the seconds of each stretch without an await, during which the loop is blocked."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], spend: Callable[[float], None]) -> None:
        self._coroutine, self._spend = coroutine, spend

    def send(self, value: Any) -> Any:
        began = time.monotonic()
        try:
            return self._coroutine.send(value)
        finally:
            self._spend(time.monotonic() - began)

    def throw(self, *error: Any) -> Any:
        began = time.monotonic()
        try:
            return self._coroutine.throw(*error)
        finally:
            self._spend(time.monotonic() - began)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> _Metered:
        return self

    def __iter__(self) -> _Metered:
        return self

    def __next__(self) -> Any:
        return self.send(None)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _metered_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **settings: Any) -> asyncio.Task[Any]:
    """A task; tasks created by a call (as asyncio.gather and wait_for do) charge their time to that call."""
    spend = _spend.get(None)
    return asyncio.Task(coroutine if spend is None else _Metered(coroutine, spend), loop=loop, **settings)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close an event loop; pending tasks are cancelled, so that they release their resources."""

    async def cancelled(tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), _SPARE)

    waiting = asyncio.all_tasks(loop)
    try:
        if waiting:
            loop.run_until_complete(cancelled(waiting))
    except TimeoutError:  # a task ignores its cancellation
        pass
    finally:
        loop.close()
