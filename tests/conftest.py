"""For all tests: configs are composed once in a process (see tests/composing.py), garbage is collected seldom, and long files are
begun first.
"""

import gc
from pathlib import Path

from tests import composing

composing.install()
gc.set_threshold(100_000)  # with Python's default a tenth of the tests' time goes into collections

TESTS = Path(__file__).parent
LONG = (  # files that take a process half a minute or more: begun first, or one worker ends with them while the other waits
    "parallel/test_distributed.py",
    "test_readme.py",
    "parallel/test_sharded.py",
    "parallel/test_runs.py",
    "sweep/test_hostile_directory.py",
    "training/test_loop.py",
    "check/law/test_loss.py",
    "test_main.py",
    "sweep/search/test_search.py",
    "check/test_checker.py",
    "cli/test_output.py",
    "cli/verb/test_new.py",
    "cli/test_failure.py",
)


def pytest_collection_modifyitems(items):
    place = {TESTS / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
