import asyncio
import gc
import threading
import time
import warnings
from contextlib import suppress

import pytest

from rlx.task.timed import TimedCalls, TimeLimitError


def test_outcomes_come_in_the_order_of_the_calls():
    async def later(value, seconds):
        await asyncio.sleep(seconds)
        return value

    calls = [lambda: 1, lambda: later(2, 0.05), lambda: 1 / 0, lambda: later(4, 0.01), lambda: 5]
    found = TimedCalls(10.0).run(calls)
    assert [found[0], found[1], found[3], found[4]] == [1, 2, 4, 5]
    assert isinstance(found[2], ZeroDivisionError)


def test_coroutines_run_at_the_same_time():
    async def slow():
        await asyncio.sleep(0.2)

    calls = TimedCalls(10.0)
    calls.run([lambda: 0])
    began = time.monotonic()
    calls.run([slow] * 30)
    assert time.monotonic() - began < 3


def test_a_call_that_hangs_does_not_hold_up_the_others():
    release = threading.Event()

    async def slow():
        await asyncio.sleep(30)

    calls = TimedCalls(0.3)
    found = calls.run([lambda: 1, release.wait, lambda: 3, slow, lambda: 5])
    release.set()
    assert [found[0], found[2], found[4]] == [1, 3, 5]
    assert isinstance(found[1], TimeLimitError)
    assert isinstance(found[3], TimeLimitError)
    assert calls.run([lambda: 6]) == [6]


def test_a_coroutine_that_blocks_the_loop_is_named_and_what_is_done_counts():
    release = threading.Event()

    async def quick():
        return 1

    async def broken():
        raise KeyError("x")

    async def blocks():
        await asyncio.sleep(0.01)
        release.wait()

    async def within():
        await asyncio.create_task(blocks())

    async def slow():
        await asyncio.sleep(0.05)

    def said(*coroutines):
        release.clear()
        calls = TimedCalls(0.1)
        found = calls.run(coroutines)
        release.set()
        assert calls.run([lambda: 6, quick]) == [6, 1]
        return found

    first, second, third, fourth = said(quick, broken, blocks, slow)
    assert first == 1
    assert isinstance(second, KeyError)
    assert isinstance(third, TimeLimitError)
    assert isinstance(fourth, TimeLimitError)
    assert "it blocks its event loop" in str(third)
    assert "another async call beside it blocks the event loop" in str(fourth)
    hidden = said(within, slow)  # in a task of its own making
    assert all("which one is not known" in str(error) for error in hidden)


def test_what_a_blocked_loop_had_not_begun_is_run_in_another_one():
    release, ran = threading.Event(), []

    async def waits():
        ran.append("waits")
        await asyncio.sleep(0.05)

    async def blocks():
        ran.append("blocks")
        release.wait()

    def later(number):
        async def call():
            ran.append(number)
            await asyncio.sleep(0.01)
            return number

        return call

    calls = TimedCalls(0.1)
    found = calls.run([waits, blocks, later(1), blocks, later(2), waits])
    release.set()
    time.sleep(0.3)  # the loops that were given up go on, and may begin nothing again
    assert [found[2], found[4]] == [1, 2]
    assert ["another async call beside it" in str(found[0]), "it blocks its event loop" in str(found[1])] == [True, True]
    assert "it blocks its event loop" in str(found[3])
    assert sorted(map(str, ran)) == ["1", "2", "blocks", "blocks", "waits", "waits"]
    assert found[5] is None


@pytest.mark.whole
def test_many_that_block_do_not_each_take_their_time():
    begun = []

    async def blocks():
        begun.append(1)
        time.sleep(3)

    started = time.monotonic()
    found = TimedCalls(0.1).run([blocks] * 9)
    assert time.monotonic() - started < 3 * (0.1 + 1.5)
    assert len(begun) == 3
    assert all(isinstance(outcome, TimeLimitError) for outcome in found)


def test_the_time_of_a_coroutine_is_its_own():
    async def busy():
        time.sleep(0.06)
        return 1

    async def waits():
        await asyncio.sleep(9)

    async def own_limit():
        raise TimeoutError("mine")

    found = TimedCalls(0.1).run([*[busy] * 30, waits, own_limit])
    assert found[:30] == [1] * 30
    assert isinstance(found[30], TimeLimitError)
    assert str(found[31]) == "mine"


def test_time_in_which_others_block_the_loop_is_not_counted():
    async def waits():
        await asyncio.sleep(0.1)
        return 1

    async def blocks():
        time.sleep(0.06)
        return 2

    assert TimedCalls(0.3).run([waits, *[blocks] * 12, waits]) == [1, *[2] * 12, 1]


def test_time_in_which_a_coroutine_blocks_the_loop_itself_is_counted():
    async def waits():
        await asyncio.sleep(0.1)
        return 1

    async def blocks():
        for _ in range(100):
            time.sleep(0.02)
            await asyncio.sleep(0)

    began = time.monotonic()
    first, second, third = TimedCalls(0.3).run([waits, blocks, waits])
    assert time.monotonic() - began < 1.5  # all of it would take 2 s
    assert [first, third] == [1, 1]
    assert isinstance(second, TimeLimitError)


def test_a_coroutine_that_refuses_to_be_cancelled_is_given_up():
    async def stubborn():
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    calls = TimedCalls(0.1)
    (found,) = calls.run([stubborn])
    assert isinstance(found, TimeLimitError)
    assert calls.run([lambda: 6]) == [6]


def test_what_a_coroutine_awaits_is_that_which_it_gets():
    class Later:
        def __await__(self):
            yield
            return 3

    async def fails():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, KeyError("x"))
        try:
            await future
        except KeyError:
            return 4

    assert TimedCalls(5.0).run([Later, fails]) == [3, 4]


def test_a_coroutine_that_raises_is_an_outcome():
    async def broken():
        raise KeyError("x")

    async def cancelled():
        raise asyncio.CancelledError

    async def sound():
        await asyncio.sleep(0)
        return 2

    first, second, third = TimedCalls(5.0).run([broken, cancelled, sound])
    assert isinstance(first, KeyError)
    assert isinstance(second, asyncio.CancelledError)
    assert third == 2


def test_its_thread_ends_with_it():
    calls = TimedCalls(5.0)
    calls.run([lambda: 1])
    thread = next(thread for thread in threading.enumerate() if thread.name == "rlx-calls")
    before = sum(thread.name == "rlx-calls" for thread in threading.enumerate())
    del calls
    for _ in range(50):
        if sum(thread.name == "rlx-calls" for thread in threading.enumerate()) < before:
            break
        time.sleep(0.05)
    assert sum(thread.name == "rlx-calls" for thread in threading.enumerate()) < before, thread


def test_what_still_waits_on_the_loop_gives_back_what_it_holds_at_the_end():
    held, given_back = [], threading.Event()

    async def holds():
        try:
            await asyncio.sleep(60)
        finally:
            given_back.set()

    async def begins():
        held.append(asyncio.get_running_loop().create_task(holds()))
        await asyncio.sleep(0)

    calls = TimedCalls(5.0)
    calls.run([begins])
    assert not given_back.is_set()
    del calls
    assert given_back.wait(5)


async def _busy(seconds):
    await asyncio.sleep(0.01)
    time.sleep(seconds)
    return 1


async def _by_gather(part, seconds):
    return await asyncio.gather(part(seconds), part(seconds))


async def _by_wait_for(part, seconds):
    return [await asyncio.wait_for(part(seconds), 9), await asyncio.wait_for(part(seconds), 9)]


@pytest.mark.parametrize("how", [_by_gather, _by_wait_for])
def test_tasks_that_a_call_makes_do_not_spend_the_time_of_others(how):
    assert TimedCalls(0.4).run([lambda: how(_busy, 0.04)] * 15) == [[1, 1]] * 15


def test_tasks_that_a_call_makes_spend_its_own_time():
    (late,) = TimedCalls(0.1).run([lambda: _by_gather(_busy, 0.15)])
    assert isinstance(late, TimeLimitError)


def test_a_task_that_ends_before_it_begins_leaves_no_coroutine_behind():
    async def never():
        pytest.fail("it was cancelled")

    async def cancels():
        task = asyncio.ensure_future(never())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert TimedCalls(5.0).run([cancels]) == [True]
        gc.collect()
    assert not [warning for warning in said if "never awaited" in str(warning.message)]


def test_a_task_that_outlives_its_call_keeps_no_other_call_waiting():
    async def ticks():
        while True:
            await asyncio.sleep(0.05)

    async def begins():
        asyncio.get_running_loop().ticking = asyncio.ensure_future(ticks())

    async def stubborn():
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(5)

    calls = TimedCalls(0.1)
    calls.run([begins])
    began = time.monotonic()
    (found,) = calls.run([stubborn])
    assert time.monotonic() - began < 4
    assert "it was cancelled and still awaits" in str(found)
