"""Checkpoints: a transformers directory per step, with the trainer's state; written completely or not at all.

Digests are written with a checkpoint and verified before it is used. They cover its files, and the run's logged lines and config
at that moment: a resumed run must not continue from weights, trainer state or metrics that differ from those that were written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rlx.errors import DataError, TrainingError
from rlx.optimizer.step import Optimizer
from rlx.policy.adapter import read_adapter_weights
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.record.digest import damaged_log, digest_of, digests_of_logs
from rlx.record.files import relative
from rlx.record.run import read_run
from rlx.record.trust import command_for
from rlx.training.ahead import DrawAhead

TRAINER_JSON, TRAINER_TENSORS = "trainer.json", "trainer.pt"


@dataclass
class TrainerState:
    """The state of a run after `step` steps: all that the loop needs to continue as if it had not stopped.

    totals: sums over the run (tokens). best_score and best_step: over the evaluations so far.
    state: the algorithm's own tensors, written by its `draw`. loss_state: the running means of its losses (see rlx.loss.state).
    """

    step: int = 0
    best_score: float | None = None
    best_step: int | None = None
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    state: dict[str, Tensor] = field(default_factory=dict)
    loss_state: dict[str, float] = field(default_factory=dict)


def checkpoint_steps(run: Path) -> list[int]:
    """Steps of the complete checkpoints of a run, in order."""
    found = (entry.name.removeprefix("step_") for entry in (run / "checkpoint").glob("step_*"))
    return sorted(int(number) for number in found if number.isdigit())


def checkpoint_path(run: Path, step: int) -> Path:
    """The directory of the checkpoint of a step."""
    return run / "checkpoint" / f"step_{step}"


def weights_of(policy: Policy) -> dict[str, Tensor]:
    """The weights that `write_policy` writes, of the model or of the adapter; tied weights are one tensor."""
    found: dict[str, Tensor] = policy.model.state_dict(keep_vars=True) if policy.adapter is None else policy.adapter.state()
    return found


def write_policy(
    policy: Policy, directory: Path, *, dtype: torch.dtype | None = None, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write weights (safetensors), config and tokenizer in the format of transformers, or the adapter; dtype None: unchanged.

    weights: see weights_of; passed if the policy itself has only a shard of them.
    """
    if policy.adapter is not None:
        policy.adapter.write(directory, weights)
        return
    _write_model(policy.model, policy.tokenizer, directory, dtype=dtype, weights=weights)


def _write_model(
    model: Any, tokenizer: Any, directory: Path, *, dtype: torch.dtype | None, weights: Mapping[str, Tensor] | None = None
) -> None:
    state = _cast(weights or model.state_dict(), dtype) if dtype else weights
    model.save_pretrained(directory, state_dict=state, max_shard_size="1000GB")
    tokenizer.save_pretrained(directory)
    if dtype:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(
            json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}, indent=2) + "\n"
        )


def _cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Convert floating-point tensors to another dtype; tied ones stay one tensor, so that they are written once."""
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for tensor in state.values():
        made.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return {name: made[tensor.data_ptr(), tensor.shape] for name, tensor in state.items()}


def export_policy(
    policy: Policy,
    directory: Path,
    *,
    dtype: torch.dtype,
    merge: bool = False,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """`write_policy` at the end of a run. merge: write full weights with the adapter merged in.

    Raises TrainingError if the files cannot be written.
    """
    try:
        if merge and policy.adapter is not None:
            _write_model(policy.adapter.merged(), policy.tokenizer, directory, dtype=dtype)
        else:
            write_policy(policy, directory, dtype=dtype, weights=weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"the final weights could not be written to export.path={directory}: {_reason(error)}; "
            "they are in the run's last checkpoint"
        ) from error


def _reason(error: Exception) -> str:
    """Why a file was not written, and what to do; torch and safetensors only report that a write ended early, not why."""
    text = str(error)
    number = re.search(r"os error (\d+)", text)
    code = getattr(error, "errno", None) or (int(number[1]) if number else None)
    ended_early = any(word in text for word in ("No space", "unexpected pos", "PytorchStreamWriter", "inline_container"))
    if code == errno.ENOSPC or (ended_early and code is None):
        return "the disk is full; free some space"
    if code == errno.EDQUOT:
        return "the quota of this disk is used up; free some space"
    if code == errno.EFBIG or "basic_ios" in text:
        return "a file may not become that large here: the disk is full, or see `ulimit -f` and the limits of the file system"
    return f"{text}; make the directory writable"


def _command(run: Path) -> str:
    """The command that resumes a run; a short form if its record cannot be read."""
    try:
        return command_for(read_run(run))
    except DataError:
        return shlex.join(["rlx", "train", f"resume={relative(run)}"])


def trainer_tensors(policy: Policy, optimizer: Optimizer, reference: Reference | None) -> dict[str, Any]:
    """The tensors of a checkpoint besides the policy's weights and the progress."""
    return {
        "optimizer": optimizer.state_dict(),
        "value_head": None if policy.value_head is None else policy.value_head.state_dict(),
        "reference": None if reference is None else reference.state_dict(),
    }


def save_checkpoint(
    run: Path,
    *,
    policy: Policy,
    optimizer: Optimizer,
    progress: TrainerState,
    reference: Reference | None = None,
    ahead: DrawAhead | None = None,
    gathered: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
) -> Path:
    """Write to a temporary name, fsync, rename. Raises TrainingError if that fails; older checkpoints are then unchanged.

    gathered: weights_of and trainer_tensors, passed if this process itself has only a shard of them.
    """
    final = checkpoint_path(run, progress.step)
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights, tensors = gathered or (None, trainer_tensors(policy, optimizer, reference))
        write_policy(policy, temporary, weights=weights)
        state = progress.state if ahead is None else ahead.state  # a resumed run makes the next draw again
        drawn = {} if ahead is None else {"ahead": ahead.state_dict()}
        torch.save({**tensors, "state": state, **drawn}, temporary / TRAINER_TENSORS)
        plain = {name: value for name, value in asdict(progress).items() if name != "state"}
        (temporary / TRAINER_JSON).write_text(json.dumps(seal(plain, temporary, run), indent=2) + "\n")
        for file in (*temporary.iterdir(), temporary):
            sync(file)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(final.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        mend = f"resume with `{_command(run)}`" if checkpoint_steps(run) else "run the command again"
        raise TrainingError(
            f"the checkpoint of step {progress.step} could not be written to {final}: {_reason(error)}, then {mend}"
        ) from error
    return final


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prune_checkpoints(run: Path, *, keep_last: int, best_step: int | None) -> None:
    """Remove all checkpoints except the newest `keep_last` and the best one, and leftovers of interrupted writes."""
    steps = checkpoint_steps(run)
    for step in steps[:-keep_last]:
        if step != best_step:
            shutil.rmtree(checkpoint_path(run, step))
    for leftover in (run / "checkpoint").glob(".step_*"):
        shutil.rmtree(leftover, ignore_errors=True)


def load_checkpoint(
    directory: Path,
    *,
    policy: Policy,
    optimizer: Optimizer,
    reference: Reference | None = None,
    ahead: DrawAhead | None = None,
) -> TrainerState:
    """Restore the policy, the optimiser, a moved reference and the weights for sampling ahead from a checkpoint.

    Unpickles only tensors and plain values. Raises DataError for files that are damaged or do not fit this run.
    """
    values = verified_values(directory)
    load_weights(directory, policy)
    try:
        tensors: dict[str, Any] = torch.load(directory / TRAINER_TENSORS, weights_only=True, map_location="cpu")
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{directory}: the trainer's state cannot be read: {reason}") from error
    try:
        _load_moments(optimizer, tensors["optimizer"])
        if policy.value_head is not None:
            policy.value_head.load_state_dict(_parts(tensors["value_head"], policy.value_head.state_dict()))
        if reference is not None and tensors.get("reference") is not None:
            reference.load_state_dict(_parts(tensors["reference"], dict(reference.model.named_parameters())))
        if ahead is not None:
            ahead.load_state_dict(tensors["ahead"])
        return TrainerState(**{name: value for name, value in values.items() if name != SEALED}, state=tensors["state"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise DataError(f"{directory}: the trainer's state does not fit this run ({reason}); start the run again") from error


def _parts(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The given tensors; for those whose own counterpart is sharded over ranks, this rank's shard."""
    return {name: _part(tensor, own[name]) if name in own else tensor for name, tensor in given.items()}


def _part(tensor: Tensor, like: Tensor) -> Tensor:
    if not hasattr(like, "device_mesh") or tensor.shape != like.shape:
        return tensor
    from rlx.parallel.sharded import local_part

    return local_part(tensor, like)


def _load_moments(optimizer: Optimizer, state: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.torch_optimizer.param_groups for parameter in group["params"]]
    for place, moments in state["state"].items():
        moments.update({name: _part(value, parameters[place]) for name, value in moments.items() if isinstance(value, Tensor)})
    optimizer.load_state_dict(state)


def verified_values(directory: Path) -> dict[str, Any]:
    """Verify the files of a checkpoint and return the plain values of its trainer state. Raises DataError."""
    try:
        values = json.loads((directory / TRAINER_JSON).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{directory}: the trainer's state cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise DataError(f"{directory / TRAINER_JSON} holds no trainer's state, but {type(values).__name__}")
    verify_checkpoint(directory, values)
    return values


def load_weights(directory: Path, policy: Policy) -> None:
    """Load the weights of a checkpoint into the policy. Raises DataError if they belong to another model."""
    from rlx.policy.pretrained import load_model

    if policy.adapter is not None:
        policy.adapter.load(_parts(read_adapter_weights(directory), policy.adapter.state()), source=str(directory))
        return
    weights = load_model(directory, dtype=policy.dtype).state_dict()
    try:
        policy.model.load_state_dict(_parts(weights, policy.model.state_dict()))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"the weights in {directory} do not fit the policy of this run: {reason}") from error


# Digests of what was written.

SEALED = "sealed"


def seal(values: dict[str, Any], checkpoint: Path, run: Path) -> dict[str, Any]:
    """Add digests to the plain values of a trainer's state.

    values: the values to which the digests are added. checkpoint: the directory, with all other files already written. run: the
    directory of the record.
    """
    files = {file.name: digest_of(file) for file in sorted(checkpoint.iterdir())}
    sealed: dict[str, Any] = {**values, SEALED: {"files": files, "logs": digests_of_logs(run)}}
    sealed[SEALED]["values"] = _digest_of_values(sealed)
    return sealed


def verify_checkpoint(directory: Path, values: dict[str, Any]) -> None:
    """Raise DataError if a file of the checkpoint differs from what was written.

    directory: the checkpoint, `step_<n>`. values: its trainer state as returned by `seal`; older versions of rlx wrote no
    digests.
    """
    step = directory.name.removeprefix("step_")
    if step.isdigit() and values.get("step") != int(step):
        raise _damaged(directory, f"its trainer's state is of step {values.get('step')}")
    seals = values.get(SEALED)
    if seals is None:
        return
    if not isinstance(seals, dict) or seals.get("values") != _digest_of_values(values):
        raise _damaged(directory, "its trainer's state was changed")
    for name, digest in seals["files"].items():
        try:
            found = digest_of(directory / name)
        except OSError as error:
            raise _damaged(directory, f"{name} cannot be read ({error.strerror})") from error
        if found != digest:
            raise _damaged(directory, f"{name} is not what was written")


def verify_logs(run: Path, values: dict[str, Any]) -> None:
    """Raise DataError if lines logged before the checkpoint are missing or changed."""
    damage = damaged_log(run, (values.get(SEALED) or {}).get("logs", {}), may_be_longer=True)
    if damage is not None:
        raise DataError(
            f"{damage} that were logged before the checkpoint of step {values['step']}, so the record of a resumed run "
            f"would have a gap; put the file back, or move {run} away and give its command again"
        )


def _digest_of_values(values: dict[str, Any]) -> str:
    seals = {name: value for name, value in values[SEALED].items() if name != "values"}
    text = json.dumps({**values, SEALED: seals}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(directory: Path, wrong: str) -> DataError:
    return DataError(
        f"the checkpoint {directory} is damaged: {wrong}; put the file back, or remove this directory to use an earlier "
        "checkpoint, if there is one"
    )
