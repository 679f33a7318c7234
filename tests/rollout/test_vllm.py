"""A server that the run starts and ends: a program that takes vLLM's arguments stands in for vLLM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rlx.errors import ConfigError, TrainingError
from rlx.policy.tiny import build_tiny
from rlx.rollout.vllm import LOG, Engine, VllmSampler
from rlx.seeding import Stream

ROOT = Path(__file__).parents[2]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 2}
pytestmark = pytest.mark.whole


@pytest.fixture
def python(tmp_path):
    """An interpreter that runs the stand-in where vLLM's server is asked for."""
    file = tmp_path / "python"
    file.write_text(
        f'#!/bin/sh\n[ "$2" = vllm.entrypoints.openai.api_server ] || exit 3\nshift 2\n'
        f'PYTHONPATH={ROOT} exec {sys.executable} -m tests.rollout.fake_vllm "$@"\n'
    )
    file.chmod(0o755)
    return str(file)


def sampler_of(python, **changes):
    settings = {
        "temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, "stop": (), "max_new_tokens": 6, "model": None,
        "logprobs": "raw", "concurrency": 3, "timeout": 30.0, "retries": 1, "backoff": 0.05, "api_key_variable": None,
        "batch_tokens": 200, "sync": "disk", "wait": 20.0, "python": python, "port": None, "memory": 0.5, "cpu_cache": 1,
        "devices": None, "sleeps": False, "arguments": ["--max-num-seqs", 4], "start_timeout": 200.0,
    }  # fmt: skip
    return VllmSampler(**{**settings, **changes})


def draw(sampler, policy):
    sampler.refresh(policy, version=1)
    return sampler.sample(policy, [np.array([5, 9])], group_size=6, stream=Stream(0, ("rollout",)), prompt_keys=[0])


def is_alive(text):
    """Whether a process has these words on its command line."""
    found = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return any(text in line for line in found.splitlines())


def gone(text, seconds=30.0):
    deadline = time.monotonic() + seconds
    while is_alive(text) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not is_alive(text)


def test_a_server_is_started_and_started_again_where_it_dies_and_ended(python, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LIES", '{"dies_at": 4}')
    monkeypatch.setenv("FAKE_LIVES_ONCE", str(tmp_path / "once"))
    run = tmp_path / "run"
    run.mkdir()
    policy, sampler = build_tiny(**SHAPE), sampler_of(python, sleeps=True)
    with sampler.running(run, policy):
        assert is_alive(str(run))
        draw(sampler, policy)
        sampler.rest()
        assert sampler.link.repeated == 1
        assert sampler.figures()["sampling_gap_largest"] < 1e-4
    assert gone(str(run))
    assert [path.name for path in run.iterdir()] == [LOG]
    log = (run / LOG).read_text()
    assert log.count("'--max-num-seqs', '4'") == 2
    for word in ("'--logprobs-mode', 'raw_logprobs'", "'--dtype', 'float32'", "'--enable-sleep-mode'", "VLLM_SERVER_DEV_MODE"):
        assert word in log


def test_a_server_does_not_outlive_a_run_that_is_killed(python, tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.rollout.test_vllm import SHAPE, build_tiny, sampler_of\n"
        f"with sampler_of({python!r}).running(Path({str(tmp_path)!r}), build_tiny(**SHAPE)):\n"
        "    print('up', flush=True)\n    time.sleep(600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    with run:
        assert run.stdout.readline() == "up\n"
        assert is_alive(f"--model {tmp_path}")
        run.send_signal(signal.SIGKILL)
    assert gone(f"--model {tmp_path}")


def test_a_server_that_ends_at_once_is_named_with_its_log(tmp_path):
    said = pytest.raises(TrainingError, match=r"vLLM ended with exit code 1; its log, .*vllm\.log, ends with: .*No module named")
    with said, sampler_of(sys.executable).running(tmp_path, build_tiny(**SHAPE)):
        pass


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"rollout\.python=nowhere/python is not an interpreter.*make vllm"):
        sampler_of("nowhere/python").prepare(build_tiny(**SHAPE))


def test_a_server_that_was_closed_is_not_started_again_by_a_draw_of_another_thread(tmp_path):
    engine = Engine(["sleep", "600"], dict(os.environ), tmp_path / LOG)
    engine.start()
    assert engine.exit_code is None
    engine.close()
    with pytest.raises(TrainingError, match="the run has ended"):
        engine.start()
    assert sampler_of(sys.executable, ahead=1, sync="none").overlaps
    with pytest.raises(ConfigError, match=r"rollout\.sleeps=false"):
        sampler_of(sys.executable, ahead=1, sleeps=True)


def test_a_transfer_from_gpu_to_gpu_needs_a_gpu_of_the_servers_own(tmp_path):
    for settings in ({}, {"devices": "1", "sleeps": True}):
        with pytest.raises(ConfigError, match=r"rollout\.sync=nccl needs a GPU of the server's own: name it by rollout\.devices"):
            sampler_of(sys.executable, sync="nccl", **settings)
    command = sampler_of("python", sync="nccl", devices="1")._command("python", build_tiny(**SHAPE), tmp_path, 1)
    assert command[command.index("--weight-transfer-config") + 1] == '{"backend": "nccl"}'
