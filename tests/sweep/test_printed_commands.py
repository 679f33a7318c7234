"""What a sweep prints to be typed is typed here, as printed."""

import json
import re
import shlex

import pytest

from rlx.cli import main

pytestmark = pytest.mark.whole


def printed(text: str, before: str, after: str) -> list[str]:
    """The words of the command of rlx between two parts of a message, without `rlx`."""
    words = shlex.split(re.split(before, text)[1].partition(after)[0])
    assert words[0] == "rlx"
    return words[1:]


@pytest.mark.parametrize("name", [(), ("sweep.name=my sweep",)])
def test_a_sweep_with_a_job_that_was_killed_goes_on(sweep, capfd, name):
    ran = sweep("algorithm.does=kill,well", *name)
    assert ran.code == 3
    code, message = main.invoke(printed(ran.err, "go on with what is not completed: ", " (or the same"))
    assert code == 0, message + "".join(capfd.readouterr())
    assert set(ran.states.values()) == {"completed"}


def test_a_sweep_of_another_code_is_begun_anew(sweep, capfd):
    ran = sweep("seed=0,1", "sweep.name=first")
    plan = ran.directory / "sweep.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "code": "0" * 16}))
    refused = sweep("seed=0,1", "sweep.name=first")
    assert refused.code == 2
    assert "another version of the code" in refused.err
    code, message = main.invoke(printed(refused.err, "this begins a new sweep: ", "; or choose"))
    assert code == 0, message + "".join(capfd.readouterr())
