"""What a job costs beside its training in a process that has run one like it: the next of a sweep pays for no data twice."""

import time

import pytest
from omegaconf import open_dict

from rlx.config.compose import compose
from rlx.experiment import make
from rlx.policy import memory
from rlx.policy.tiny import load_tiny
from rlx.sweep import job
from rlx.sweep.pool.worker import Assignment
from rlx.training.loop import Loop

SECONDS = 0.4  # of CPU; 0.15 on an idle machine, and 0.5 there where every job makes its data anew


class Nobody:
    """The sweep's end of a worker's pipe, where nobody listens."""

    def progress(self, *_):
        pass


def assignment(seed, directory):
    overrides = [f"seed={seed}", "num_steps=1", "eval_every=null", "evaluation.num_prompts=4", "threads=1", "logger=[]"]
    cfg = compose("train", overrides)
    with open_dict(cfg):
        cfg.pop("sweep", None)
    return Assignment(f"job{seed}", str(directory / f"job{seed}"), job.Training(cfg, "custom_dpo", tuple(overrides)))


@pytest.mark.slow
def test_a_warm_job_costs_little_beside_its_training(tmp_path, monkeypatch, capsys):
    trained = []
    run = Loop.run

    def timed(loop):
        started = time.process_time()
        try:
            return run(loop)
        finally:
            trained.append(time.process_time() - started)

    monkeypatch.setattr(Loop, "run", timed)
    beside = []
    for seed in range(6):
        (tmp_path / f"job{seed}").mkdir()
        started = time.process_time()
        done = job.run(assignment(seed, tmp_path), Nobody())
        beside.append(time.process_time() - started - trained[-1])
        assert done.state == "completed", done.reason
    assert min(beside[2:]) < SECONDS
    with capsys.disabled():
        print(f"\nbeside its training a warm job costs {min(beside[2:]):.2f} s of CPU, the first {beside[0]:.2f} s")


def pairs():
    """Of the task as a run makes it; another task object at each call."""
    cfg = compose("train", ["task.max_operand=12"])
    return make(cfg.task, key="task").pairs()


def test_models_of_one_process_that_read_the_same_text_share_the_tokens_of_a_task():
    first, second = load_tiny(), load_tiny()
    assert pairs() is pairs()
    assert first.pair_tokenizer(pairs()) is second.pair_tokenizer(pairs())
    assert load_tiny(max_length=9).pair_tokenizer(pairs()) is not first.pair_tokenizer(pairs())  # another limit drops others
    some = list(pairs()[:3])
    assert first.pair_tokenizer(some) is not second.pair_tokenizer(some)  # a list may be changed in its place


def test_passes_are_measured_once_for_models_of_one_shape(monkeypatch):
    calls = []
    measure = memory._measured
    monkeypatch.setattr(memory, "_known", {})
    monkeypatch.setattr(memory, "_measured", lambda *given: calls.append(given) or measure(*given))
    rows = load_tiny().pair_tokenizer(pairs()).sequences[:2]
    found = [memory.pass_memory(load_tiny(), frozenset())(rows[:1], rows) for _ in range(2)]
    assert found[0] == found[1]
    assert len(calls) == 2  # the row once and twice, for the first model
    frozen = load_tiny()
    frozen.parameters()[0].requires_grad_(False)
    memory.pass_memory(frozen, frozenset())(rows[:1], rows)
    assert len(calls) == 4
