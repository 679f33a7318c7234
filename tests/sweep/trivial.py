"""Jobs of a pool that do next to nothing. The content of an order says what."""

import gc
import os
import signal
import sys
import time

from rlx.sweep.pool.worker import Done

KEPT: list[list[int]] = []


def run(order, channel):
    does, *rest = order.content
    if does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "exit":
        os._exit(int(rest[0]))
    if does == "raise":
        print("about to raise")
        raise ValueError("boom")
    if does == "say":
        print("out", flush=True)
        print("err", file=sys.stderr, flush=True)
    if does == "sleep":
        time.sleep(float(rest[0]))
    if does == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    if does == "child":
        if os.fork() == 0:
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "ask":
        for step in range(1, 4):
            if channel.shall_stop(step, {"eval/score": float(step)}):
                return Done("pruned", reason=f"after {step}")
    if does == "keep":
        KEPT.extend([number] for number in range(5000))
    channel.progress(1, {"eval/score": 0.5})
    figures = {"pid": os.getpid(), "threads": float(os.environ["OMP_NUM_THREADS"]), "frozen": gc.get_freeze_count()}
    return Done("completed", {name: float(value) for name, value in figures.items()})
