"""Runs of several ranks from the command line: their numbers, their ends, and what is left of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.parallel.group import ROOT
from tests.training.conftest import SMALL, metrics, record

pytestmark = pytest.mark.whole
PATIENCE = 180  # seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def begun(place: Path, name: str, *words: str, small: Sequence[str] = SMALL) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RLX_CACHE": str(place / "cache")}
    goes_on = any(word.startswith("resume=") for word in words)
    command = [sys.executable, "-m", "rlx", "train", *([] if goes_on else [*small, f"hydra.run.dir={name}"]), *words]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ranks_of(parent: subprocess.Popen) -> list[int]:
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return [int(number) for number in listed]


def after_steps(run: Path, steps: int) -> None:
    end = time.monotonic() + PATIENCE
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) <= steps:
        assert time.monotonic() < end, "the run does not begin"
        time.sleep(0.1)


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize(("number", "code", "to"), [(signal.SIGTERM, 75, "rank 1"), (signal.SIGINT, 130, "the command")])
def test_a_signal_ends_all_after_the_same_step_with_a_checkpoint(place, number, code, to):
    name = f"signal_{number}_{to[-1]}"
    process = begun(
        place, name, "num_steps=100000", "eval_every=100000", "checkpoint.every=null", "ranks=2", "parallel.timeout=60"
    )
    after_steps(place / name, 2)
    ranks = ranks_of(process)
    os.kill(ranks[1] if to == "rank 1" else process.pid, number)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, said
    last = metrics(place / name)[-1]["step"]
    assert [path.name for path in (place / name / "checkpoint").iterdir()] == [f"step_{last}"]
    assert record(place / name)["status"] == "interrupted"
    assert said.count("resume with: rlx train resume=") == 1
    assert all(map(is_gone, ranks))


@pytest.mark.parametrize(("rank", "number", "mode"), [(0, signal.SIGSTOP, "replicated"), (1, signal.SIGKILL, "sharded")])
def test_a_rank_that_dies_or_hangs_ends_the_run_and_is_named(place, rank, number, mode):
    name = f"lost_{rank}_{int(number)}"
    long = ["num_steps=100000", "eval_every=100000", "checkpoint.every=2", "parallel.timeout=15"]
    process = begun(place, name, *long, "ranks=2", f"parallel={mode}")
    after_steps(place / name, 4)
    ranks = ranks_of(process)
    os.kill(ranks[rank], number)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert f"rlx: rank {rank} " in said
    assert all(map(is_gone, ranks))
    from rlx.record.run import read_run

    assert read_run(place / name).status == ("failed" if rank else "interrupted")


def test_conversations_give_the_numbers_of_one_process(place):
    small = ["policy=tiny_untrained", "policy.hidden_size=16", "evaluation.num_prompts=8", "logger=[]", "threads=1"]
    words = ["task=guess", "algorithm=ppo", "task.credit=turn", "num_steps=2", "eval_every=2"]
    found = []
    for ranks, mode in ((1, "replicated"), (2, "replicated"), (2, "sharded")):
        name = f"talk_{mode}_{ranks}"
        process = begun(place, name, *words, f"ranks={ranks}", f"parallel={mode}", "parallel.timeout=60", small=small)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        found.append((metrics(place / name)[-1], (place / name / "samples.jsonl").read_text()))
    (alone, samples), *several = found
    assert alone["train/turns"] > 1
    for together, theirs in several:
        for key in ("train/loss", "train/grad_norm", "train/reward_mean", "train/turns", "eval/reward", "eval/kl", "eval/turns"):
            assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-5), key
        assert theirs == samples


def test_nothing_outlives_a_command_that_is_killed(place):
    process = begun(place, "orphans", "num_steps=100000", "eval_every=100000", "ranks=2")
    after_steps(place / "orphans", 1)
    ranks = ranks_of(process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    end = time.monotonic() + 20
    while not all(map(is_gone, ranks)):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_error_of_one_rank_is_raised_on_all_and_names_it(place):
    (place / "faulty.py").write_text(
        "import os\n"
        "from dataclasses import dataclass\n"
        "from rlx.algorithm.custom_dpo import CustomDpo\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Faulty(CustomDpo):\n"
        "    def compute_loss(self, policy, reference, batch):\n"
        "        output = super().compute_loss(policy, reference, batch)\n"
        "        if os.environ['RANK'] == '1':\n"
        "            for term in output.terms.values():\n"
        "                term.values.data[0] = float('nan')\n"
        "        return output\n"
    )
    process = begun(place, "faulty", "algorithm=faulty.Faulty", "ranks=2", "parallel.timeout=60")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    told = record(place / "faulty")["error"]["message"]
    assert told.startswith("step 1: rank 1: term")
    assert "is not finite on 1 of 4 rows" in told
    assert json.loads((place / "faulty/nonfinite_examples.jsonl").read_text().splitlines()[0])["prompt"]


def test_weights_that_differ_between_ranks_are_refused(place):
    (place / "unseeded.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "import torch\n"
        "from rlx.algorithm.custom_dpo import CustomDpo\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Unseeded(CustomDpo):\n"
        "    def draw(self, lab):\n"
        "        batch = super().draw(lab)\n"
        "        weights = torch.from_numpy(np.random.rand(len(batch)))\n"
        "        return batch.with_weights(**{**batch.weights, 'preference': weights / weights.sum()})\n"
    )
    process = begun(place, "unseeded", "algorithm=unseeded.Unseeded", "ranks=2", "parallel.timeout=60")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert "draw of Unseeded gave rank 1 another batch than rank 0 (its weights.preference)" in said
