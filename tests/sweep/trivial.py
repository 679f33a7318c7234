"""Jobs of a pool that do next to nothing. The content of an order says what."""

import os
import signal
import sys
import time

from rlx.sweep.pool.messages import Done


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
    channel.progress(1, {"eval/score": 0.5})
    return Done("completed", {"pid": float(os.getpid()), "threads": float(os.environ["OMP_NUM_THREADS"])})
