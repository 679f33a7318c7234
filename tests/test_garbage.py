"""Searches for circular garbage while a process starts, afterwards, and while many objects are read."""

import gc
import subprocess
import sys

import pytest

from rlx.garbage import collection_paused

START = """
import gc
from rlx.garbage import search_as_usual, search_seldom
usual, frozen = gc.get_threshold(), gc.get_freeze_count()
search_as_usual()
print(gc.get_threshold() == usual, gc.get_freeze_count() == frozen)
search_seldom()
before = sum(generation["collections"] for generation in gc.get_stats())
import rlx.training.run
searched = sum(generation["collections"] for generation in gc.get_stats()) - before
search_as_usual()
print(searched < 12, gc.get_freeze_count() > 100_000, gc.get_threshold() == usual)
search_as_usual()
"""


def test_a_start_searches_seldom_and_what_comes_after_it_as_usual():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, timeout=400)
    assert done.stdout == "True True\nTrue True True\n", done.stderr


READS = """
import gc
from rlx.garbage import collection_paused, search_as_usual, search_seldom

def read():
    with collection_paused():
        rows = [[number] for number in range(300_000)]
    before = [generation["collected"] + generation["collections"] for generation in gc.get_stats()]
    frozen = gc.get_freeze_count()
    others = [[number] for number in range(10_000)]  # more than Python, of any version, lets come before it searches
    return before == [generation["collected"] + generation["collections"] for generation in gc.get_stats()], frozen >= 300_000

print(*read())
search_seldom()
print(*read())
search_as_usual()
gc.unfreeze()
print(*read())
"""


def test_what_is_read_while_a_process_starts_is_not_searched():
    done = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, timeout=400)
    assert done.stdout == "False False\nTrue True\nFalse False\n", done.stderr


ENTRY = """
import gc, sys
usual = gc.get_threshold()
from rlx.__main__ import entry
sys.argv = ["rlx", "train", "num_steps=1", "logger=[]", "eval_every=null"]
try:
    entry()
finally:
    print(gc.get_threshold() == usual)
"""


@pytest.mark.whole
def test_a_run_on_the_command_line_searches_as_usual(tmp_path):
    done = subprocess.run([sys.executable, "-c", ENTRY], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.stdout.splitlines()[-1] == "True", done.stderr


def test_the_search_for_garbage_goes_on_after_it_was_paused():
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
