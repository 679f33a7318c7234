"""Sampling from a vLLM server that rlx starts, watches, and ends with the run.

vLLM pins different package versions than rlx, so it runs with the interpreter of a separate environment (`make vllm` creates one
for CPU). The server listens only on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rlx.errors import ConfigError, RlxError, TrainingError
from rlx.fields import count, non_empty, within
from rlx.rollout import watchdog
from rlx.rollout.server import ServerSampler
from rlx.rollout.sync import require_sync

if TYPE_CHECKING:
    from rlx.policy.base import Policy

BASE_NAME = "rlx-base"  # the server's name for the model that it starts with
LOG = "vllm.log"
_LINES = 8  # lines of the log that an error shows
_EXTENSION = "rlx_worker_extension"
# On CPU vLLM packs the weights of linear layers for oneDNN and keeps these copies when weights are reloaded.
_EXTENSION_SOURCE = """from vllm import _custom_ops

_custom_ops._supports_onednn = False


class WorkerExtension:
    pass
"""


@dataclass
class Engine:
    """The process of a server. command and environment: how to start it. log: the file to which its output is appended."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    closed: bool = False
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it under a watchdog, which ends it when this process is gone for any reason.

        Raises TrainingError after `close`.
        """
        if self.closed:
            raise TrainingError("the run has ended, and its server with it")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, watchdog.__file__, *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,  # an interrupt at the terminal goes to the run, which ends the server
            )

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self._process is None else self._process.poll()

    def end(self) -> None:
        """End it and wait until it has ended."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the server dies with its watchdog
            self._process.wait()
        self._process = None

    def close(self) -> None:
        """End it for good, so that a draw in another thread does not start it again."""
        self.closed = True
        self.end()

    def tail(self) -> str:
        """The last lines of its log, for a message."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        return " | ".join(line.strip() for line in lines[-_LINES:] if line.strip()) or "nothing"


@dataclass
class _Started:
    """The server of a run, while it runs."""

    engine: Engine | None = None


@dataclass(frozen=True, kw_only=True)
class VllmSampler(ServerSampler):
    """A vLLM server for this run only, on this machine.

    python: the interpreter of vLLM's environment. port: null for a free one. memory: the share of GPU memory that it uses.
    cpu_cache: GiB of its KV cache on CPU. devices: its CUDA_VISIBLE_DEVICES, null for those of the run.
    sleeps: whether it frees its memory between draws for the run on the same GPU. arguments: further arguments for vLLM.
    start_timeout: seconds until it must answer. The other fields are those of ServerSampler.
    """

    url: str = field(init=False, default="http://127.0.0.1/v1")
    python: str = non_empty()
    port: int | None = count(at_most=65535, optional=True)
    memory: float = within(above=0, at_most=1)
    cpu_cache: int = count()
    devices: str | None
    sleeps: bool
    arguments: tuple[str, ...]
    start_timeout: float = within(above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arguments", tuple(str(word) for word in self.arguments))
        if self.ahead and self.sleeps:
            raise ConfigError(
                f"rollout.ahead={self.ahead} samples while the policy learns, so the server cannot give its memory back "
                "meanwhile; set rollout.sleeps=false"
            )
        if self.sync == "nccl" and (self.devices is None or self.sleeps):
            raise ConfigError(
                "rollout.sync=nccl needs a GPU of the server's own: name it by rollout.devices, its CUDA_VISIBLE_DEVICES, "
                "with rollout.sleeps=false; on one GPU set rollout.sync=disk or adapter"
            )

    @cached_property
    def _started(self) -> _Started:
        return _Started()

    @property
    def needs_one_process(self) -> str:
        return "rollout=vllm, where each rank would start a server of its own,"

    @contextmanager
    def running(self, run: Path, policy: Policy) -> Iterator[None]:
        """Start the server with the policy's weights and wait until it answers; end it at the end of this context.

        Raises TrainingError if the server ends, or does not answer in time.
        """
        port = self.port or _free_port()
        self.link.url = f"http://127.0.0.1:{port}/v1"
        self.link.watch.name = f"vLLM at {self.link.url}"
        with super().running(run, policy), TemporaryDirectory(prefix="vllm_", dir=run) as made:
            directory = Path(made).absolute()
            model = policy.model if policy.adapter is None else policy.adapter.without_layers()
            model.save_pretrained(directory, max_shard_size="1000GB")
            policy.tokenizer.save_pretrained(directory)
            (directory / f"{_EXTENSION}.py").write_text(_EXTENSION_SOURCE)
            command = self._command(self._interpreter(), policy, directory, port)
            engine = self._started.engine = Engine(command, self._environment(directory), run / LOG)
            try:
                self._start(engine)
                yield
            finally:
                engine.close()
                self._started.engine = None

    def prepare(self, policy: Policy) -> None:
        """Check that weights can be sent and that the interpreter works. Raises ConfigError if the server cannot be started."""
        if self.sync != "none":
            require_sync(self.sync, policy)
        self._interpreter()

    def refresh(self, policy: Policy, *, version: int) -> None:
        if self.sleeps:
            self.client.tell("wake_up", missing="this vLLM has no sleep mode; set rollout.sleeps=false")
        super().refresh(policy, version=version)

    def rest(self) -> None:
        if self.sleeps:
            self.client.tell("sleep?level=1", missing="this vLLM has no sleep mode; set rollout.sleeps=false")

    def _wait(self, error: RlxError) -> None:
        """Restart the server if it ended; if it runs but does not answer for `wait` seconds, end it first."""
        engine = self._started.engine
        if engine is None:
            raise error
        deadline = time.monotonic() + self.wait
        while engine.exit_code is None:
            if self.client.is_up():
                return
            if time.monotonic() > deadline:
                break
            time.sleep(min(1.0, self.wait / 20))
        engine.end()
        self._start(engine)

    def _start(self, engine: Engine) -> None:
        engine.start()
        deadline = time.monotonic() + self.start_timeout
        while not self.client.is_up():
            if engine.closed:
                raise TrainingError("the run has ended, and its server with it")
            if engine.exit_code is not None:
                raise TrainingError(
                    f"vLLM ended with exit code {engine.exit_code}; its log, {engine.log}, ends with: {engine.tail()}"
                )
            if time.monotonic() > deadline:
                engine.end()
                raise TrainingError(
                    f"vLLM did not answer within rollout.start_timeout={self.start_timeout:g} s; its log, {engine.log}, ends "
                    f"with: {engine.tail()}"
                )
            time.sleep(0.2)

    def _interpreter(self) -> str:
        found = shutil.which(str(Path(self.python).expanduser()))
        if found is None:
            raise ConfigError(
                f"rollout.python={self.python} is not an interpreter; give the Python of an environment with vLLM: `make vllm` "
                "makes one for CPU in .venvs/vllm, on GPUs `python3 -m venv DIR && DIR/bin/pip install vllm`"
            )
        return os.path.abspath(found)  # not resolved: the symlink is what selects the environment

    def _command(self, interpreter: str, policy: Policy, directory: Path, port: int) -> list[str]:
        computed = policy.forward_settings.autocast or policy.dtype
        words: dict[str, object] = {
            "model": directory.absolute(),
            "served-model-name": BASE_NAME,
            "host": "127.0.0.1",
            "port": port,
            "dtype": self.dtype or str(computed).removeprefix("torch."),
            "gpu-memory-utilization": self.memory,
            "generation-config": "vllm",
            "logprobs-mode": f"{self.logprobs}_logprobs",
        }
        if policy.max_length is not None:
            words["max-model-len"] = policy.max_length
        flags = ["--enable-sleep-mode"] if self.sleeps else []
        if self.sync == "adapter" and policy.adapter is not None:
            flags.append("--enable-lora")
            words["max-lora-rank"] = max(8, 1 << (policy.adapter.lora.rank - 1).bit_length())  # must be a power of 2, at least 8
        if self.sync == "nccl":
            words["weight-transfer-config"] = json.dumps({"backend": "nccl"})
        if policy.device.type == "cpu":
            words["worker-extension-cls"] = f"{_EXTENSION}.WorkerExtension"
        pairs = [text for name, value in words.items() for text in (f"--{name}", str(value))]
        return [interpreter, "-m", "vllm.entrypoints.openai.api_server", *pairs, *flags, *self.arguments]

    def _environment(self, directory: Path) -> dict[str, str]:
        paths = [str(directory.absolute()), *filter(None, [os.environ.get("PYTHONPATH")])]
        given = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(self.cpu_cache),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        if self.devices is not None:
            given["CUDA_VISIBLE_DEVICES"] = self.devices
        return {**os.environ, **given}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
