"""A server that behaves as vLLM's does, samples from a small model, and can lie; as a program it takes vLLM's arguments."""

from __future__ import annotations

import argparse
import base64
import copy
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file, save_file

from rlx.seeding import Stream
from tests.rollout.stand_in import StandIn, exact_logprobs, sampler_of


class FakeVllm:
    """directory: of the base model. asked: the paths of all requests but completions, in order.

    Lies: stale_every: each so manyth sync is answered and not made. temperature: it computes at this one. samples_at: it samples
    at this one, and reports the log-probabilities of temperature 1. half: half of an adapter is loaded. forgets_at: after so many
    completions it has its first weights. dies_at: after so many completions it closes all connections. refuses: a path that it
    answers with status 400. leaves: it says that it takes the weights, and closes the group instead.
    """

    def __init__(self, directory: Path, *, name: str = "tiny", **lies: Any) -> None:
        self.directory, self.name, self.lies = directory, name, lies
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.syncs = self.completions = 0
        self.is_dead = False
        self.listener: Any = None
        self.begin()

    def begin(self) -> None:
        """The weights of a server that has just started."""
        self.served: dict[str, Any] = {self.name: read(self.directory)}
        self.is_paused = False

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and text of the answer to a POST."""
        if path == "/v1/completions":
            return self.complete(body)
        self.asked.append(path)
        if path == self.lies.get("refuses"):
            return 400, b'{"error": "Bad Request"}'
        if path.endswith(("_weight_transfer_engine", "_weight_update", "/update_weights")):
            return self.transfer(path, body)
        if path == "/v1/load_lora_adapter":
            if body["lora_name"] in self.served and not body.get("load_inplace"):
                return 400, b'{"error": "already been loaded"}'
            if self.makes_sync():
                self.served[body["lora_name"]] = self.adapted(Path(body["lora_path"]))
            else:
                self.served.setdefault(body["lora_name"], self.served[self.name])
            return 200, b"Success: LoRA adapter added successfully."
        if path == "/collective_rpc":
            assert self.is_paused
            assert body["method"] == "reload_weights"
            if self.makes_sync():
                self.served[self.name] = read(Path(body["kwargs"]["weights_path"]))
            return 200, b'{"results": [null]}'
        if path.startswith(("/pause", "/resume")):
            self.is_paused = path.startswith("/pause")
            return 200, b"{}"
        known = path in ("/reset_prefix_cache", "/update_weight_version") or path.startswith(("/sleep", "/wake_up"))
        return (200, b"") if known else (404, b'{"detail": "Not Found"}')

    def transfer(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """What vLLM does with a weight transfer, with gloo for NCCL: the group's id is a port of a store."""
        if path == "/init_weight_transfer_engine":
            info = body["init_info"]
            self.group = join(base64.b64decode(info["nccl_unique_id_b64"]), info["rank_offset"], info["world_size"])
        elif path == "/shutdown_weight_transfer_engine":
            self.group = None
        elif path == "/start_weight_update":
            assert self.is_paused
            self.received = None
        elif path == "/update_weights":
            info = body["update_info"]
            if self.lies.get("leaves"):
                self.group = None
                return 500, b'{"error": "a worker is gone"}'
            tensors = [
                torch.empty(shape, dtype=getattr(torch, dtype))
                for shape, dtype in zip(info["shapes"], info["dtype_names"], strict=True)
            ]
            for tensor in tensors:
                self.group.broadcast(tensor, root=0).wait()
            self.received = dict(zip(info["names"], tensors, strict=True))
        elif path == "/finish_weight_update" and self.makes_sync():
            model = copy.deepcopy(self.served[self.name])
            missing = model.load_state_dict(self.received, strict=False).missing_keys
            assert not [name for name in missing if name != "lm_head.weight"]
            self.served[self.name], self.version = model, body["weight_version"]
        return 200, b"{}"

    def makes_sync(self) -> bool:
        self.syncs += 1
        every = self.lies.get("stale_every")
        return every is None or self.syncs % every != 0

    def adapted(self, directory: Path) -> Any:
        import peft

        if self.lies.get("half"):
            kept = Path(tempfile.mkdtemp())
            shutil.copytree(directory, kept, dirs_exist_ok=True)
            tensors = load_file(kept / "adapter_model.safetensors")
            first = sorted(tensors)[: len(tensors) // 2]
            save_file(
                {name: t if name in first else torch.zeros_like(t) for name, t in tensors.items()},
                kept / "adapter_model.safetensors",
            )
            directory = kept
        model = peft.PeftModel.from_pretrained(copy.deepcopy(read(self.directory)), str(directory))
        return model.merge_and_unload().eval()

    def complete(self, body: dict[str, Any]) -> tuple[int, bytes]:
        with self.lock:
            self.completions += 1
            if self.completions == self.lies.get("dies_at"):
                self.die()
            if self.completions == self.lies.get("forgets_at"):
                self.served = dict.fromkeys(self.served, read(self.directory))
            if self.is_dead:
                return 0, b""
            model = self.served.get(body["model"])
            if model is None:
                return 404, b'{"error": "The model does not exist"}'
            return 200, json.dumps({"choices": [self.choice(model, body)]}).encode()

    def choice(self, model: Any, body: dict[str, Any]) -> dict[str, Any]:
        policy = StandIn(model, eos=tuple(body["stop_token_ids"]))
        computed = self.lies.get("temperature", body["temperature"])
        rollout = sampler_of(max_new_tokens=None).sample(
            policy,
            [np.array(body["prompt"])],
            group_size=1,
            stream=Stream(body["seed"]),
            prompt_keys=[0],
            temperature=self.lies.get("samples_at", computed),
            max_new_tokens=body["max_tokens"],
        )
        tokens = rollout.sequences.completions[0][0]
        logprobs = rollout.sampling_logprobs[0, 0].tolist()
        if "samples_at" in self.lies:
            exact = exact_logprobs(model, np.concatenate([body["prompt"], tokens]))[len(body["prompt"]) - 1 : -1]
            logprobs = exact.gather(1, torch.from_numpy(tokens)[:, None])[:, 0].tolist()
        return {
            "token_ids": tokens.tolist(),
            "logprobs": {"token_logprobs": logprobs},
            "finish_reason": "stop" if rollout.finished[0, 0] else "length",
        }

    def die(self) -> None:
        """Close the door; requests that are being answered get no answer."""
        self.is_dead = True
        threading.Thread(target=self.listener.shutdown, daemon=True).start()
        self.listener.server_close()
        if self.lies.get("comes_back"):
            threading.Thread(target=self.come_back, daemon=True).start()

    def come_back(self) -> None:
        """As a server that something restarts: on the same port, with its first weights."""
        time.sleep(0.3)
        self.begin()
        self.is_dead = False
        self.listen(self.listener.server_address[1])

    def listen(self, port: int) -> None:
        self.listener = Listener(("127.0.0.1", port), handler_of(self))
        threading.Thread(target=self.listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.server_address[1]}/v1"


def join(unique_id: bytes, rank: int, size: int) -> Any:
    """This process's place in a group of gloo's. unique_id: the port of its store, filled with blanks to 128 bytes."""
    limit = timedelta(seconds=10)
    store = dist.TCPStore("127.0.0.1", int(unique_id), is_master=False, wait_for_workers=False, timeout=limit)
    group = dist.ProcessGroupGloo(store, rank, size, limit)
    group.allreduce(torch.ones(1)).wait()
    return group


class Listener(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True


def read(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def handler_of(fake: FakeVllm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/get_world_size":
                self.reply(200, b'{"world_size": 1}')
                return
            self.reply(200, json.dumps({"data": [{"id": name} for name in fake.served]}).encode())

        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"]))
            status, reply = fake.answer(self.path, json.loads(text))
            if status:
                self.reply(status, reply)

        def reply(self, status: int, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    return Handler


@contextmanager
def faking(directory: Path, **lies: Any) -> Iterator[FakeVllm]:
    """The server, on a free port of this machine, while this lasts."""
    fake = FakeVllm(directory, **lies)
    fake.listen(0)
    try:
        yield fake
    finally:
        fake.lies["comes_back"] = False
        if not fake.is_dead:
            fake.die()


def main() -> None:
    """Serve until the end of the process. The lies come in the environment: FAKE_LIES={"stale_every": 3}."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--port", type=int, required=True)
    given, others = parser.parse_known_args()
    print(f"arguments: {others}; environment: {sorted(name for name in os.environ if name.startswith('VLLM_'))}", flush=True)
    lies = json.loads(os.environ.get("FAKE_LIES", "{}"))
    if os.environ.get("FAKE_LIVES_ONCE"):  # of several starts the first alone lies
        once = Path(os.environ["FAKE_LIVES_ONCE"])
        lies = {} if once.exists() else lies
        once.touch()
    fake = FakeVllm(given.model, name=given.served_model_name, **lies)
    if "dies_at" in lies:
        fake.die = lambda: os._exit(1)  # type: ignore[method-assign]
    fake.listen(given.port)
    threading.Event().wait()


if __name__ == "__main__":
    main()
