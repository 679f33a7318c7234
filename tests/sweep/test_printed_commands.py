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
    code, message = main.invoke(printed(ran.err, "to run the jobs that are not completed: ", " (or the same"))
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


def test_a_search_with_trials_that_failed_tries_others_in_their_place(sweep, capfd):
    pytest.importorskip("optuna")
    does = ("algorithm.does=well,kill", "sweep.sampler=random", "sweep.trials=4", "sweep.workers=1", "sweep.plots=false")
    ran = sweep("sweep=optuna", "algorithm.x=interval(0,1)", *does, "sweep.startup_trials=1")
    failed = list(ran.states.values()).count("failed")
    assert (ran.code, len(ran.states), 0 < failed < 4) == (3, 4, True)
    main.invoke(printed(ran.err, "to run replacements: ", "\n"))
    assert len(ran.states) == 4 + failed


def test_a_job_with_the_record_of_another_fails_alone(sweep, capfd):
    ran = sweep("seed=0,1,2", "sweep.name=swap", "sweep.compare=true")
    first, second = (ran.directory / ran.job(f"seed-{seed}")["name"] / "run.json" for seed in (0, 1))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    plan = json.loads((ran.directory / "sweep.json").read_text())
    (ran.directory / plan["jobs"][2]["name"] / "run.json").unlink()
    again = sweep("seed=0,1,2", "sweep.name=swap", "sweep.compare=true")
    assert (again.code, list(again.states.values())) == (3, ["failed", "completed", "completed"])
    assert again.err.count("the plan of the sweep; one of the two was changed") == 1
    assert "runs on" not in again.out  # no comparison counts the record
    first.write_bytes(kept)
    assert main.invoke(printed(again.err, "to run the jobs that are not completed: ", " (or the same"))[0] == 0
