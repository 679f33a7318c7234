"""Sends the policy's weights to a vLLM server: as an adapter, as a directory of weights, or from GPU to GPU."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from transformers.core_model_loading import revert_weight_conversion

from rlx.client import GoneError, JsonClient
from rlx.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from rlx.policy.base import Policy

SYNCS = ("none", "adapter", "disk", "nccl")
_DEV_MODE = "start vLLM with VLLM_SERVER_DEV_MODE=1"
ADAPTER_NAME = "rlx-policy"  # the server's name of the adapter; each sync replaces the one that has it


def require_sync(sync: str, policy: Policy) -> None:
    """Raise ConfigError if the policy's weights cannot be sent in this way."""
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
    """Send the policy's weights to the server. directory: for the files, which the server must see under the same path.

    Raises GoneError if the server cannot be reached, ConfigError if it refuses, TrainingError if a file cannot be written.
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
    """Send the policy's weights to the server from GPU to GPU, named as in a checkpoint.

    Raises the errors of Transfer.send.
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
    """The model with all its weights; an adapter is merged into a copy."""
    return policy.model if policy.adapter is None else policy.adapter.merged()


@contextmanager
def _paused(client: JsonClient) -> Iterator[None]:
    """Within this context, the server has finished its completions and starts no new ones."""
    client.tell("pause?mode=wait", missing=_DEV_MODE)
    try:
        yield
    finally:
        client.tell("resume", missing=_DEV_MODE)


def _written(target: Path, write: Callable[[], None]) -> None:
    """Write a directory, replacing an existing one."""
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        write()
    except OSError as error:
        raise TrainingError(
            f"the weights for the server could not be written to {target}: {error.strerror or error}; free some space, or name "
            "another directory by rollout.sync_path"
        ) from error


# vLLM's weight transfer: this process is rank 0 of a group whose other ranks are the server's workers, and broadcasts to them.
#
# The protocol is that of vLLM 0.32 for a trainer without vLLM: the id of the NCCL group goes to the server over HTTP, both sides
# join the group and all-reduce one number, and each parameter is one broadcast, in the order of a list sent before.


MISSING = 'start vLLM with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config \'{"backend": "nccl"}\''
_PAUSE = 0.001  # seconds between two polls


class BroadcastGroup(Protocol):
    """Processes that broadcast to each other; this one is rank 0."""

    def meet(self) -> None:
        """Join the group and all-reduce one number over its ranks. Returns when all have joined."""

    def unique_id(self) -> bytes:
        """The 128 bytes of the ncclUniqueId that the other ranks need to join. Waits until meet() has created it."""

    def broadcast(self, tensor: torch.Tensor) -> dist.Work:
        """Start sending a contiguous tensor to all ranks."""

    def close(self) -> None:
        """Leave the group, even in the middle of a broadcast."""


class NcclGroup:
    """An NCCL group. workers: the number of other ranks. timeout: seconds for joining it and for a broadcast."""

    def __init__(self, workers: int, device: torch.device, timeout: float) -> None:
        limit = timedelta(seconds=timeout)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = limit
        # torch's group leaves the id of its first communicator in its store, under the key 0; nobody else uses this store.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=limit)
        self._group: Any = dist.ProcessGroupNCCL(self._store, 0, workers + 1, options)
        self._device = device

    def meet(self) -> None:
        with torch.cuda.device(self._device):
            self._group.allreduce(torch.ones(1, device=self._device)).wait()
            torch.cuda.synchronize(self._device)

    def unique_id(self) -> bytes:
        return bytes(self._store.get("0"))

    def broadcast(self, tensor: torch.Tensor) -> dist.Work:
        with torch.cuda.device(self._device):
            work: dist.Work = self._group.broadcast(tensor, root=0)
            return work

    def close(self) -> None:
        self._group.abort()


@dataclass(frozen=True)
class Transfer:
    """A group with the workers of one server, which exists until it is closed or a transfer fails."""

    client: JsonClient
    group: BroadcastGroup

    @classmethod
    def open(cls, client: JsonClient, device: torch.device) -> Transfer:
        """Join a group with the server's workers. device: the GPU that holds the policy.

        Raises GoneError if the server cannot be reached, ConfigError if it refuses, TrainingError if the group is not formed
        within the client's timeout.
        """
        client = replace(client.beside, retries=0)  # a request sent twice would join or load twice
        workers = client.ask("get_world_size").get("world_size")
        if not isinstance(workers, int) or workers < 1:
            raise ConfigError(f"the server at {client.url} does not say how many workers it has; rollout.sync=nccl needs vLLM")
        group: BroadcastGroup = NcclGroup(workers, device, client.timeout)
        met = _begin(group.meet)
        joined: Future[None] | None = None
        try:
            settings = {
                "nccl_unique_id_b64": base64.b64encode(group.unique_id()).decode(),
                "rank_offset": 1,
                "world_size": workers + 1,
                "packed": False,
            }
            joined = _begin(lambda: client.tell("init_weight_transfer_engine", {"init_info": settings}, missing=MISSING))
            _wait([met, joined], client.timeout)
        except (RuntimeError, TimeoutError) as error:
            group.close()
            raise TrainingError(
                f"no NCCL group with the workers of the server at {client.url} came about within rollout.timeout="
                f"{client.timeout:g} s ({error}); NCCL needs the same version on both sides, and a GPU of the server's own"
            ) from error
        except BaseException:
            group.close()
            raise
        return cls(client, group)

    def send(self, weights: Mapping[str, torch.Tensor], *, version: int) -> None:
        """Broadcast the weights, named as in a checkpoint, and wait until the server has loaded them.

        The group is closed if this raises: GoneError if the server or its workers are gone, ConfigError or TrainingError if it
        refuses.
        """
        sent = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
        listed = {
            "names": list(sent),
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in sent.values()],
            "shapes": [list(tensor.shape) for tensor in sent.values()],
        }
        try:
            self.client.tell("start_weight_update", missing=MISSING)
            loaded = _begin(lambda: self.client.tell("update_weights", {"update_info": listed}, missing=MISSING))
            works = []
            for tensor in sent.values():
                if loaded.done():
                    loaded.result()  # raises if the server refused before receiving anything
                works.append(self.group.broadcast(tensor))
            _wait([loaded, *works], self.client.timeout)
            self.client.tell("finish_weight_update", {"weight_version": str(version)}, missing=MISSING)
        except (RuntimeError, TimeoutError) as error:
            self.group.close()
            raise GoneError(f"the weights did not reach the server at {self.client.url} from GPU to GPU: {error}") from error
        except BaseException:
            self.group.close()
            raise

    def close(self) -> None:
        """Leave the group and tell the server, if it still answers."""
        with suppress(TrainingError, ConfigError):  # a dead or older server has nothing to leave
            self.client.tell("shutdown_weight_transfer_engine", missing=MISSING)
        self.group.close()


def _begin(work: Callable[[], None]) -> Future[None]:
    """Call work() in a daemon thread; the future completes when it has ended."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:  # re-raised by the future's result
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _wait(parts: list[Any], timeout: float) -> None:
    """Wait until all futures and broadcasts are done; raise the first failure without waiting for the others.

    Raises TimeoutError.
    """
    deadline = time.monotonic() + timeout
    while parts:
        left = []
        for part in parts:
            if not (part.done() if isinstance(part, Future) else part.is_completed()):
                left.append(part)
            elif isinstance(part, Future):
                part.result()
            else:
                part.wait()
        if left and time.monotonic() > deadline:
            raise TimeoutError(f"not done after {timeout:g} s")
        parts = left
        time.sleep(_PAUSE if left else 0)
