"""Sampling from a server with an OpenAI-compatible completions API, such as vLLM.

The server must answer with token ids and their log-probabilities: text alone does not determine the tokens that were sampled. It
samples from its own weights; rlx does not send it new ones. So training is off-policy by as much as the policy has moved since,
which a loss with importance ratios corrects, and evaluations sample in this process.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import torch

from rlx.data.sequences import Sequences, Tokens
from rlx.errors import ConfigError, RlxError, TrainingError
from rlx.fields import count, non_empty, one_of, within
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Draw, Sampler
from rlx.rollout.transformers import TransformersSampler

if TYPE_CHECKING:
    from rlx.policy.base import Policy


_BUSY = {408, 425, 429, 500, 502, 503, 504}  # statuses that may change at another try
LOGPROBS = ("raw", "processed")
_SAME_WEIGHTS = 0.05  # nats between the server's log-probabilities and the policy's that rounding in half precision explains
_PREFIX = "token_id:"
_LONGEST_REPLY = 64 * 2**20  # bytes
_LEAST = -1e30  # of the log-probabilities that are taken for numbers
_ROUNDING = 1e-3  # by how much a log-probability of 0 may exceed it


@dataclass(frozen=True)
class JsonClient:
    """Requests in JSON over HTTP to one server, with time-outs and retries.

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
        try:
            urllib.request.Request(address)
            urlsplit(address).port  # noqa: B018  # a property that raises
        except ValueError as error:
            raise ConfigError(f"rollout.url={self.url} is no address: {error}; it is such as http://localhost:8000/v1") from error
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
        """The replies to all `bodies`, in order; the first request that fails after its retries ends the others and is raised.

        The threads are daemons, so that an interrupt does not wait for a slow server.
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
                except Exception as error:  # raised in the thread that waits for the replies
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
            text = reply.read(_LONGEST_REPLY + 1)
        if len(text) > _LONGEST_REPLY:
            raise ConfigError(f"the server at {self.url} answers with more than {_LONGEST_REPLY:,} bytes; is rollout.url right?")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
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


@dataclass(frozen=True, kw_only=True)
class ServerSampler(Sampler):
    """One request for each completion, with its own seed, several at a time.

    url: where the API begins, /v1 included; model: the server's name for it, null for the only one it has.
    logprobs: what the server reports: raw, log_softmax(logits), or processed, that of the distribution it sampled from.
    concurrency: requests at a time; timeout, retries, backoff, api_key_variable: see JsonClient.
    batch_tokens: for evaluations, which read the policy's own weights in this process.
    """

    url: str = non_empty(begins_with=("http://", "https://"))
    model: str | None
    logprobs: str = one_of(LOGPROBS)
    concurrency: int = count()
    timeout: float = within(above=0)
    retries: int = count(at_least=0)
    backoff: float = within(at_least=0)
    api_key_variable: str | None
    batch_tokens: int = count()

    @property
    def in_process(self) -> TransformersSampler:
        return TransformersSampler(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            stop=self.stop,
            max_new_tokens=self.max_new_tokens,
            batch_tokens=self.batch_tokens,
        )

    @property
    def client(self) -> JsonClient:
        """The client of the server."""
        return JsonClient(self.url, self.timeout, self.retries, self.backoff, self.api_key_variable)

    def prepare(self, policy: Policy) -> None:
        """Compare the server's log-probabilities of a short completion with the policy's, to see whether their weights agree."""
        prompt = np.array([policy.eos_token_ids[0]] if policy.eos_token_ids else [0], dtype=np.int64)
        draw = Draw((prompt,), 1, np.array([4]), np.array([0], dtype=np.uint64), temperature=self.temperature, greedy=False)
        made = self.complete(policy, draw)
        tokens = made.tokens[0, : made.lengths[0]]
        with torch.no_grad():
            ours = policy.token_logprobs(Sequences((prompt,), ((tokens,),)), temperature=self.temperature)[0, 0].cpu().numpy()
        difference = float(np.abs(ours - made.logprobs[0, : len(tokens)]).max())
        note = f"rollouts come from the weights that the server at {self.url} has; rlx does not send it new ones"
        if difference > _SAME_WEIGHTS:
            note += f"; even now its log-probabilities differ from the policy's by up to {difference:.2f} nats"
        policy.notes.append(note)

    def complete(self, policy: Policy, draw: Draw) -> Completions:
        """The completions of all prompts, one request each."""
        self._check_logprobs(draw)
        client, model = self.client, self._model()
        rows = [
            (prompt, int(limit)) for prompt, limit in zip(draw.prompts, draw.limits, strict=True) for _ in range(draw.group_size)
        ]
        out = Completions.empty(len(rows), int(draw.limits.max()))
        bodies = [
            self._request(model, policy, draw, prompt, limit, key) for (prompt, limit), key in zip(rows, draw.keys, strict=True)
        ]
        replies = client.ask_all("completions", bodies, at_once=self.concurrency)
        for _ in range(self.retries):
            aborted = [row for row, reply in enumerate(replies) if _aborted(reply)]
            if not aborted:
                break
            again = client.ask_all("completions", [bodies[row] for row in aborted], at_once=self.concurrency)
            for row, reply in zip(aborted, again, strict=True):
                replies[row] = reply
        for row, reply in enumerate(replies):
            tokens, logprobs, finished = self._completion(reply, policy, limit=rows[row][1])
            out.tokens[row, : len(tokens)] = tokens
            out.logprobs[row, : len(tokens)] = logprobs
            out.lengths[row] = len(tokens)
            out.finished[row] = finished
        return out

    def _check_logprobs(self, draw: Draw) -> None:
        """Raise ConfigError where the server does not report log_softmax(logits / temperature) before any truncation."""
        if self.logprobs == "raw" and draw.temperature != 1.0:
            raise ConfigError(
                f"at temperature {draw.temperature:g} raw log-probabilities are not those that were sampled from; let the server "
                "report processed ones and set rollout.logprobs=processed, or sample at temperature 1"
            )
        if self.logprobs == "processed" and (self.truncates or draw.greedy):
            raise ConfigError(
                "processed log-probabilities are those after truncation, and rlx needs those before it; let the server report "
                "raw ones and set rollout.logprobs=raw, or leave out top_k, top_p, min_p and greedy decoding"
            )

    def _model(self) -> str:
        if self.model is not None:
            return self.model
        listed = self.client.ask("models").get("data")
        entries = listed if isinstance(listed, list) else []
        names = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
        if len(names) != 1:
            raise ConfigError(
                f"the server at {self.url} has the models {', '.join(names) or '(none)'}; choose one with rollout.model"
            )
        return names[0]

    def _request(self, model: str, policy: Policy, draw: Draw, prompt: Tokens, limit: int, key: np.uint64) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt.tolist(),
            "max_tokens": limit,
            "temperature": 0.0 if draw.greedy else draw.temperature,
            "logprobs": 1,
            "seed": int(key) & 0x7FFF_FFFF,
            "stop_token_ids": list(policy.eos_token_ids),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        optional = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p, "stop": list(self.stop) or None}
        return body | {name: value for name, value in optional.items() if value is not None}

    def _completion(self, reply: Mapping[str, Any], policy: Policy, *, limit: int) -> tuple[list[int], list[float], bool]:
        """What `_read` reads; TrainingError for a reply of another form."""
        try:
            return self._read(reply, policy, limit=limit)
        except RlxError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise TrainingError(
                f"the server at {self.url} sent {reply!r:.80}, which is no reply of a completions API ({error})"
            ) from error

    def _read(self, reply: Mapping[str, Any], policy: Policy, *, limit: int) -> tuple[list[int], list[float], bool]:
        """Tokens, their log-probabilities, and whether the completion ended by itself."""
        choice = _choice(reply)
        if _aborted(reply):
            raise TrainingError(
                f"the server at {self.url} ended a completion by {choice.get('finish_reason')!r}, with "
                f"{len(choice.get('token_ids') or ())} tokens, in {self.retries + 1} tries; it is neither finished nor "
                "truncated, so it is not learned from: see the server's log, lower rollout.concurrency, or raise rollout.retries"
            )
        reported = choice.get("logprobs")
        reported = reported if isinstance(reported, dict) else {}
        tokens = choice.get("token_ids")
        if tokens is None and all(str(token).startswith(_PREFIX) for token in reported.get("tokens") or [None]):
            tokens = [int(token[len(_PREFIX) :]) for token in reported["tokens"]]
        logprobs = reported.get("token_logprobs")
        if not tokens or not logprobs:
            missing = [name for name, value in (("token_ids", tokens), ("logprobs.token_logprobs", logprobs)) if not value]
            raise ConfigError(
                f"the reply of the server at {self.url} has no {' and no '.join(missing)} in its choice; rlx learns from the "
                "very tokens that were sampled, so choose a server that returns them; vLLM does"
            )
        finished = choice.get("finish_reason") == "stop"
        wrong = _invalid_values(tokens, logprobs) or self._wrong(tokens, logprobs, policy, limit=limit, finished=finished)
        if wrong:
            raise TrainingError(f"the server at {self.url} {wrong}")
        return tokens, logprobs, finished

    def _wrong(self, tokens: list[int], logprobs: list[float], policy: Policy, *, limit: int, finished: bool) -> str:
        """What is wrong with a completion; empty if it is valid."""
        if len(tokens) != len(logprobs) or len(tokens) > limit:
            return f"sent {len(tokens)} tokens with {len(logprobs)} log-probabilities where at most {limit} tokens were asked for"
        if not 0 <= min(tokens) <= max(tokens) < policy.vocabulary_size:
            return f"sent tokens outside of the policy's vocabulary of {policy.vocabulary_size}; does it serve the same model?"
        stopped = any(string in policy.decode(np.array(tokens)) for string in self.stop)
        if finished and not stopped and tokens[-1] not in policy.eos_token_ids:
            return f"ended a completion by itself, but its last token, {tokens[-1]}, is no end-of-sequence token of the policy"
        return ""


def _invalid_values(tokens: Any, logprobs: Any) -> str:
    """An invalid token id or log-probability of a completion, as text; empty if all are valid."""
    checks: tuple[tuple[str, Any, Callable[[Any], bool]], ...] = (
        ("token ids", tokens, lambda value: isinstance(value, int) and not isinstance(value, bool)),
        ("log-probabilities", logprobs, lambda value: isinstance(value, (int, float)) and _LEAST < value <= _ROUNDING),
    )
    for name, values, holds in checks:
        bad = [value for value in values if not holds(value)] if isinstance(values, list) else [values]
        if bad:
            return f"sent {bad[0]!r:.40} among its {name}; does rollout.url name a completions API?"
    return ""


def _choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The completion of a reply; empty without one."""
    choices = reply.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _aborted(reply: Mapping[str, Any]) -> bool:
    """Whether a completion ended neither by itself nor by its limit, or has no token at all: another try may mend it."""
    choice = _choice(reply)
    return "finish_reason" in choice and (choice["finish_reason"] not in ("stop", "length") or choice.get("token_ids") == [])
