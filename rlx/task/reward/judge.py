"""A judge: a language model on an OpenAI-compatible server that scores completions."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlx.client import JsonClient
from rlx.errors import ConfigError, DataError
from rlx.fields import count, within
from rlx.task.base import Prompt, Text, content_digest, finite
from rlx.task.messages import with_line_breaks
from rlx.task.reward.base import Measured, Reward

_PLACE = re.compile(r"\{(\w+)\}")


class NonsenseError(ValueError):
    """A judge's reply is not a score."""


@dataclass(frozen=True, kw_only=True)
class Judge(Reward):
    """The score that a judge gives a completion, scaled from `lowest`..`highest` to 0..1.

    The completions of a batch are judged concurrently. If a reply is not a score within the bounds, the request is repeated with
    another seed; after `retries` such replies the completion has no reward (see task.on_reward_error). If the judge cannot be
    reached, the run ends.

    url, model: of a server with /chat/completions; api_key_variable: the environment variable with the API key, null if it needs
    none. timeout: seconds per request; retries: further tries; backoff: seconds before the first retry, doubled each time.
    at_once: concurrent requests.
    template: the request; {prompt}, {completion} and the prompt's columns, such as {answer}, are filled in.
    pattern: a regular expression whose first group, matched in the reply, is the score.
    temperature, max_tokens: of the judge's reply.
    num_repeated: how many completions of a batch are judged twice, with another seed. The mean absolute difference of the two
    scores, in units of the reward, is logged as reward/judge_disagreement; the first score counts. 0: none.
    reward/judge_nonsense is the share of replies that were not a score.
    cache_dir: replies are cached there by content, in judge.sqlite, so that resumed runs and other runs of a sweep get the same
    replies; null: in memory.
    """

    bounds = (0.0, 1.0)

    url: str
    model: str
    api_key_variable: str | None
    template: str
    pattern: str
    lowest: float = within()
    highest: float = within()
    temperature: float = within(at_least=0)
    max_tokens: int = count()
    num_repeated: int = count(at_least=0)
    at_once: int = count()
    timeout: float = within(above=0)
    retries: int = count(at_least=0)
    backoff: float = within(at_least=0)
    cache_dir: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest >= self.highest:
            raise ConfigError(f"task.rewards.judge.lowest={self.lowest} is not below highest={self.highest}")
        if "{completion}" not in self.template:
            raise ConfigError("task.rewards.judge.template has no {completion}, so the judge would not see what it judges")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ConfigError(f"task.rewards.judge.pattern={self.pattern} is not a regular expression: {error}") from error
        if groups < 1:
            raise ConfigError(f"task.rewards.judge.pattern={self.pattern} has no group (...) around the score")

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> Any:
        return self.score_all([(Prompt(prompt, columns), completion)])[0]

    def score_all(self, samples: Sequence[tuple[Prompt, str]]) -> list[Any]:
        """A Measured for each: the score, or a NonsenseError instead, with the metrics of this batch."""
        asked = [self._question(prompt, completion) for prompt, completion in samples]
        distinct = list(dict.fromkeys(asked))
        twice = sorted(distinct, key=content_digest)[: self.num_repeated]
        found, wrong, replies = self._scores([*((text, 0) for text in distinct), *((text, 1) for text in twice)])
        figures = {"nonsense": wrong / replies if replies else 0.0}
        pairs = [(found[text, 0], found[text, 1]) for text in twice]
        apart = [abs(a - b) for a, b in pairs if isinstance(a, float) and isinstance(b, float)]
        if self.num_repeated:
            figures["disagreement"] = sum(apart) / len(apart) if apart else 0.0
        return [Measured(found[text, 0], figures) for text in asked]

    def _question(self, prompt: Prompt, completion: str) -> str:
        text = prompt.text
        if not isinstance(text, str):
            text = "\n".join(f"{message['role']}: {message.get('content', '')}" for message in text)
        known = {**prompt.columns, "prompt": text, "completion": completion}

        def filled(place: re.Match[str]) -> str:
            if place[1] not in known:
                raise DataError(
                    f"task.rewards.judge.template asks for {{{place[1]}}}, and the task's prompts have {', '.join(known)}"
                )
            return str(known[place[1]])

        return _PLACE.sub(filled, with_line_breaks(self.template))

    def _scores(self, asked: Sequence[tuple[str, int]]) -> tuple[dict[tuple[str, int], float | NonsenseError], int, int]:
        """(text, sample index) -> its score or error; the number of replies that were not a score; the number of replies."""
        found: dict[tuple[str, int], float | NonsenseError] = {}
        waiting, wrong, replies = list(asked), 0, 0
        for attempt in range(self.retries + 1):
            texts = self._replies([(text, number + 2 * attempt) for text, number in waiting])
            found |= {key: self._score(text) for key, text in zip(waiting, texts, strict=True)}
            replies += len(waiting)
            waiting = [key for key in waiting if isinstance(found[key], NonsenseError)]
            wrong += len(waiting)
            if not waiting:
                break
        return found, wrong, replies

    def _score(self, reply: str) -> float | NonsenseError:
        match = re.search(self.pattern, reply)
        number = None if match is None or match[1] is None else _number(match[1])
        if number is None or not self.lowest <= number <= self.highest:
            return NonsenseError(
                f"the judge {self.model} replied {reply!r:.80}, which is not a score from {self.lowest:g} to {self.highest:g} by "
                "task.rewards.judge.pattern"
            )
        return (number - self.lowest) / (self.highest - self.lowest)

    # ---- replies ---------------------------------------------------------------------------------------------------------------

    def _replies(self, asked: Sequence[tuple[str, int]]) -> list[str]:
        """The replies to (text, seed), from the cache or the server."""
        bodies = [self._body(text, seed) for text, seed in asked]
        keys = [content_digest([self.url, body]) for body in bodies]
        kept = self._cache.get_all(keys)
        missing = [place for place, key in enumerate(keys) if key not in kept]
        answers = self._client.ask_all("chat/completions", [bodies[place] for place in missing], at_once=self.at_once)
        fresh = {keys[place]: self._text(answer) for place, answer in zip(missing, answers, strict=True)}
        self._cache.put_all(fresh)
        return [kept[key] if key in kept else fresh[key] for key in keys]

    def _body(self, text: str, seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed,
        }

    def _text(self, answer: Mapping[str, Any]) -> str:
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise ConfigError(
                f"the server at {self.url} answers {dict(answer)!r:.80} to chat/completions, without choices[0].message.content; "
                "is task.rewards.judge.url right?"
            ) from None
        return "" if text is None else str(text)

    @cached_property
    def _client(self) -> JsonClient:
        return JsonClient(self.url, self.timeout, self.retries, self.backoff, self.api_key_variable, "task.rewards.judge")

    @cached_property
    def _cache(self) -> _Cache:
        return _Cache(self.cache_dir)


class _Cache:
    """Replies by digest of the request, in a file that several runs may share, or in memory."""

    def __init__(self, folder: str | None) -> None:
        self._memory: dict[str, str] = {}
        self._file: Path | None = None
        if folder is not None:
            self._file = Path(folder).expanduser() / "judge.sqlite"
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._opened()) as table, table:
                table.execute("CREATE TABLE IF NOT EXISTS reply (key TEXT PRIMARY KEY, text TEXT)")

    def _opened(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(str(self._file), timeout=60.0)
        except sqlite3.Error as error:
            raise ConfigError(
                f"the replies of the judge cannot be kept in {self._file}: {error}; see task.rewards.judge.cache_dir"
            ) from error

    def get_all(self, keys: Sequence[str]) -> dict[str, str]:
        """The cached replies among these keys."""
        found = {key: self._memory[key] for key in keys if key in self._memory}
        others = [key for key in keys if key not in found]
        if self._file is None or not others:
            return found
        with closing(self._opened()) as table:
            for key in others:
                row = table.execute("SELECT text FROM reply WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = self._memory[key] = str(row[0])
        return found

    def put_all(self, replies: Mapping[str, str]) -> None:
        """Cache replies; a reply that another run has cached meanwhile is not replaced."""
        self._memory.update(replies)
        if self._file is not None and replies:
            with closing(self._opened()) as table, table:
                table.executemany("INSERT OR IGNORE INTO reply VALUES (?, ?)", list(replies.items()))


def _number(text: str) -> float | None:
    try:
        return finite(float(text))
    except ValueError:
        return None
