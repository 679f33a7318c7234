"""JSON requests over HTTP to a completion server, with timeouts and retries."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.message import Message
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX, Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rlx.errors import ConfigError, TrainingError

T = TypeVar("T")

_BUSY = {408, 425, 429, 500, 502, 503, 504}  # statuses that may change on a retry
_LONGEST_REPLY = 64 * 2**20  # bytes
_HUB_SECONDS = 5  # within which the hub must answer


class GoneError(TrainingError):
    """The server cannot be reached: it died, or did not answer in time."""


class NotThereError(ConfigError):
    """The server does not know the requested path or model (status 404)."""


class _Unmoved(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an ordinary reply: following it would send the API key and the request to another server."""

    def http_error_302(self, *_: Any, **__: Any) -> None:
        """Do not follow the redirect."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


_OPENER = urllib.request.build_opener(_Unmoved)


def _exchanged(request: urllib.request.Request, timeout: float) -> tuple[int, Message, bytes]:
    """Status, headers and the first bytes of a reply's body. timeout: the longest wait for the next byte, in seconds."""
    try:
        reply: Any = _OPENER.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        reply = error
    with reply:
        text: bytes = reply.read(_LONGEST_REPLY + 1)
        left = getattr(reply, "length", 0)
    if left and len(text) <= _LONGEST_REPLY:  # http.client does not raise when asked for a number of bytes
        raise ConnectionResetError(f"the answer ended after {len(text)} of {len(text) + left} bytes")
    return reply.status, reply.headers, text


@dataclass(frozen=True)
class JsonClient:
    """JSON requests over HTTP to one server, with timeouts and retries.

    timeout: seconds for one request and its whole reply. retries: tries after the first. backoff: seconds before the first
    retry, doubled each time, or the Retry-After of a busy server, up to `timeout`. api_key_variable: the environment variable
    that holds the API key, None if the server needs no key. key: the config node that has these settings, for messages.
    """

    url: str
    timeout: float
    retries: int
    backoff: float
    api_key_variable: str | None
    key: str = "rollout"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The server's reply to a POST of `body`, or to a GET if there is none."""
        return self._request(path, body, self._object)

    def _request(self, path: str, body: dict[str, Any] | None, read: Callable[[bytes], T]) -> T:
        address = f"{self.url.rstrip('/')}/{path}"
        try:
            urllib.request.Request(address)
            urlsplit(address).port  # noqa: B018  # a property that raises
        except ValueError as error:
            raise ConfigError(
                f"{self.key}.url={self.url} is not an address: {error}; an address looks like http://localhost:8000/v1"
            ) from error
        data, asking = None if body is None else json.dumps(body).encode(), self._headers()
        kind: type[TrainingError] = TrainingError
        asked = 0.0  # the Retry-After of a busy server, in seconds
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(max(self.backoff * 2 ** (attempt - 1), min(asked, self.timeout)))
                asked = 0.0
            try:
                status, headers, text = self._once(urllib.request.Request(address, data=data, headers=asking))
            except (OSError, http.client.HTTPException, ValueError) as error:
                trouble, kind = _trouble(error, self.timeout), GoneError
                continue
            if len(text) > _LONGEST_REPLY:
                raise ConfigError(
                    f"the server at {self.url} answers with more than {_LONGEST_REPLY:,} bytes; is {self.key}.url right?"
                )
            if 200 <= status < 300:
                return read(text)
            said = text[:400].decode(errors="replace").strip()
            if (place := headers.get("Location")) is not None:
                said = f"it redirects to {place}, which is not followed; if that is the right server, give it as {self.key}.url"
            if status == 404:
                raise NotThereError(f"the server at {self.url} refuses {path} with status 404: {said}")
            if status not in _BUSY:
                raise ConfigError(f"the server at {self.url} refuses {path} with status {status}: {said}")
            trouble, kind = f"status {status}: {said}", TrainingError
            asked = _seconds(headers.get("Retry-After"))
        raise kind(
            f"the server at {self.url} did not answer {path} in {self.retries + 1} tries ({trouble}); "
            f"is it up? see {self.key}.url, {self.key}.timeout and {self.key}.retries"
        )

    def tell(self, path: str, body: dict[str, Any] | None = None, *, missing: str) -> None:
        """POST to a path outside the server's API (/pause is beside /v1) and ignore the body of a successful reply.

        Raises NotThereError if the server has no such path. missing: advice for that error's message.
        """
        try:
            self.beside._request(path, body or {}, bytes)
        except NotThereError as error:
            raise NotThereError(f"{error}; {missing}") from error

    @property
    def beside(self) -> JsonClient:
        """A client of the paths beside the server's API, outside /v1."""
        return replace(self, url=self.root)

    @property
    def root(self) -> str:
        """The server's address without the /v1 of its API."""
        return self.url.rstrip("/").removesuffix("/v1")

    def is_up(self) -> bool:
        """Whether the server answers at all. Tries once."""
        try:
            JsonClient(self.url, min(self.timeout, 5.0), 0, 0.0, self.api_key_variable, self.key).ask("models")
        except TrainingError:
            return False
        return True

    def ask_all(self, path: str, bodies: Sequence[dict[str, Any]], *, at_once: int) -> list[dict[str, Any]]:
        """The replies to all `bodies`, in order. The first request that fails after its retries ends the others and raises.

        Uses daemon threads, so that an interrupt does not wait for a slow server.
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
                except Exception as error:  # re-raised in the thread that waits for the replies
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

    def _once(self, request: urllib.request.Request) -> tuple[int, Message, bytes]:
        """Status, headers and body of the reply to a request.

        Raises TimeoutError if the reply is not complete after `timeout` seconds, even if bytes keep arriving.
        """
        done: SimpleQueue[tuple[int, Message, bytes] | Exception] = SimpleQueue()
        seconds = min(self.timeout, TIMEOUT_MAX)

        def work() -> None:
            try:
                done.put(_exchanged(request, seconds))
            except Exception as error:  # re-raised in the thread that waits for the reply
                done.put(error)

        Thread(target=work, daemon=True).start()
        try:
            found = done.get(timeout=seconds)
        except Empty:
            raise TimeoutError from None
        if isinstance(found, Exception):
            raise found
        return found

    def _object(self, text: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ConfigError(
                f"the server at {self.url} does not answer in JSON objects, but with {text[:80]!r}; is {self.key}.url right?"
            )
        return answer

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.api_key_variable is not None:
            key = os.environ.get(self.api_key_variable)
            if key is None:
                raise ConfigError(f"{self.key}.api_key_variable={self.api_key_variable}, but no such environment variable is set")
            headers["Authorization"] = f"Bearer {key}"
        return headers


def _seconds(told: str | None) -> float:
    """The seconds of a Retry-After header; 0 if it is missing or a date."""
    return float(told) if told is not None and told.strip().isdecimal() else 0.0


def _trouble(error: Exception, timeout: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout:g} s"
    return f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)


def hub_unreached() -> str:
    """Why the Hugging Face hub does not answer, "" if it does. Asks once: the hub's own client retries for half a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # of the HTTP library that huggingface_hub uses
        return f"{urlsplit(constants.ENDPOINT).hostname}: {error or type(error).__name__}"
    return ""
