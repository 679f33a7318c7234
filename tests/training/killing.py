"""Ends runs and sweeps at random moments and lets them go on: `python tests/training/killing.py RUNS SWEEPS [SEED]`.

A process that has imported everything makes a fork for each command, so that most kills hit the run and not its imports. Every
command says `resume=auto`; after each kill the same command is given again, now and then killed again, and the run that ends is
held against one that nothing disturbed: all numbers of metrics, samples and answers, and the bytes of the last weights. The last
line is a JSON object with counts and what was wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from rlx.__main__ import entry  # before torch: a fork after it starts no threads

COMMON = ["num_steps=5", "eval_every=2", "evaluation.num_prompts=6", "evaluation.num_pairs=6", "threads=1", "checkpoint.every=1"]
ROLLOUTS = ["algorithm.prompts_per_step=2"]
ALGORITHMS = {
    "custom_dpo": ["algorithm.pairs_per_step=8"],
    "sft": ["algorithm.pairs_per_step=8"],
    "custom_grpo": [*ROLLOUTS, "algorithm.group_size=2"],
    "ppo": ROLLOUTS,
    "online_dpo": ROLLOUTS,
    "rloo": [*ROLLOUTS, "algorithm.group_size=2"],
    "hybrid": [],
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
ENDS = {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGUSR2: 75, signal.SIGINT: 130}
LOGS = ("metrics.jsonl", "samples.jsonl", "answers.jsonl")
TIMEOUT = 300.0


def started(argv: list[str], directory: Path) -> int:
    """A fork that runs the command in a directory; what it prints goes into `log` there."""
    child = os.fork()
    if child:
        return child
    os.chdir(directory)
    log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rlx", *argv]
    try:
        entry()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(child: int, *, after: float | None = None, number: int = signal.SIGKILL) -> int:
    """The exit code of a child, which gets a signal after so many seconds if it still runs; -N for a signal."""
    begun = time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - begun
        if after is not None and passed >= after:
            os.kill(child, number)
            after = None
        if passed > TIMEOUT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"no end after {TIMEOUT:.0f} s")
        time.sleep(0.002)


def numbers(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Every line of the logs of a run, without times and memory."""
    found = {}
    for name in LOGS:
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
        clocks = ("time/", "cost/peak_memory", "cost/micro_batch")
        found[name] = [{key: value for key, value in line.items() if not key.startswith(clocks)} for line in lines]
    return found


def weights(run: Path) -> bytes:
    """The last weights."""
    last = max((run / "checkpoint").glob("step_*"), key=lambda place: int(place.name.partition("_")[2]))
    return (last / "model.safetensors").read_bytes()


def files(run: Path) -> set[str]:
    """What a run leaves, without the trackers' files."""
    return {name for file in run.rglob("*") if not (name := str(file.relative_to(run))).startswith("tensorboard")}


def completed(shelf: Path) -> list[Path]:
    """The directories of completed runs."""
    found = [file.parent for file in sorted(shelf.glob("*/run.json")) if not file.parent.is_symlink()]
    return [run for run in found if json.loads((run / "run.json").read_text())["status"] == "completed"]


def differences(run: Path, whole: Path) -> list[str]:
    """What is not as in the run that nothing disturbed."""
    wrong = [name for name, lines in numbers(run).items() if lines != numbers(whole)[name]]
    wrong += ["weights"] if weights(run) != weights(whole) else []
    return wrong + [f"left over: {name}" for name in sorted(files(run) - files(whole))]


def disturbed(argv: list[str], place: Path, draw: random.Random, seconds: float, counts: Counter[str]) -> list[str]:
    """The command killed once or twice at random moments and then given again to its end; problems on the way."""
    place.mkdir()
    for _ in range(1 + (draw.random() < 0.3)):
        number = draw.choice(SIGNALS)
        code = ended(started(argv, place), after=draw.uniform(0.0, seconds), number=number)
        counts[signal.Signals(number).name if code else "ended before"] += 1
        if code not in (0, ENDS[number]):
            return [f"{signal.Signals(number).name} ended it with {code}"]
    code = ended(started(argv, place))
    log = (place / "log").read_text(errors="replace")
    return [f"its end was {code}"] * (code != 0) + ["a traceback"] * ("Traceback" in log)


def main(runs: int, sweeps: int, seed: int) -> dict[str, Any]:
    """Counts by signal, and each problem with its place."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    import rlx.rollout.decoding.probe
    import rlx.rollout.transformers
    import rlx.training.run  # noqa: F401

    draw, counts, problems = random.Random(seed), Counter[str](), []
    root = Path(tempfile.mkdtemp(prefix="killing"))
    whole: dict[str, tuple[list[str], Path, float]] = {}
    for name, further in list(ALGORITHMS.items())[: runs or None] if runs else ():
        argv = ["train", f"algorithm={name}", *COMMON, *further, "resume=auto"]
        (root / name).mkdir()
        begun = time.monotonic()
        if ended(started(argv, root / name)) != 0:
            raise SystemExit(f"{name}: {(root / name / 'log').read_text()}")
        whole[name] = (argv, completed(root / name / "outputs" / "train")[0], time.monotonic() - begun)
    for trial in range(runs):
        name = list(whole)[trial % len(whole)]
        argv, unbroken, seconds = whole[name]
        place = root / f"run{trial}"
        wrong = disturbed(argv, place, draw, 1.1 * seconds, counts)
        done = completed(place / "outputs" / "train")
        wrong += differences(done[0], unbroken) if len(done) == 1 else [f"{len(done)} completed runs"]
        problems += [f"{place} ({name}): {', '.join(wrong)}"] if wrong else []
    argv = ["-m", "loss=dpo,ipo", "seed=0,1", *COMMON, "algorithm.pairs_per_step=8", "sweep.workers=2", "hydra.sweep.dir=sweep"]
    if sweeps:
        (root / "sweep").mkdir()
        begun = time.monotonic()
        if ended(started(argv, root / "sweep")) != 0:
            raise SystemExit((root / "sweep" / "log").read_text())
        seconds = time.monotonic() - begun
    for trial in range(sweeps):
        place = root / f"sweep{trial}"
        wrong = disturbed(argv, place, draw, seconds, counts)
        done = completed(place / "sweep")
        wrong += [] if len(done) == 4 else [f"{len(done)} completed jobs"]
        for job in done:
            wrong += [f"{job.name}: {text}" for text in differences(job, root / "sweep" / "sweep" / job.name)]
        problems += [f"{place}: {', '.join(wrong)}"] if wrong else []
    return {"runs": runs, "sweeps": sweeps, "signals": dict(counts), "problems": problems}


if __name__ == "__main__":
    found = main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    print(json.dumps(found))
    sys.exit(bool(found["problems"]))
