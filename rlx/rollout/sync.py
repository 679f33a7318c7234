"""How the policy's weights reach a server of vLLM: as an adapter, as a directory of weights, or from GPU to GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from transformers.core_model_loading import revert_weight_conversion

from rlx.client import JsonClient
from rlx.errors import ConfigError, TrainingError
from rlx.rollout.transfer import Transfer

if TYPE_CHECKING:
    from rlx.policy.base import Policy

SYNCS = ("none", "adapter", "disk", "nccl")
_DEV_MODE = "start vLLM with VLLM_SERVER_DEV_MODE=1"
ADAPTER_NAME = "rlx-policy"  # the server's name of the adapter; each sync replaces the one that has it


def require_sync(sync: str, policy: Policy) -> None:
    """Raise ConfigError where the policy's weights cannot be sent in this way."""
    if sync == "adapter" and policy.adapter is None:
        raise ConfigError(
            "rollout.sync=adapter sends a low-rank adapter, and this policy trains all its weights; add policy/adapter=lora, or "
            "set rollout.sync=disk"
        )
    if sync == "adapter" and policy.adapter is not None and policy.adapter.lora.dora:
        raise ConfigError("rollout.sync=adapter: vLLM does not load DoRA; set policy.adapter.dora=false, or rollout.sync=disk")
    if sync == "nccl" and (policy.device.type != "cuda" or not dist.is_nccl_available()):
        raise ConfigError(
            f"rollout.sync=nccl sends weights from GPU to GPU, and this policy is on {policy.device.type}; set "
            "rollout.sync=disk or adapter"
        )


def send_files(sync: str, client: JsonClient, policy: Policy, *, version: int, directory: Path) -> None:
    """Give the server the policy's weights. directory: where files are written, which the server must see under the same path.

    Raises GoneError where the server cannot be reached, ConfigError where it refuses, TrainingError where no file can be written.
    """
    target = directory / f"version_{version}"
    if sync == "adapter":
        _send_adapter(client, policy, target)
    else:
        _send_disk(client, policy, target, version)
    for other in directory.glob("version_*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def send_broadcast(transfer: Transfer, client: JsonClient, policy: Policy, *, version: int) -> None:
    """Give the server the policy's weights from GPU to GPU, under the names that they have in a checkpoint.

    Raises what Transfer.send does.
    """
    model = _whole(policy)
    weights = revert_weight_conversion(model, dict(model.named_parameters()))
    with _paused(client):
        transfer.send(weights, version=version)
        client.tell("reset_prefix_cache", missing=_DEV_MODE)


def _send_adapter(client: JsonClient, policy: Policy, target: Path) -> None:
    assert policy.adapter is not None
    adapter = policy.adapter
    _written(target, lambda: adapter.write(target))
    client.tell(
        "v1/load_lora_adapter",
        {"lora_name": ADAPTER_NAME, "lora_path": str(target), "load_inplace": True},
        missing="start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora",
    )


def _send_disk(client: JsonClient, policy: Policy, target: Path, version: int) -> None:
    model = _whole(policy)

    def write() -> None:
        model.save_pretrained(target, max_shard_size="1000GB")
        policy.tokenizer.save_pretrained(target)

    _written(target, write)
    with _paused(client):
        client.tell("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(target)}}, missing=_DEV_MODE)
        client.tell("reset_prefix_cache", missing=_DEV_MODE)
        client.tell("update_weight_version", {"new_version": str(version)}, missing=_DEV_MODE)


def _whole(policy: Policy) -> Any:
    """The model with all its weights: an adapter is added to a copy of them."""
    return policy.model if policy.adapter is None else policy.adapter.merged()


@contextmanager
def _paused(client: JsonClient) -> Iterator[None]:
    """The server begins no completion while this lasts, and has ended those that it had begun."""
    client.tell("pause?mode=wait", missing=_DEV_MODE)
    try:
        yield
    finally:
        client.tell("resume", missing=_DEV_MODE)


def _written(target: Path, write: Callable[[], None]) -> None:
    """Write a directory anew."""
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        write()
    except OSError as error:
        raise TrainingError(
            f"the weights for the server could not be written to {target}: {error.strerror or error}; free some space, or name "
            "another directory by rollout.sync_path"
        ) from error
