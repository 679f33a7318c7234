import subprocess
import sys

import pytest

from rlx.rollout import watchdog


@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_code_is_that_of_the_command(code):
    command = [sys.executable, watchdog.__file__, sys.executable, "-c", f"raise SystemExit({code})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == code


def test_the_command_ends_with_the_input():
    command = [sys.executable, watchdog.__file__, "sleep", "600"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.close()
        assert process.wait(timeout=60) != 0
