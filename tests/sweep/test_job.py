"""A job as a worker runs it: a real training, told about as it goes, gone on with where it was cut short."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import open_dict

from rlx.config.compose import compose
from rlx.record.directory import this_process
from rlx.record.files import read_metrics
from rlx.record.run import read_run
from rlx.sweep.job import Training, prepared, run
from rlx.sweep.pool.worker import Assignment
from tests.training.conftest import SMALL

pytestmark = pytest.mark.whole


class Heard:
    """A channel that notes what is told and prunes at a step; signal_at: a step at which the job is asked to stop."""

    def __init__(self, *, prune_at=None, signal_at=None):
        self.steps, self.evaluated, self.prune_at, self.signal_at = [], [], prune_at, signal_at

    def progress(self, step, figures):
        self.steps.append(step)
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def shall_stop(self, step, figures):
        self.evaluated.append((step, figures["eval/score"]))
        return step == self.prune_at


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield lambda channel, *overrides, **options: run(order(*overrides, **options), channel)
    torch.set_num_threads(threads)


def order(*overrides, name="job", wants_answers=False):
    small = [word for word in SMALL if not (word.startswith("task.") and "task=preference_file" in overrides)]
    cfg = compose("train", [*small, *overrides])
    with open_dict(cfg):
        cfg.pop("sweep")
    return Assignment(name, str(Path.cwd() / name), Training(cfg, "custom_dpo", tuple(overrides)), wants_answers)


def lines(name):
    return [
        {key: value for key, value in line.items() if not key.startswith("time/")} for line in read_metrics(Path.cwd() / name)
    ]


def test_a_job_is_a_run_with_its_record(job):
    heard = Heard()
    done = job(heard, "seed=3")
    record = read_run("job")
    assert (done.state, record.status, record.seed) == ("completed", "completed", 3)
    assert done.figures["eval/score"] == record.result.performance_metrics["eval/score"]
    assert done.figures["cost/tokens_trained"] > 0
    assert heard.steps == [1, 2, 3, 4, 5, 6]
    assert heard.evaluated == []  # nobody wants to prune


def test_its_command_names_the_folders_of_its_configs(job):
    made = order("num_steps=1")
    content = dataclasses.replace(made.content, folders=("--config-dir", "mine"))
    run(dataclasses.replace(made, content=content), Heard())
    assert list(read_run("job").command) == ["rlx", "train", "--config-dir", "mine", "num_steps=1"]


def test_a_pruned_job_says_where(job):
    heard = Heard(prune_at=3)
    done = job(heard, wants_answers=True)
    assert (done.state, done.reason) == ("pruned", "pruned after step 3")
    assert [step for step, _ in heard.evaluated] == [3]
    assert read_run("job").status == "interrupted"


def test_a_job_that_was_stopped_goes_on_and_equals_the_unbroken_one(job):
    done = job(Heard(signal_at=4), name="broken")
    assert done.state == "interrupted"
    assert read_run("broken").status == "interrupted"
    assert job(Heard(), name="broken").state == "completed"
    assert len(read_run("broken").resumed) == 1
    assert job(Heard(), name="whole").state == "completed"
    assert lines("broken") == lines("whole")


def test_an_attempt_without_a_checkpoint_begins_anew(job):
    (Path("job")).mkdir()
    Path("job/run.json").write_text("{ torn")
    Path("job/job.log").write_text("its log\n")
    assert job(Heard(), "num_steps=1").state == "completed"
    assert Path("job/job.log").read_text() == "its log\n"
    assert Path(".attempts/job/run.json").read_text() == "{ torn"


def test_a_run_that_still_runs_is_left_alone(job):
    assert job(Heard(signal_at=2)).state == "interrupted"
    file = Path("job/run.json")
    running = {**json.loads(file.read_text()), "status": "running"}
    file.write_text(json.dumps({**running, "process": this_process()}))
    done = job(Heard())
    assert (done.state, "still running" in done.reason) == ("failed", True)
    assert json.loads(file.read_text())["status"] == "running"
    file.write_text(json.dumps({**running, "process": {**this_process(), "host": "a machine that was lost"}}))
    assert job(Heard()).state == "completed"
    assert read_run("job").resumed[0]["step"] == 2


def test_bad_input_is_a_message_and_no_traceback(job, capfd):
    done = job(Heard(), "task=preference_file", "task.path=nowhere.jsonl")
    assert done.state == "failed"
    assert "nowhere.jsonl" in done.reason
    assert done.healthy
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_fresh_directory_is_left_alone(tmp_path):
    cfg = compose("train", SMALL)
    assert prepared(cfg, tmp_path) is cfg
