"""Foreign code may make this process grow by so much and no more."""

import resource
import threading

import pytest

from rlx.data.memory import bounded_memory


def test_what_asks_for_more_raises_and_what_asks_for_less_does_not():
    with pytest.raises(MemoryError), bounded_memory(2**26):
        bytes(2**28)
    with bounded_memory(2**28):
        assert len(bytes(2**26)) == 2**26
    assert len(bytes(2**28)) == 2**28  # afterwards there is no limit


def test_two_threads_leave_the_process_as_free_as_it_was():
    before = resource.getrlimit(resource.RLIMIT_AS)
    first_is_in, second_tries = threading.Event(), threading.Event()

    def first():
        with bounded_memory(2**28):
            first_is_in.set()
            second_tries.wait(10)

    def second():
        first_is_in.wait(10)
        threading.Timer(0.2, second_tries.set).start()  # while this thread waits, or is in too
        with bounded_memory(2**29):
            second_tries.wait(10)
            threads[0].join(1)  # the first one goes out before

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    after = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert after == before
