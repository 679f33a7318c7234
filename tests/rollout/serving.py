"""A small server on this machine with the completions API, which samples from a tiny model, and can misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from rlx.seeding import Stream
from tests.rollout.stand_in import StandIn, sampler_of


class Server:
    """bodies: what was asked. failures: statuses to answer the next requests with, and retry_after and location: headers then.
    change: edits a reply. delay: seconds.
    """

    def __init__(self, policy: StandIn) -> None:
        self.policy = policy
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.failures: deque[int] = deque()
        self.retry_after = self.location = ""
        self.change = lambda choice: choice
        self.delay = 0.0
        self.models = ["tiny"]
        self.busy = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        settings = {name: body[name] for name in ("top_k", "top_p", "min_p", "stop") if name in body}
        with self.lock:
            rollout = sampler_of(max_new_tokens=None, **settings).sample(
                self.policy,
                [np.array(body["prompt"])],
                group_size=1,
                stream=Stream(body["seed"]),
                prompt_keys=[0],
                temperature=body["temperature"] or None,
                greedy=body["temperature"] == 0,
                max_new_tokens=body["max_tokens"],
            )
        tokens = rollout.sequences.completions[0][0].tolist()
        logprobs = rollout.sampling_logprobs[0, 0].tolist()
        choice = {
            "text": self.policy.decode(tokens),
            "token_ids": tokens,
            "logprobs": {"token_logprobs": logprobs, "tokens": [f"token_id:{token}" for token in tokens]},
            "finish_reason": "stop" if rollout.finished[0, 0] else "length",
        }
        return {"choices": [self.change(choice)]}


@contextmanager
def serving(policy: StandIn) -> Iterator[Server]:
    """The server, on a free port of this machine, while this lasts."""
    server = Server(policy)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"data": [{"id": name} for name in server.models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.bodies.append(body)
                server.headers.append(dict(self.headers))
                server.busy += 1
                server.most_at_once = max(server.most_at_once, server.busy)
                failure = server.failures.popleft() if server.failures else None
            time.sleep(server.delay)
            reply = {"error": "so it goes"} if failure else server.complete(body)
            with server.lock:
                server.busy -= 1
            with suppress(ConnectionError):  # the client gave up
                self.answer(reply, status=failure or 200)

        def answer(self, reply: Any, *, status: int = 200) -> None:
            text = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            for name, value in (("Retry-After", server.retry_after), ("Location", server.location)):
                if status != 200 and value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
