"""Reading what a run logged: files of JSON lines, each with a `step`. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.errors import DataError
from rlx.record.files import follow_latest, number, open_regular

_BLOCK = 1 << 18  # bytes that are read at once


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, `step` in each; a last line that was cut off by a kill is left out."""
    return list(each_metrics(path))


def each_metrics(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """As `read_metrics`, a line after the other: a file of any length takes little memory."""
    for row in _each_line(path, "metrics.jsonl"):
        if str in map(type, row.values()):
            row = {key: number(value) if isinstance(value, str) else value for key, value in row.items()}
        yield row


def read_samples(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The sample completions that a run kept: `step`, `prompt`, `completion`, ... in each."""
    return read_lines(path, "samples.jsonl")


def read_completions(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What a run said to each held-out prompt at its last evaluation: `step`, `score`, `prompt`, `completion` in each."""
    return read_lines(path, "completions.jsonl")


def turn_lines(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """The turns of a conversation as `role: text` lines, those of the assistant with their rewards where they are not 0."""
    lines = []
    for turn in turns:
        reward = turn.get("reward")
        earned = f"  (reward {reward:g})" if isinstance(reward, (int, float)) and reward else ""
        lines.append(f"{turn.get('role')}: {turn.get('content')}{earned}")
    return lines


def completion_text(row: Mapping[str, Any]) -> Any:
    """The completion of a sample; of a conversation its turns, one a line."""
    turns = row.get("turns")
    is_talk = isinstance(turns, list) and all(isinstance(turn, Mapping) for turn in turns)
    return "\n".join(turn_lines(turns)) if is_talk and turns else row.get("completion")


def prompt_text(prompt: Any) -> Any:
    """A prompt that is messages as `role: content` lines; any other, and messages with calls of tools, as it is."""
    messages = prompt if isinstance(prompt, (list, tuple)) else []
    is_talk = all(isinstance(one, Mapping) and set(one) == {"role", "content"} for one in messages)
    return "\n".join(turn_lines(messages)) if is_talk and messages else prompt


def read_lines(path: str | os.PathLike[str], name: str) -> list[dict[str, Any]]:
    """The objects in a file of lines of a run directory (or in that file); none if the run has not written it yet."""
    return list(_each_line(path, name))


def _each_line(path: str | os.PathLike[str], name: str) -> Iterator[dict[str, Any]]:
    """As `read_lines`, one object after the other."""
    place = follow_latest(Path(path))
    file = place if place.suffix == ".jsonl" else place / name
    try:
        with open_regular(file) as lines:
            first_line = 1
            while block := lines.read(_BLOCK) + lines.readline():
                yield from parse_lines(block, file, first_line=first_line)
                first_line += block.count(b"\n")
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise DataError(f"{file.parent}: no such run directory") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def parse_lines(data: bytes, file: Path, *, first_line: int = 1) -> list[dict[str, Any]]:
    """JSON objects with an integer `step`, one a line; only the last line may be cut."""
    lines = data.split(b"\n")
    rows = []
    for index, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())  # of bytes, json looks for their encoding in every line
        except (ValueError, RecursionError):
            if index - first_line == len(lines) - 1:  # no newline after it: the writer was killed in the middle of it
                break
            raise DataError(f"{file}, line {index}: not JSON; the record was damaged") from None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{file}, line {index}: not an object with an integer step; the record was damaged")
        rows.append(row)
    return rows


def read_tail(file: Path, size: int = 64 * 1024) -> list[dict[str, Any]]:
    """The whole lines among the last `size` bytes of a file of lines: enough for the newest metrics of a long run."""
    try:
        if not file.is_file() and file.exists():
            raise DataError(f"{file}: cannot be read: it is no regular file")
        with open(file, "rb") as lines:
            length = lines.seek(0, os.SEEK_END)
            start = max(0, length - size)
            lines.seek(start)
            data = lines.read()
    except FileNotFoundError:
        return []
    if start > 0:
        data = data.partition(b"\n")[2]
    return parse_lines(data, file)
