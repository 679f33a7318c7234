"""Loads an environment of the package verifiers, refuses it if rlx cannot run it, and splits its rows."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError, DataError, RlxError, users_place

Row = Mapping[str, Any]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # signals whose handlers the package replaces

# exceptions of reward functions for the conversation being scored; the package itself only logs them and scores 0
reward_errors: ContextVar[list[str]] = ContextVar("reward_errors")


def package() -> Any:
    """verifiers, or a ConfigError that says how to install it."""
    try:
        import verifiers
    except ImportError as error:
        raise ConfigError(f"task=verifiers needs the package verifiers: pip install 'rlx[verifiers]' ({error})") from error
    if not hasattr(verifiers, "MultiTurnEnv") or not hasattr(verifiers, "Rubric"):
        version = getattr(verifiers, "__version__", "another version")
        raise ConfigError(f"task=verifiers needs verifiers 0.1, and {version} is installed: pip install 'rlx[verifiers]'")
    return verifiers


def loaded(load: Callable[..., Any], env: str, parameters: Mapping[str, Any]) -> Any:
    """The environment that `load` creates from the parameters. Raises ConfigError if rlx cannot run it."""
    package()
    _check_parameters(load, env, parameters)
    with _signals_kept():
        try:
            made = load(**parameters)
        except RlxError:
            raise
        except Exception as error:  # code of the environment's author
            raise ConfigError(f"task.env={env} cannot be loaded: {_described(error)}") from error
    _require_runnable(made, env)
    _keep_reward_errors(made)
    return made


def _described(error: BaseException) -> str:
    place = users_place(error)
    return f"{type(error).__name__}: {error}{f' ({place})' if place else ''}"


def _check_parameters(load: Callable[..., Any], env: str, parameters: Mapping[str, Any]) -> None:
    known = inspect.signature(load).parameters
    if any(item.kind is item.VAR_KEYWORD for item in known.values()):
        return
    for name in parameters:
        if name not in known:
            hint = did_you_mean(nearest(name, known)) or f"; it has {', '.join(known) or 'none'}"
            raise ConfigError(f"task.parameters.{name} is not a parameter of {env}{hint}")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the signal handlers that stop a run, which each environment of the package replaces when it is created."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread, including the package's, can set a handler
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_runnable(made: Any, env: str) -> None:
    """Raise ConfigError for an object that is not an environment, or for one that rlx's loop of one conversation cannot play."""
    vf = package()
    where = f"task.env={env}"
    if not isinstance(made, vf.Environment):
        raise ConfigError(f"{where} makes {made!r:.60}, which is not an environment of verifiers")
    parts = environments_in(made)
    for part in parts:
        kind = type(part).__name__
        if not isinstance(part, (vf.MultiTurnEnv, vf.EnvGroup)):
            raise ConfigError(f"{where}: {kind} is neither a MultiTurnEnv nor a group of such; rlx plays these alone")
        if part.requires_group_rollouts:
            raise ConfigError(
                f"{where}: the rubric of {kind} has rewards of a whole group, and rlx scores each conversation on its own; "
                "give it rewards of one completion"
            )
        if part.provides_advantages:
            raise ConfigError(f"{where}: the rubric of {kind} gives advantages; in rlx they are the algorithm's")
        if not part.score_rollouts:
            raise ConfigError(f"{where}: {kind} was made with score_rollouts=False, so it would give no rewards")
        if len(parts) > 1 and part.tool_defs:
            raise ConfigError(f"{where} is a group in which {kind} has tools; name that environment alone")


def environments_in(made: Any) -> list[Any]:
    """The environment, and its members if it is a group."""
    return [made, *(below for part in getattr(made, "envs", ()) for below in environments_in(part))]


def _keep_reward_errors(made: Any) -> None:
    """Record exceptions and non-numeric results of reward functions in `reward_errors`."""
    seen: set[int] = set()
    waiting = [part.rubric for part in environments_in(made)]
    while waiting:
        rubric = waiting.pop()
        if id(rubric) in seen:
            continue
        seen.add(id(rubric))
        waiting += getattr(rubric, "rubrics", ())
        rubric.funcs = [_noting(function) for function in rubric.funcs]


def _noting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def scored(*args: Any, **kwargs: Any) -> float:
        try:
            value = function(*args, **kwargs)
            return float(await value if inspect.isawaitable(value) else value)
        except Exception as error:
            reward_errors.get([]).append(f"its reward {getattr(function, '__name__', function)} raised {_described(error)}")
            raise

    return scored


# The rows of an environment.


def split_rows(made: Any, env: str, held_out: float) -> tuple[list[Row], list[Row], str]:
    """(training rows, held-out rows, how they were split).

    The rows of its eval dataset are held out and never used for training. If there is none, or if it contains all rows, a share
    of the rows is held out by a hash of their content. Raises DataError if one side is empty.
    """
    learn, evaluate = _rows(made.build_dataset, env), _rows(made.build_eval_dataset, env)
    held = {_content(row) for row in evaluate}
    rest = [row for row in learn if _content(row) not in held]
    if evaluate and rest:
        return rest, evaluate, "its eval dataset"
    rows = learn or evaluate
    places = [_uniform(_content(row)) for row in rows]
    if len(set(places)) < 2:
        raise DataError(
            f"task.env={env} has {len(rows)} rows that differ in {len(set(places))}; at least one is needed to learn from and "
            "another for the score"
        )
    limit = max(held_out, min(places))
    found = [row for row, place in zip(rows, places, strict=True) if place > limit]
    if not found:
        raise DataError(f"task.env={env}: all rows are held out at task.held_out={held_out}; lower it")
    return found, [row for row, place in zip(rows, places, strict=True) if place <= limit], "a hash of the row"


def _rows(build: Callable[[], Any], env: str) -> list[Row]:
    try:
        with _signals_kept():
            dataset = build()
            return [] if dataset is None else list(dataset.to_list())
    except RlxError:
        raise
    except Exception as error:  # raised by the environment author's code, or a download
        raise DataError(f"task.env={env}: its dataset cannot be made: {_described(error)}") from error


def _content(row: Row) -> str:
    """The content of a row, without its index."""
    told = {name: value for name, value in row.items() if name != "example_id"}
    return json.dumps(told, sort_keys=True, ensure_ascii=False, default=repr)


def _uniform(content: str) -> float:
    """A number in [0, 1) that depends only on the content."""
    digest = hashlib.blake2b(f"held out {content}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2.0**64


def rows_hash(rows: list[Row]) -> str:
    """A hash of the content of rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_content(row).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
