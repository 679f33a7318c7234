import os

import pytest

from rlx.task.tool.python import python


def test_code_runs_and_what_it_prints_comes_back():
    assert python("import sys\nprint(6 * 7, file=sys.stderr)") == "42\n"
    said = python("1/0")
    assert "ZeroDivisionError" in said
    assert "setrlimit" not in said


def test_memory_output_time_and_environment_are_limited():
    assert "MemoryError" in python("x = bytearray(1 << 32)")
    assert len(python("import sys\nsys.stdout.write('x' * (1 << 22))")) < 1 << 21
    assert python("import os\nprint(sorted(os.environ))") in ("[]\n", "['LC_CTYPE']\n")
    assert "signal 9" in python(f"import os, signal\nos.kill({os.getpid()} * 0 + os.getpid(), signal.SIGKILL)")
    with pytest.raises(ValueError, match="null character"):
        python("\0")


@pytest.mark.slow
def test_endless_code_ends():
    assert "the process was ended" in python("while True: pass")
    assert "the process was ended after 7 s" in python("import time\ntime.sleep(60)")
