"""A real vLLM: whole runs whose server has the weights of every draw, dies in the middle of one, and ends with the run."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from rlx.policy.tiny import build_tiny
from rlx.rollout.vllm import LOG, VllmSampler
from rlx.seeding import Stream

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("RLX_VLLM_PYTHON", ROOT / ".venvs/vllm/bin/python")).absolute()
MOST = 1e-4  # nats between the log-probabilities of the server and of the policy, both in float32
EAGER = "--enforce-eager"  # nothing is compiled: a start takes half of the time
STEPS = 10

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"needs vLLM in {PYTHON}: make vllm, or set RLX_VLLM_PYTHON"),
]


def sampler_of(**changes):
    settings = {
        "temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, "stop": (), "max_new_tokens": 200, "model": None,
        "logprobs": "raw", "concurrency": 8, "timeout": 60.0, "retries": 4, "backoff": 1.0, "api_key_variable": None,
        "batch_tokens": 8192, "sync": "disk", "wait": 60.0, "python": str(PYTHON), "port": None, "memory": 0.5, "cpu_cache": 1,
        "devices": None, "sleeps": False, "arguments": [EAGER], "start_timeout": 600.0,
    }  # fmt: skip
    return VllmSampler(**{**settings, **changes})


def processes():
    """Process id -> (that of its parent, its words), of every process that has not ended."""
    lines = subprocess.run(["ps", "-ewwo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    found = [line.split(None, 3) for line in lines.splitlines()]
    return {int(pid): (int(parent), words) for pid, parent, state, words in found if not state.startswith("Z")}


def descendants(pid):
    """Process id -> words, of all processes below one."""
    everything = processes()
    below = {}
    front = [pid]
    while front:
        children = [child for child, (parent, _) in everything.items() if parent in front]
        below |= {child: everything[child][1] for child in children}
        front = children
    return below


def survivors(pids, seconds=60.0):
    """Those of some processes that live on after so long."""
    deadline = time.monotonic() + seconds
    while (left := pids & processes().keys()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def lines_of(directory):
    file = next(iter(directory.glob("outputs/train/2*/metrics.jsonl")), None)
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file else []


def command(*words):
    small = ["algorithm.prompts_per_step=8", "algorithm.group_size=4", "evaluation.num_prompts=32", "threads=1", "logger=[]"]
    vllm = ["rollout=vllm", f"rollout.python={PYTHON}", f"rollout.arguments=[{EAGER}]", "rollout.compared=null"]
    return [sys.executable, "-m", "rlx", "train", "algorithm=custom_grpo", *small, *vllm, *words]


def begun(tmp_path, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RLX_CACHE": str(tmp_path / "cache")}
    return subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("words", "lag"),
    [
        (("rollout.sync=disk",), 0),
        (("rollout.sync=adapter", "policy/adapter=lora"), 0),
        (("rollout.sync=disk", "rollout.ahead=1"), 1),
        pytest.param(
            ("rollout.sync=nccl", "rollout.devices=1", "device=cuda:0"),
            0,
            marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
        ),
    ],
    ids=["disk", "adapter", "ahead", "nccl"],
)
def test_every_draw_of_a_run_comes_from_the_weights_of_its_step(words, lag, tmp_path):
    with begun(tmp_path, *words, f"num_steps={STEPS}") as run:
        said = run.communicate(timeout=900)[0]
    assert run.returncode == 0, said
    drawn = [line for line in lines_of(tmp_path) if line["step"] > 0]
    gaps = [line["train/sampling_gap_largest"] for line in drawn]
    print(f"{words[0]}: largest gap {max(gaps):.3g}, mean {np.mean([line['train/sampling_gap'] for line in drawn]):.3g}")
    assert len(gaps) == STEPS
    assert 0 < max(gaps) < MOST
    assert [line["train/weights_version"] for line in drawn] == [max(0, step - lag) for step in range(STEPS)]
    moved = [line["train/grad_norm"] for line in drawn]
    assert min(moved) > 0  # else each version were the same weights
    assert not [words for _, words in processes().values() if str(tmp_path) in words]


@pytest.mark.parametrize("dying", ["server", "engine"])
def test_a_server_that_is_killed_in_the_middle_of_a_draw_is_started_again(dying, tmp_path):
    policy, sampler = build_tiny(), sampler_of()
    prompts = [np.array([5 + number, 20, 30]) for number in range(16)]

    def draw():
        return sampler.sample(policy, prompts, group_size=4, stream=Stream(0, ("rollout",)), prompt_keys=range(16))

    def kill_when_busy():
        metrics = f"{sampler.client.root}/metrics"
        while True:
            text = urllib.request.urlopen(metrics, timeout=30).read().decode()
            if any(float(number) > 0 for number in re.findall(r"vllm:num_requests_running\{.*\} (\S+)", text)):
                break
            time.sleep(0.05)
        below = descendants(sampler._started.engine._process.pid)
        word = "EngineCore" if dying == "engine" else "api_server"
        pid = min(pid for pid, words in below.items() if word in words)
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killed = []
    with sampler.running(tmp_path, policy):
        sampler.refresh(policy, version=1)
        whole = draw()
        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        again = draw()
        killer.join()
        figures = sampler.figures()
    assert len(killed) == 1
    assert figures["draws_repeated"] == 1
    assert figures["sampling_gap_largest"] < MOST
    assert (tmp_path / LOG).read_text().count("Starting vLLM server on") == 2
    for first, second in zip(whole.sequences.completions, again.sequences.completions, strict=True):
        assert [tokens.tolist() for tokens in first] == [tokens.tolist() for tokens in second]


def test_no_process_of_the_server_outlives_a_run_that_is_killed(tmp_path):
    with begun(tmp_path, "num_steps=100000") as run:
        deadline = time.monotonic() + 600
        while len(lines_of(tmp_path)) < 3 and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.2)
        below = descendants(run.pid)
        assert any("EngineCore" in words for words in below.values()), below
        run.send_signal(signal.SIGKILL)
    assert not survivors(set(below))
