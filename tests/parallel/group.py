"""Three processes that measure, case by case, how far two and three ranks are from one process; started once for many tests."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

WORLD = 3
ROOT = Path(__file__).parents[2]

SHIPPED = sorted(path.stem for path in (ROOT / "conf" / "algorithm").glob("*.yaml") if path.stem != "mixture")
COUPLED = {"aot": "dpo", "aot_unpaired": "dpo", "bco": "dpo", "kto_pair": "dpo", "clip_cov": "grpo", "kl_cov": "grpo"}
KEPT = {"kept": "dpo", "kept_coupled": "dpo", "kept_tokens": "grpo"}  # losses with state
COUPLED |= {f"tests.parallel.laboratory.{name}": of for name, of in KEPT.items()}


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """The variables that torchrun would set."""
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = {name: str(value) for name, value in named.items()}
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **own}


def free_port() -> int:
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def measured() -> dict[str, Any]:
    """Name of a case -> what rank 0 found."""
    port = free_port()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "found.json"
        command = [sys.executable, "-W", "error::UserWarning:rlx", "-m", "tests.parallel.group", str(file)]
        processes = [
            subprocess.Popen(
                command, env=environment(rank, WORLD, port), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            for rank in range(WORLD)
        ]
        try:
            said = [process.communicate(timeout=600)[0].decode() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(said)
        found: dict[str, Any] = json.loads(file.read_text())
        return found


FEW = [name + cut for name in ("custom_dpo", "custom_grpo", "ppo", "sft", "loss aot") for cut in ("", " in pieces")]
SHIPPED_SHARDED = [*SHIPPED, *FEW, "loss clip_cov in pieces", "one row", "empty completions", "no completion at all", "exact KL"]
KINDS = [*SHIPPED, *(f"loss {name}" for name in COUPLED)]
ALL = [*KINDS, *(f"{name} in pieces" for name in KINDS), "one row", "empty completions", "no completion at all", "exact KL"]

# ---- what the processes do --------------------------------------------------------------------------------------------------


def cases(lab: Any, names: Collection[str]) -> Iterator[tuple[str, Any, Any, int | None]]:
    """(name, algorithm, batch, micro_batch) of those that are named; nothing is drawn for the others."""
    import rlx

    def both(name: str, option: str, loss: str | None = None) -> Iterator[tuple[str, Any, Any, int | None]]:
        wanted = [(case, size) for case, size in ((name, None), (f"{name} in pieces", 2)) if case in names]
        if wanted:
            made = small(rlx.load("algorithm", option))
            made = made if loss is None else dataclasses.replace(made, loss=rlx.load("loss", loss))
        for case, micro_batch in wanted:
            yield case, made, made.draw(lab), micro_batch

    for name in SHIPPED:
        yield from both(name, name)
    for loss, of in COUPLED.items():
        yield from both(f"loss {loss}", of, loss)
    if "one row" in names:
        made = small(rlx.load("algorithm", "custom_dpo"))
        yield "one row", made, made.draw(lab)[:1], None
    if "empty completions" in names:
        grpo = small(rlx.load("algorithm", "grpo"))
        groups = grpo.draw(lab)
        yield "empty completions", grpo, without_completions(groups, [0]), 1
        yield "no completion at all", grpo, without_completions(groups, range(len(groups))), 1
    if "exact KL" in names:
        kl = rlx.load("loss", "clipped", beta=0.1, kl_estimator="exact", kl_gradient="plain")
        exact = dataclasses.replace(small(rlx.load("algorithm", "custom_grpo")), loss=kl)
        yield "exact KL", exact, exact.draw(lab), None


def small(algorithm: Any) -> Any:
    """With five rows a term, which neither two nor three ranks divide."""
    fields = {item.name for item in dataclasses.fields(algorithm) if item.init}
    sizes = {"pairs_per_step": 5, "prompts_per_step": 5, "group_size": 3}
    changed: dict[str, Any] = {name: size for name, size in sizes.items() if name in fields}
    changed |= {name: small(getattr(algorithm, name)) for name in ("dpo", "grpo") if name in fields}
    return dataclasses.replace(algorithm, **changed)


def without_completions(batch: Any, rows: Any) -> Any:
    """A batch of rollouts whose completions in `rows` have no token."""
    import numpy as np

    sequences = batch.sequences
    empty = np.zeros(0, dtype=np.int64)
    completions = tuple(
        tuple(empty if row in rows else completion for completion in group) for row, group in enumerate(sequences.completions)
    )
    changed = dataclasses.replace(sequences, completions=completions)
    mask = changed.completion_mask
    return dataclasses.replace(
        batch, sequences=changed, weights=batch.weights * mask, sampling_logprobs=batch.sampling_logprobs * mask
    )


def norm(gradients: dict[str, Any]) -> float:
    return sum(float((part**2).sum()) for group in gradients.values() for part in group if part is not None) ** 0.5


def gap(one: dict[str, Any], many: dict[str, Any]) -> float:
    """The distance of gradients over the norm of those of one process; infinite where the groups or the None differ."""
    if list(one) != list(many):
        return float("inf")
    distance = 0.0
    for name in one:
        for a, b in zip(one[name], many[name], strict=True):
            if (a is None) != (b is None):
                return float("inf")
            if a is not None:
                distance += float(((a - b).double() ** 2).sum())
    return distance**0.5 / norm(one) if distance else 0.0


def metric_gap(one: dict[str, float], many: dict[str, float]) -> float:
    if one.keys() != many.keys():
        return float("inf")
    return max((abs(one[name] - many[name]) / max(1.0, abs(one[name])) for name in one), default=0.0)


def gradients(algorithm: Any, lab: Any, batch: Any, micro_batch: int | None, ranks: Any, by: Any) -> Any:
    from rlx.training.gradients import AccumulatedGradients

    source = AccumulatedGradients(algorithm, lab.policy, lab.reference, batch, micro_batch=micro_batch, ranks=ranks)
    found = source(by)
    means = {name: total / max(count, 1.0) for name, (total, count) in (source.record or {}).items()}
    return found, {**source.metrics, **means}


def main(file: str) -> None:
    import torch
    import torch.distributed as dist

    from rlx.parallel.distributed import DistributedRanks, join
    from rlx.parallel.ranks import ALONE
    from rlx.policy import pieces
    from tests import composing
    from tests.parallel.laboratory import laboratory

    composing.install()
    torch.set_num_threads(1)
    three = join(WORLD, timeout=120, device="cpu")
    pair = dist.new_group([0, 1])
    store = dist.PrefixStore("pair", dist.distributed_c10d._get_default_store())
    two = DistributedRanks(pair, store, rank=three.rank, world=2, timeout=120) if three.rank < 2 else None
    found: dict[str, Any] = {}
    for dtype, names in ((torch.float64, ALL), (torch.float32, FEW)):
        lab = laboratory(dtype)
        for name, algorithm, batch, micro_batch in cases(lab, names):
            result: dict[str, Any] = {}
            if micro_batch is not None and dtype == torch.float32:
                continue
            combines = name in ("hybrid", "ppo", "custom_dpo")
            for by in (None, str) if dtype == torch.float64 and combines else (None,):
                if three.rank == 0:  # which alone compares, and writes what it found
                    alone, figures = gradients(algorithm, lab, batch, micro_batch, ALONE, by)
                    result["norm"] = max(result.get("norm", 0.0), norm(alone))
                for ranks in (two, three):
                    if ranks is not None:
                        many, summed = gradients(algorithm, lab, batch, micro_batch, ranks, by)
                        place = f"{ranks.world}{' by term' if by else ''}"
                        if three.rank == 0:
                            result[place] = {"gradient": gap(alone, many), "metrics": metric_gap(figures, summed)}
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = result
    found |= sharded(three, SHIPPED_SHARDED, torch.float64)
    pieces.ELEMENTS = 64  # whole policies compute logits in pieces from now on
    found |= sharded(three, FEW, torch.float32)
    if two is not None:
        found |= sharded(two, FEW, torch.float64)
    found |= checkpoints(two, three, Path(file).parent)
    if two is not None:
        two.lockstep = None
    if three.rank == 0:
        Path(file).write_text(json.dumps(found))
    three.lockstep = None
    three.end(None)


def sharded(ranks: Any, names: Any, dtype: Any) -> dict[str, Any]:
    """How far a policy that is split over the ranks is from one in one process; and the share of the bytes that a rank has."""
    import torch

    from rlx.optimizer.step import Clipping
    from rlx.parallel.ranks import ALONE
    from rlx.parallel.sharded import full_tensor, shard
    from tests.parallel.laboratory import laboratory, optimizer_of

    alone, lab = laboratory(dtype), laboratory(dtype)
    shard([lab.policy.model, lab.policy.value_head, lab.reference.model], ranks, device=torch.device("cpu"))
    found = {}
    for name, algorithm, batch, micro_batch in cases(alone, names):
        many, summed = gradients(algorithm, lab, batch, micro_batch, ranks, None)
        many = {key: [None if part is None else full_tensor(part) for part in parts] for key, parts in many.items()}
        if ranks.rank > 0:
            continue
        one, figures = gradients(algorithm, alone, batch, micro_batch, ALONE, None)
        found[f"{name} {str(dtype).removeprefix('torch.')} sharded {ranks.world}"] = {
            "norm": norm(one),
            "gradient": gap(zeroed(one, many), many),
            "metrics": metric_gap(figures, summed),
        }
    given = gradients(algorithm, lab, batch, micro_batch, ranks, None)[0]["loss"]
    optimizers = [optimizer_of(each.policy) for each in (alone, lab)]
    for optimizer, gradient in zip(
        optimizers, ([None if part is None else full_tensor(part) for part in given], given), strict=True
    ):
        optimizer.step(gradient, Clipping(max_grad_norm=0.01, adaptive=0.02))
    apart = [
        float((full_tensor(b) - a.detach()).abs().max()) for a, b in zip(*(each.parameters for each in optimizers), strict=True)
    ]
    held = [sum(local_bytes(each)) for each in optimizers]
    shares = ranks.exchange("the bytes", lambda: held[1] / held[0])
    return found | {f"bytes {dtype} {ranks.world}": shares, f"moved {dtype} {ranks.world}": max(apart)}


def checkpoints(two: Any, three: Any, place: Path) -> dict[str, Any]:
    """Whether weights and moments are equal to the last bit when split over two ranks, loaded by one and split over three."""
    import torch

    from rlx.optimizer.step import Clipping
    from rlx.parallel.sharded import gathered, shard
    from rlx.training.checkpoint import TrainerState, load_checkpoint, save_checkpoint, trainer_tensors, weights_of
    from tests.parallel.laboratory import laboratory, optimizer_of

    def made(ranks: Any) -> tuple[Any, Any]:
        policy = laboratory(torch.float32).policy
        if ranks is not None:
            shard([policy.model, policy.value_head], ranks, device=torch.device("cpu"))
        return policy, optimizer_of(policy)

    def held(policy: Any, optimizer: Any, ranks: Any) -> Any:
        state = {"weights": weights_of(policy), **trainer_tensors(policy, optimizer, None)}
        return state if ranks is None else gathered(state, ranks)

    def saved(policy: Any, optimizer: Any, ranks: Any, step: int) -> None:
        state = None if ranks is None else held(policy, optimizer, ranks)
        if three.rank == 0:
            whole = None if state is None else (state.pop("weights"), state)
            save_checkpoint(place, policy=policy, optimizer=optimizer, progress=TrainerState(step=step), gathered=whole)

    def stepped(policy: Any, optimizer: Any) -> None:
        optimizer.step([0.1 * parameter.detach() for parameter in policy.parameters()], Clipping(max_grad_norm=1.0))

    found, before = {}, None
    for step, ranks in ((1, two), (2, None), (3, three)):
        if not (step == 1 and two is None):
            policy, optimizer = made(ranks)
            if step > 1:
                load_checkpoint(place / f"checkpoint/step_{step - 1}", policy=policy, optimizer=optimizer)
                loaded = held(policy, optimizer, ranks)
                found[f"checkpoint {step}"] = is_equal(before, loaded) if three.rank == 0 else None
            stepped(policy, optimizer)
            saved(policy, optimizer, ranks, step)
            before = copy.deepcopy(held(policy, optimizer, ranks))
        three.exchange("a checkpoint", lambda: None)
    return found


def is_equal(one: Any, other: Any) -> bool:
    """Of nested states, to the last bit."""
    from torch.utils._pytree import tree_flatten

    (mine, shape), (theirs, same) = tree_flatten(one), tree_flatten(other)
    return shape == same and all(
        bool((a == b).all()) if hasattr(a, "shape") else a == b for a, b in zip(mine, theirs, strict=True)
    )


def local_bytes(optimizer: Any) -> Iterator[int]:
    """Of the parameters and moments that this process holds."""
    for parameter in optimizer.parameters:
        for tensor in (parameter, *optimizer.torch_optimizer.state[parameter].values()):
            own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            yield own.numel() * own.element_size() if tensor.ndim else 0


def zeroed(one: Any, many: Any) -> Any:
    """The same gradients, 0 instead of none where split weights have one: they are reduced whether they are used or not."""
    return {
        key: [b * 0 if a is None and b is not None else a for a, b in zip(parts, many[key], strict=True)]
        for key, parts in one.items()
    }


if __name__ == "__main__":
    from rlx.parallel.distributed import end_process

    main(sys.argv[1])
    end_process(0)  # as every rank of rlx ends: at the interpreter's end its group aborts now and then
