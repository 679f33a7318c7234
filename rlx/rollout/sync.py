"""How the policy's weights reach a server of vLLM: as an adapter, as a directory of weights, or from GPU to GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlx.client import JsonClient
from rlx.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from rlx.policy.base import Policy

SYNCS = ("none", "adapter", "disk", "nccl")
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
    if sync == "nccl":
        gpu = "there is none" if not torch.cuda.is_available() else "it is not built yet"
        raise ConfigError(f"rollout.sync=nccl sends weights from GPU to GPU, and {gpu}; set rollout.sync=disk or adapter")


def send(sync: str, client: JsonClient, policy: Policy, *, version: int, directory: Path) -> None:
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
    model = policy.model if policy.adapter is None else policy.adapter.merged()

    def write() -> None:
        model.save_pretrained(target, max_shard_size="1000GB")
        policy.tokenizer.save_pretrained(target)

    _written(target, write)
    missing = "start vLLM with VLLM_SERVER_DEV_MODE=1"
    client.tell("pause?mode=wait", missing=missing)
    try:
        client.tell("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(target)}}, missing=missing)
        client.tell("reset_prefix_cache", missing=missing)
        client.tell("update_weight_version", {"new_version": str(version)}, missing=missing)
    finally:
        client.tell("resume", missing=missing)


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
