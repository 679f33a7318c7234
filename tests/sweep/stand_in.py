"""Stands in for training in the workers of a sweep: real records, no torch; misbehaves where the config says so."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from pathlib import Path

from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, read_run
from rlx.sweep.pool.worker import Done
from rlx.sweep.state import figures_of

LOG = "steps.log"  # beside the sweep's jobs: one line for each step that any job has made


def content_of(job) -> dict:
    """A job as plain values: what the stand-in is told instead of a training's order."""
    from rlx.config.check import plain_config

    return {"config": plain_config(job.composed.cfg), "algorithm": job.composed.algorithm, "overrides": list(job.overrides)}


def score_at(config: dict, step: int) -> float:
    """Grows with the steps to a height that depends on x and y, best 1 at (0.3, -1), and a little on the seed."""
    wild = config["algorithm"]
    luck = random.Random(config["seed"]).gauss(0, 0.01)
    height = 1 - (wild["x"] - 0.3) ** 2 - 0.1 * (wild["y"] + 1) ** 2 - 0.05 * (wild["n"] - 4) ** 2 + luck
    if wild["does"] == "not_a_number":
        return math.nan
    return height * (step + 1) / (config["num_steps"] + 1)


def misbehave(does: str, directory: Path) -> None:
    """Whatever ends a run before its time."""
    if does == "raise" or (does == "raise_once" and not (directory / "tried").exists()):
        (directory / "tried").touch()
        raise RuntimeError("boom")
    if does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if does == "exit":
        os._exit(7)


def opened(directory: Path, content: dict) -> tuple[Recorder, int]:
    """The record of a new run, or of one that was cut short, at its last checkpoint."""
    mark = directory / "checkpoint"
    if (directory / "run.json").exists() and mark.exists() and read_run(directory).status != "completed":
        step = int(mark.read_text())
        return Recorder.reopen(directory, step), step
    config = content["config"]
    facts = {"overrides": content["overrides"], "algorithm": content["algorithm"], "task": "arithmetic", "seed": config["seed"]}
    return Recorder.create(directory, verb="train", command=["rlx"], config=config, config_yaml="", **facts), 0


def run(order, channel) -> Done:
    """One job."""
    directory, config = Path(order.directory), order.content["config"]
    wild = config["algorithm"]
    recorder, begun = opened(directory, order.content)
    recorder.log(begun, {"eval/score": score_at(config, begun), "eval/kl": abs(wild["x"])})
    try:
        for step in range(begun + 1, config["num_steps"] + 1):
            time.sleep(wild["slow"])
            with open(directory.parent / LOG, "a") as log:
                log.write(f"{order.name} {step}\n")
            figures = {"eval/score": score_at(config, step), "eval/kl": abs(wild["x"])}
            recorder.log(step, figures)
            (directory / "checkpoint").write_text(str(step))
            if order.wants_answers and step < config["num_steps"]:
                if channel.shall_stop(step, figures):
                    recorder.interrupt(step=step)
                    return Done("pruned", figures=figures, reason=f"pruned after step {step}")
            else:
                channel.progress(step, figures)
            if step == 2:
                print("about to misbehave" if wild["does"] != "well" else "all is well", flush=True)
                misbehave(wild["does"], directory)
    except KeyboardInterrupt:
        recorder.interrupt(signal="SIGTERM")
        return Done("interrupted", reason="stopped by SIGTERM")
    except RuntimeError as error:
        recorder.fail(error)
        raise
    tokens = {"steps": config["num_steps"], "tokens_sampled": 0, "tokens_trained": 100}
    result = AlgorithmResult("wild", figures, training_time=0.1, metadata=tokens)
    recorder.finish(result)
    return Done("completed", figures=figures_of(result))
