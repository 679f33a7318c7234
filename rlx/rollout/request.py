"""JSON over HTTP, with time-outs and retries, for a server that completes prompts."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from rlx.errors import ConfigError, TrainingError

_BUSY = {408, 425, 429, 500, 502, 503, 504}  # statuses that another try may mend


@dataclass(frozen=True)
class JsonClient:
    """Asks one server.

    timeout: seconds for one request; retries: further tries after the first; backoff: seconds before the second, doubled each
    time; api_key_variable: the environment variable that holds the key, None if the server asks for none.
    """

    url: str
    timeout: float
    retries: int
    backoff: float
    api_key_variable: str | None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The server's reply to a POST of `body`, or to a GET if there is none."""
        address = f"{self.url.rstrip('/')}/{path}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                return self._once(urllib.request.Request(address, data=data, headers=self._headers()))
            except urllib.error.HTTPError as error:
                said = error.read(400).decode(errors="replace").strip()
                if error.code not in _BUSY:
                    raise ConfigError(f"the server at {self.url} refuses {path} with status {error.code}: {said}") from error
                trouble = f"status {error.code}: {said}"
            except (OSError, http.client.HTTPException) as error:
                trouble = _trouble(error, self.timeout)
        raise TrainingError(
            f"the server at {self.url} did not answer {path} in {self.retries + 1} tries ({trouble}); "
            "is it up? see rollout.url, rollout.timeout and rollout.retries"
        )

    def ask_all(self, path: str, bodies: Sequence[dict[str, Any]], *, at_once: int) -> list[dict[str, Any]]:
        """The replies to all `bodies`, in order; the first request that fails for good ends the others and is raised.

        In threads that do not keep the program alive: an interrupt does not wait for a server that is slow.
        """
        waiting = deque(enumerate(bodies))
        done: SimpleQueue[tuple[int, dict[str, Any] | Exception]] = SimpleQueue()

        def work() -> None:
            while waiting:
                try:
                    number, body = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                try:
                    done.put((number, self.ask(path, body)))
                except Exception as error:  # raised where it is waited for
                    done.put((number, error))

        for _ in range(min(at_once, len(bodies))):
            Thread(target=work, daemon=True).start()
        replies: list[dict[str, Any]] = [{}] * len(bodies)
        try:
            for _ in bodies:
                number, reply = done.get()
                if isinstance(reply, Exception):
                    raise reply
                replies[number] = reply
        finally:
            waiting.clear()
        return replies

    def _once(self, request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            text = reply.read()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ConfigError(
                f"the server at {self.url} does not answer in JSON objects, but with {text[:80]!r}; is rollout.url right?"
            )
        return answer

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.api_key_variable is not None:
            key = os.environ.get(self.api_key_variable)
            if key is None:
                raise ConfigError(f"rollout.api_key_variable={self.api_key_variable}, but no such environment variable is set")
            headers["Authorization"] = f"Bearer {key}"
        return headers


def _trouble(error: Exception, timeout: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout:g} s"
    return f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)
