"""rlx against TRL on this machine: `python -m tests.peers.benchmark`, which `make peers` runs; --help says what can be chosen.

Both train the same model on the same data, in processes of their own that take turns round by round. A ratio is that of two
rounds that follow each other, so what else the machine does weighs on both; its spread says how far to trust it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.peers import study
from tests.peers.rounds import Worker
from tests.peers.workload import SIZES, Workload, write

SHAPES = {  # method, size, mean words of a prompt and of a completion, batch, updates of a round, rank of an adapter
    "dpo-1M": ("dpo", "1M", 8, 8, 16, 16, 0),
    "dpo-20M": ("dpo", "20M", 64, 64, 16, 1, 0),
    "grpo-1M": ("grpo", "1M", 16, 16, 64, 4, 0),
    "grpo-20M": ("grpo", "20M", 64, 64, 32, 1, 0),
    "grpo-20M-long": ("grpo", "20M", 192, 64, 32, 1, 0),
    "dpo-20M-lora": ("dpo", "20M", 64, 64, 16, 1, 16),
    "grpo-20M-lora": ("grpo", "20M", 64, 64, 32, 1, 16),
    "dpo-135M-lora": ("dpo", "135M", 64, 64, 8, 1, 16),
    "grpo-135M-lora": ("grpo", "135M", 64, 64, 16, 1, 16),
}
AGAINST = {  # method -> a side of TRL -> the side of rlx that it is compared with
    "dpo": {"trl_default": "rlx", "trl": "rlx", "trl_precomputed": "rlx"},
    "grpo": {"trl_default": "rlx", "trl": "rlx"},
    "adapter": {"trl_default": "rlx_recomputing", "trl": "rlx"},
}
ADAPTER = "-lora"  # at the end of the name of a shape
STUDY = "study"  # a whole sweep, timed from start to end: see tests.peers.study
WARM_UP = 1  # rounds before those that count: the reference is computed, memory is allocated


def main(arguments: Sequence[str]) -> int:
    """Compare and print; 1 if the sides do not compute the same."""
    chosen = parsed(arguments)
    if STUDY in chosen.shapes:
        study.main([])
        if len(chosen.shapes) == 1:
            return 0
    rows: list[dict[str, Any]] = []
    for workload in workloads(chosen):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write(workload, place)
            print(f"{workload.name}, batch {workload.batch}, {workload.threads} threads", flush=True)
            if not agree(workload, place):
                return 1
            rows += list(compared(workload, measured(workload, place, bfloat16=chosen.bfloat16)))
    print("\n".join(["", *table(rows)]))
    print(f"\nmeasured {datetime.date.today()}, {chosen.rounds} rounds after {WARM_UP} of warm-up, {chosen.threads} threads")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "shapes", nargs="*", help=f"of {', '.join(SHAPES)}; those without an adapter, if none is named; or {STUDY}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, help="mean words of a prompt, instead of the shape's")
    parser.add_argument("--completion", type=int, help="mean words of a completion of a pair; the longest sampled")
    parser.add_argument("--batch", type=int, help="pairs or completions of an update")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--updates", type=int, help="of a round")
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--clock", choices=("seconds", "cpu_seconds"), default="seconds", help="what a round's time is")
    parser.add_argument("--bfloat16", action="store_true", help="against TRL's own default arithmetic too, which is not rlx's")
    parser.add_argument("--json", type=Path, help="write the figures of every comparison here")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.shapes if name not in (*SHAPES, STUDY)]
    if unknown:
        parser.error(f"there is no shape {unknown[0]}; they are {', '.join(SHAPES)}, {STUDY}")
    for name in ("rounds", "threads", "prompt", "completion", "batch", "group_size", "updates"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}; it is at least 1")
    return chosen


def workloads(chosen: argparse.Namespace) -> Iterator[Workload]:
    """The shapes that were asked for, with what the command line changes in them."""
    default = [name for name in SHAPES if not name.endswith(ADAPTER)]
    for name in [shape for shape in chosen.shapes if shape != STUDY] or default:
        method, size, prompt, completion, batch, updates, rank = SHAPES[name]
        yield Workload(
            method,
            chosen.size or size,
            chosen.prompt or prompt,
            chosen.completion or completion,
            chosen.batch or batch,
            chosen.group_size,
            chosen.updates or updates,
            chosen.rounds + WARM_UP,
            chosen.threads,
            clock=chosen.clock,
            rank=rank,
        )


def against(workload: Workload, *, bfloat16: bool) -> dict[str, str]:
    """A side of TRL -> the side of rlx that it is compared with. With an adapter, both recompute activations, or neither does."""
    return {**AGAINST["adapter" if workload.rank else workload.method], **({"trl_bfloat16": "rlx"} if bfloat16 else {})}


def agree(workload: Workload, place: Path) -> bool:
    """Whether both sides compute the same loss and gradient; in a process of its own, which leaves no memory taken."""
    from tests.peers.agreement import compare

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        found = apart.submit(compare, workload, place).result()
    print(
        f"  before the first update: loss {found.ours:.7f} here, {found.theirs:.7f} there; "
        f"gradients differ by {found.gradient_difference:.1e} of the largest",
        flush=True,
    )
    if not found.holds:
        print("  the sides do not compute the same; their speeds are not compared", file=sys.stderr)
    return found.holds


def measured(workload: Workload, place: Path, *, bfloat16: bool) -> dict[str, list[Mapping[str, Any]]]:
    """Side -> what each of its rounds took, the warm-up left out.

    Sides that are compared with each other take turns. Others are not begun meanwhile: a model of 135 M takes 9 GB in TRL.
    """
    logs = Path(tempfile.mkdtemp(prefix="peers_"))
    chosen = against(workload, bfloat16=bfloat16)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for own in dict.fromkeys(chosen.values()):
        sides = dict.fromkeys([own, *(side for side, with_ in chosen.items() if with_ == own)])
        workers = [Worker(side, place, threads=workload.threads, log=logs / f"{side}.log") for side in sides]
        try:
            for number in range(workload.rounds):
                for worker in workers if number % 2 == 0 else reversed(workers):
                    made = worker.round()
                    if number >= WARM_UP:
                        found.setdefault(worker.side, []).append(made)
        finally:
            for worker in workers:
                worker.close()
    return found


def compared(workload: Workload, rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """For each other side: how many times faster rlx is, and what share of its memory it takes."""
    items = workload.pairs * (1 if workload.method == "dpo" else workload.group_size)
    for side, own in against(workload, bfloat16="trl_bfloat16" in rounds).items():
        if side not in rounds:
            continue
        each, ours = rounds[side], [one[workload.clock] for one in rounds[own]]
        theirs = [one[workload.clock] for one in each]
        ratios = [other / mine for mine, other in zip(ours, theirs, strict=True)]
        yield {
            "workload": workload.name,
            "batch": workload.batch,
            "against": side,
            "with": own,
            "unit": "pairs/s" if workload.method == "dpo" else "completions/s",
            "ours": items / statistics.median(ours),
            "theirs": items / statistics.median(theirs),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "our_peak": max(one["peak"] for one in rounds[own]),
            "their_peak": max(one["peak"] for one in each),
        }


NAMES = {
    "trl_default": "TRL's defaults",
    "trl_bfloat16": "TRL's defaults, in bfloat16",
    "trl": "TRL without gradient checkpointing",
    "trl_precomputed": "TRL without it, reference precomputed",
}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The comparisons in Markdown."""
    lines = [
        "| training | against | rlx | TRL | times faster [rounds] | peak memory, MiB: rlx, TRL |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        spread = f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        speeds = f"{row['ours']:.3g} {row['unit']} | {row['theirs']:.3g} {row['unit']}"
        memory = f"{row['our_peak'] / 2**20:.0f}, {row['their_peak'] / 2**20:.0f}"
        recomputes = ", as rlx recomputes" if row["with"] == "rlx_recomputing" else ""
        lines.append(
            f"| {row['workload']}, batch {row['batch']} | {NAMES[row['against']]}{recomputes} | {speeds} | {spread} | {memory} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
