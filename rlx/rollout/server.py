"""Sampling from a server with an OpenAI-compatible completions API, such as vLLM.

The server must return token ids and their log-probabilities: text alone does not determine the tokens that were sampled.
With sync=none it samples from its own weights, so training is off-policy as far as the policy has moved since, which a loss with
importance ratios corrects. Otherwise it receives the policy's weights before every draw, and the log-probabilities that it
reports show whether it has them. Evaluations sample in this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rlx.client import GoneError, JsonClient, NotThereError
from rlx.data.sequences import Tokens
from rlx.errors import ConfigError, RlxError, TrainingError
from rlx.fields import count, non_empty, one_of, within
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.gap import DTYPES, Reported, Watch, logprob_gap
from rlx.rollout.sampler import Draw, Sampler
from rlx.rollout.sync import ADAPTER_NAME, SYNCS, Transfer, require_sync, send_broadcast, send_files
from rlx.rollout.transformers import TransformersSampler

if TYPE_CHECKING:
    from rlx.policy.base import Policy


_PROBE_TOKENS = 16
_RECOVERIES = 3  # per draw
T = TypeVar("T")
LOGPROBS = ("raw", "processed")
_SAME_WEIGHTS = 0.05  # nats between the server's log-probabilities and the policy's that half-precision rounding explains
_PREFIX = "token_id:"
_LEAST = -1e30  # the smallest log-probability accepted as a number
_ROUNDING = 1e-3  # how far a log-probability may exceed 0 by rounding


@dataclass
class Link:
    """The state of this process's connection to a server.

    url: its address. version: of the weights last sent, None before the first. directory: for the files of a sync.
    transfer: the GPU-to-GPU connection, None before the first such sync and after a failed one.
    repeated: how often a draw was repeated. watch: compares its log-probabilities with the policy's.
    """

    url: str
    watch: Watch
    version: int | None = None
    directory: Path | None = None
    transfer: Transfer | None = None
    repeated: int = 0

    def leave(self) -> None:
        """Close the GPU-to-GPU connection, if there is one."""
        if self.transfer is not None:
            self.transfer.close()
            self.transfer = None


@dataclass(frozen=True, kw_only=True)
class ServerSampler(Sampler):
    """Sends one request per completion, with its own seed, several at a time.

    url: the root of the API, including /v1; model: the server's name for it, null for its only model.
    logprobs: what the server reports: raw, log_softmax(logits), or processed, that of the distribution it sampled from.
    concurrency: concurrent requests; timeout, retries, backoff, api_key_variable: see JsonClient.
    sync: how the policy's weights reach it before a draw: none, adapter (a LoRA, loaded in place), disk (a directory of weights),
    nccl (from GPU to GPU).
    sync_path: where to write the files of a sync; the server must see them under the same path; null: the run's directory.
    dtype: the server's dtype, null: the policy's; it decides which difference of log-probabilities counts as rounding.
    compared: completions per draw whose log-probabilities the policy computes too, null for all.
    wait: seconds to wait for a dead server to come back; the draw is then repeated.
    batch_tokens: for evaluations, which use the policy's own weights in this process, and for the comparison.
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
    sync: str = one_of(SYNCS, default="none")
    sync_path: str | None = None
    dtype: str | None = one_of(DTYPES, optional=True, default=None)
    compared: int | None = count(optional=True, default=64)
    wait: float = within(at_least=0, default=300.0)

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
        return JsonClient(self.link.url, self.timeout, self.retries, self.backoff, self.api_key_variable)

    @cached_property
    def link(self) -> Link:
        """The state of the connection to the server."""
        watch = Watch(
            name=f"the server at {self.url}",
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            checks=self.sync != "none",
            truncates=self.truncates,
        )
        return Link(url=self.url, watch=watch)

    @property
    def needs_one_process(self) -> str:
        if self.sync != "none":
            return f"rollout.sync={self.sync}, where each rank would send the weights to the same server,"
        return super().needs_one_process

    @property
    def overlaps(self) -> bool:
        return True

    @contextmanager
    def running(self, run: Path, policy: Policy) -> Iterator[None]:
        """Within this context, keep the files of a sync in `run`, or in sync_path."""
        if self.sync == "none":
            yield
            return
        parent = run if self.sync_path is None else Path(self.sync_path).expanduser()
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="weights_", dir=parent.absolute(), ignore_cleanup_errors=True) as directory:
            self.link.directory = Path(directory)
            try:
                yield
            finally:
                self.link.directory = None
                self.link.leave()

    def prepare(self, policy: Policy) -> None:
        """Check that weights can be sent; with sync=none note whether the server's weights agree with the policy's."""
        if self.sync != "none":
            require_sync(self.sync, policy)
            return
        found = logprob_gap(policy, self._probe(policy), batch_tokens=self.batch_tokens)
        note = f"rollouts come from the weights that the server at {self.link.url} has; rlx does not send it new ones"
        if (difference := float(found.differences.max())) > _SAME_WEIGHTS:
            note += f"; even now its log-probabilities differ from the policy's by up to {difference:.2f} nats"
        policy.notes.append(note)

    def refresh(self, policy: Policy, *, version: int) -> None:
        """Send the weights if the server has another version, and compare the log-probabilities of a completion.

        Raises TrainingError if the server does not sample from the weights that it received.
        """
        self.link.watch.begin()
        if self.sync == "none" or self.link.version == version:
            return
        require_sync(self.sync, policy)
        self._with_recovery(lambda: self._sync(policy, version), lambda: None, gone=(GoneError,))

    def figures(self) -> dict[str, float]:
        found = self.link.watch.figures()
        if self.link.version is not None:
            found |= {"weights_version": float(self.link.version), "draws_repeated": float(self.link.repeated)}
        return found

    def complete(self, policy: Policy, draw: Draw) -> Completions:
        """The completions of all prompts, one request each; repeated if the server dies and comes back."""
        self._check_logprobs(draw)
        if self.sync != "none" and self.link.version is None:
            self.refresh(policy, version=0)
        made = self._with_recovery(
            lambda: self._ask(policy, draw), lambda: self._sync_again(policy), gone=(GoneError, NotThereError)
        )
        rows = [prompt for prompt in draw.prompts for _ in range(draw.group_size)]
        reported = _reported(rows, made, draw.temperature).spread(self.compared)
        self.link.watch.draw(policy, reported, greedy=draw.greedy, version=self.link.version)
        return made

    def _with_recovery(self, make: Callable[[], T], restore: Callable[[], None], *, gone: tuple[type[RlxError], ...]) -> T:
        """The result of make(); if it raises one of `gone`, wait for the server, restore it, and call make() again."""
        for _ in range(_RECOVERIES):
            try:
                return make()
            except gone as error:
                if isinstance(error, NotThereError) and self.sync != "adapter":
                    raise  # a model of that name never existed
                self._wait(error)
                self.link.leave()  # a restarted server has new workers
                restore()
                self.link.repeated += 1
        return make()

    def _wait(self, error: RlxError) -> None:
        """Wait until the server answers again. Raises TrainingError after `wait` seconds."""
        deadline = time.monotonic() + self.wait
        while not self.client.is_up():
            if time.monotonic() > deadline:
                raise TrainingError(f"{error}; it did not come back within rollout.wait={self.wait:g} s") from error
            time.sleep(min(1.0, self.wait / 20))

    def _sync(self, policy: Policy, version: int) -> None:
        if self.link.directory is None:
            raise ConfigError(f"rollout.sync={self.sync} writes files: sample within `with sampler.running(directory, policy)`")
        self.link.version = version  # used by the requests of the probe
        if self.sync == "nccl":
            self._broadcast(policy, version)
        else:
            send_files(self.sync, self.client, policy, version=version, directory=self.link.directory)
        self.link.watch.probe(policy, self._probe(policy), version=version)

    def _broadcast(self, policy: Policy, version: int) -> None:
        transfer = self.link.transfer or Transfer.open(self.client, policy.device)
        self.link.transfer = None  # a failed transfer is closed
        send_broadcast(transfer, self.client, policy, version=version)
        self.link.transfer = transfer

    def _sync_again(self, policy: Policy) -> None:
        """Send the weights again to a server that was restarted."""
        if self.sync != "none":
            assert self.link.version is not None
            self._sync(policy, self.link.version)

    def _probe(self, policy: Policy) -> Reported:
        """A short completion from the same request each time."""
        prompt = np.array([policy.eos_token_ids[0]] if policy.eos_token_ids else [0], dtype=np.int64)
        length = min(_PROBE_TOKENS, (policy.max_length or _PROBE_TOKENS + 1) - 1)
        draw = Draw((prompt,), 1, np.array([length]), np.array([0], dtype=np.uint64), temperature=self.temperature, greedy=False)
        return _reported([prompt], self._ask(policy, draw), self.temperature)

    def _ask(self, policy: Policy, draw: Draw) -> Completions:
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
        """Raise ConfigError if the server does not report log_softmax(logits / temperature) before any truncation."""
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
        if self.sync == "adapter":
            return ADAPTER_NAME
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
        """The result of `_read`; raises TrainingError for a reply of another form."""
        try:
            return self._read(reply, policy, limit=limit)
        except RlxError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise TrainingError(
                f"the server at {self.url} sent {reply!r:.80}, which is not a reply from a completions API ({error})"
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
        tokens: Any = choice.get("token_ids")
        if tokens is None and all(str(token).startswith(_PREFIX) for token in reported.get("tokens") or [None]):
            tokens = [int(token[len(_PREFIX) :]) for token in reported["tokens"]]
        logprobs: Any = reported.get("token_logprobs")
        needed = {"token_ids": tokens, "logprobs.token_logprobs": logprobs, "finish_reason": choice.get("finish_reason")}
        if missing := [name for name, value in needed.items() if not value]:
            raise ConfigError(
                f"the reply of the server at {self.url} has no {' and no '.join(missing)} in its choice; rlx learns from the "
                "exact tokens that were sampled, so choose a server that returns them; vLLM does"
            )
        finished = needed["finish_reason"] == "stop"
        wrong = _invalid_values(tokens, logprobs) or self._wrong(tokens, logprobs, policy, limit=limit, finished=finished)
        if wrong:
            raise TrainingError(f"the server at {self.url} {wrong}")
        return tokens, logprobs, finished

    def _wrong(self, tokens: list[int], logprobs: list[float], policy: Policy, *, limit: int, finished: bool) -> str:
        """What is wrong with a completion; empty if it is valid."""
        if len(tokens) != len(logprobs) or len(tokens) > limit:
            return f"sent {len(tokens)} tokens with {len(logprobs)} log-probabilities where at most {limit} tokens were asked for"
        if not finished and len(tokens) < limit:
            return (
                f"cut a completion after {len(tokens)} tokens where {limit} were asked for; raise its own limit "
                "(vLLM: --max-model-len), or lower rollout.max_new_tokens or policy.max_prompt_length"
            )
        if not 0 <= min(tokens) <= max(tokens) < policy.vocabulary_size:
            return f"sent tokens outside of the policy's vocabulary of {policy.vocabulary_size}; does it serve the same model?"
        stopped = any(string in policy.decode(np.array(tokens)) for string in self.stop)
        if finished and not stopped and tokens[-1] not in policy.eos_token_ids:
            return (
                f"ended a completion by itself, but its last token, {tokens[-1]}, is not an end-of-sequence token of the policy"
            )
        return ""


def _reported(prompts: Sequence[Tokens], made: Completions, temperature: float) -> Reported:
    lengths = made.lengths.tolist()
    tokens = tuple(made.tokens[row, :length] for row, length in enumerate(lengths))
    logprobs = tuple(made.logprobs[row, :length] for row, length in enumerate(lengths))
    return Reported(tuple(prompts), tokens, logprobs, temperature)


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
    """Whether a completion ended neither by itself nor by its limit, or has no token at all; a retry may succeed."""
    choice = _choice(reply)
    return "finish_reason" in choice and (choice["finish_reason"] not in ("stop", "length") or choice.get("token_ids") == [])
