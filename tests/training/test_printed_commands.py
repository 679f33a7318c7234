"""What rlx prints to be typed is typed here, as printed."""

import re
import shlex
import sys

import pytest

from rlx.cli.main import main
from rlx.config.sources import served
from tests.training.conftest import metrics, record, reproducible

pytestmark = pytest.mark.whole

LOSS = """
import os, signal
from rlx.loss import preference_loss

calls = []

@preference_loss
def squared(margin, *, beta=0.1):
    calls.append(1)
    if os.environ.get("STOP") and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return (1 - beta * margin).clamp(min=0) ** 2
"""
REWARD = "def short(prompt, completion):\n    return -float(len(completion))\n"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Files of a user's own in the working directory; they are forgotten afterwards."""
    (tmp_path / "printed_loss.py").write_text(LOSS)
    (tmp_path / "printed_reward.py").write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    new_process()


def new_process():
    """Forget the user's modules and what was named, as another command would."""
    served.clear()
    for name in [name for name in sys.modules if name.startswith("printed_")]:
        del sys.modules[name]


def printed(text: str, before: str) -> list[str]:
    """The words of the command of rlx that follows `before` in a message, without `rlx`."""
    words = shlex.split(re.split(before, text)[1].splitlines()[0].strip(" `"))
    assert words[0] == "rlx"
    return words[1:]


@pytest.mark.parametrize("places", [(), ("output_dir=my runs",)])
def test_a_stopped_run_with_a_loss_of_ones_own_goes_on(rlx_run, lab, monkeypatch, capfd, places):
    code, whole, _ = rlx_run("loss=printed_loss.squared")
    assert code == 0
    monkeypatch.setenv("STOP", "1")
    new_process()
    code, _, said = rlx_run("loss=printed_loss.squared", *places)
    monkeypatch.delenv("STOP")
    new_process()
    assert code == 75
    assert main(printed(said, "resume with: ")) == 0
    (run,) = (path for path in (lab / ("my runs" if places else "outputs") / "train").glob("2*") if path != whole)
    assert record(run)["status"] == "completed"
    assert reproducible(run) == reproducible(whole)


def test_changed_code_is_refused_with_a_command_that_goes_on(rlx_run, lab, capfd):
    _, run, _ = rlx_run("loss=printed_loss.squared")
    (lab / "printed_loss.py").write_text(LOSS.replace("** 2", "** 3"))
    new_process()
    assert main(["train", f"resume={run}", "num_steps=8"]) == 2
    typed = printed(capfd.readouterr().err, "name it again: ")
    new_process()
    assert main([*typed, "num_steps=8"]) == 0
    assert metrics(run)[-1]["step"] == 8


@pytest.mark.parametrize("verb", ["evaluate", "sample", "rerun"])
def test_every_verb_trusts_the_same_classes(rlx_run, lab, capfd, verb):
    (lab / "printed_loss.py").write_text(LOSS)
    _, run, _ = rlx_run("loss=printed_loss.squared", "task/reward=[exact_match,printed_reward.short]")
    new_process()
    small = {"evaluate": ["evaluation.num_prompts=4", "evaluation.num_pairs=4"], "sample": ["num_prompts=2"]}
    command = ["train", f"rerun={run}"] if verb == "rerun" else [verb, str(run), *small[verb]]
    assert main(command) == 0, capfd.readouterr().err
    (lab / "printed_reward.py").write_text(REWARD.replace("-float", "float"))
    new_process()
    assert main(command) == 2
    assert "printed_reward.short" in capfd.readouterr().err


def test_the_same_command_goes_on_with_its_own_run(rlx_run, lab, monkeypatch):
    command = ["loss=printed_loss.squared", "resume=auto", "seed=3"]
    code, whole, _ = rlx_run(*command[:1], "seed=3", "output_dir=whole")
    assert code == 0
    new_process()
    monkeypatch.setenv("STOP", "1")
    code, run, _ = rlx_run(*command)
    assert code == 75
    monkeypatch.delenv("STOP")
    new_process()
    code, same, said = rlx_run(*command, "checkpoint.every=3")  # what changes no number may differ
    assert (code, same) == (0, run), said
    assert "resumed at step 3 of 6" in said
    whole = next((lab / "whole" / "train").glob("2*"))
    assert reproducible(run) == reproducible(whole)
    assert "'seed=range(0,5)'" in said
    new_process()
    code, same, said = rlx_run(*command)
    assert (code, same) == (0, run)
    assert "completed, score" in said
    _, other, _ = rlx_run(*command[:2], "seed=4")
    assert other != run


def test_a_sweep_needs_no_auto(rlx_run, lab, capfd):
    assert main(["-m", "resume=auto", "seed=0,1"]) == 2
    assert "resumes by itself" in capfd.readouterr().err


@pytest.mark.parametrize("resumed", [False, True])
def test_each_command_that_comes_next_is_taken(rlx_run, lab, capfd, resumed):
    code, run, said = rlx_run("loss=printed_loss.squared")
    if resumed:
        new_process()
        code, _, said = rlx_run(f"resume={run}", "loss=printed_loss.squared", "num_steps=8", small=False)
    assert code == 0
    lines = [line for line in said.partition("\nnext:\n")[2].splitlines() if line.startswith("  rlx ")]
    assert [line.split()[1] for line in lines] == ["-m", "runs"]
    for line in lines:
        new_process()
        words = shlex.split(line)[1:]
        assert main([*words, *(["sweep.dry_run=true"] if words[0] == "-m" else [])]) == 0
    assert f"num_steps={8 if resumed else 6}" in lines[0]
    assert "seed=range(0,5)" in lines[0]
