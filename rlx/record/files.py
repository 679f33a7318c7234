"""The files of a record: written completely or not at all, and JSON lines read back. Standard library only.

Non-finite floats are written as the strings "NaN", "Infinity" and "-Infinity", so that every line is standard JSON and nothing is
lost; `number` converts them back.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rlx.errors import ConfigError, DataError, TrainingError

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}

_MISPLACED = {
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
}


def json_value(value: Any) -> Any:
    """`value` in the types of JSON: mappings with string keys, lists, strings, finite numbers, booleans and null."""
    if value is None or (isinstance(value, (bool, int)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else ("NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity")
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(json_value(key)): json_value(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(json_value, value), key=repr)
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays
        return json_value(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return str(value)


def number(value: Any) -> Any:
    """A value of a record as a number; reverses what `json_value` does to non-finite floats."""
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def json_line(value: Any) -> bytes:
    """One line of JSON with its newline, in ASCII, so that no text can break the line or its encoding."""
    return json.dumps(json_value(value), allow_nan=False).encode("ascii") + b"\n"


@contextlib.contextmanager
def full_disk_explained(path: Path, *, key: str = "output_dir=DIR") -> Iterator[None]:
    """Turn an OSError from writing `path` into a TrainingError with advice, or into a ConfigError if the path is wrong.

    key: the config key that chooses the place, with its value.
    """
    try:
        yield
    except OSError as error:
        reason = _FULL.get(error.errno or 0, error.strerror or str(error))
        kind = ConfigError if error.errno in _MISPLACED else TrainingError
        mend = "free some space" if error.errno in _FULL else "make it writable"
        raise kind(f"cannot write {path}: {reason}; {mend}, or choose another place with {key}") from error


def sync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` survive a power failure, if the file system can."""
    with contextlib.suppress(OSError):  # some file systems cannot open or sync a directory
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_regular(path: Path) -> bytes:
    """The content of a regular file; OSError for anything else, such as a pipe, which would block forever."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > _LARGEST:
            raise OSError(errno.EFBIG, "it is larger than any that rlx writes", os.fspath(path))
        return file.read()


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading; OSError for anything else, such as a pipe, which would block forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    return open(descriptor, "rb")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace the content of `path` by `data` atomically: a reader, or a kill, finds either the old content or the new."""
    temporary = write_beside(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_beside(path: Path, data: bytes | str) -> Path:
    """Write `data` durably to a temporary file next to `path` and return its name; nothing is left if it fails.

    Raises OSError if `path` is a directory, device or pipe, which a file would replace.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is not an ordinary file", os.fspath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_new(path: Path, data: bytes | str) -> None:
    """Write `path` completely; raises FileExistsError if it exists. Of two concurrent writers, one succeeds."""
    temporary = write_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: claim the name first, then fill it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def link_latest(directory: Path, link: Path) -> None:
    """Make `link` point to `directory`, atomically: a symbolic link, or a text file where links are not supported."""
    target = os.path.relpath(directory, link.parent)
    temporary = link.with_name(f".{link.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        os.symlink(target, temporary, target_is_directory=True)
    except (OSError, NotImplementedError):
        temporary.write_text(target + "\n", encoding="utf-8")
    try:
        os.replace(temporary, link)
    except OSError:  # a user's directory with that name is left alone
        temporary.unlink(missing_ok=True)


def follow_latest(path: Path) -> Path:
    """The directory that a `latest` (a link or a text file) points to now; any other path unchanged."""
    if path.name == "latest" and path.is_symlink():
        return path.parent / os.readlink(path)
    if path.name != "latest" or not path.is_file():
        return path
    return path.parent / path.read_text(encoding="utf-8").strip()


class Appender:
    """A file to which lines are appended: every line reaches the operating system completely, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with full_disk_explained(path):
            self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o666)
        self._size = os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> None:
        """Append one line; if the disk cannot take all of it, the written part is removed again."""
        with full_disk_explained(self.path):
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(line)

    def sync(self) -> None:
        """Wait until every line is on the disk."""
        with full_disk_explained(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; may be called more than once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def relative(directory: Path) -> str:
    """A directory as text, relative to the working directory if it is below it."""
    return str(directory.relative_to(Path.cwd())) if directory.is_relative_to(Path.cwd()) else str(directory)


# Reading what a run logged: files of JSON lines, each with a `step`. Standard library only.


_BLOCK = 1 << 18  # bytes per read
_LONGEST = 1 << 28  # bytes of a line
_LARGEST = 1 << 30  # bytes of a file that is read as a whole


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, each with `step`; a last line that a kill cut off is left out."""
    return list(each_metrics(path))


def each_metrics(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Like `read_metrics`, but one line at a time, so that a file of any length needs little memory."""
    for row in _each_line(path, "metrics.jsonl"):
        if str in map(type, row.values()):
            row = {key: number(value) if isinstance(value, str) else value for key, value in row.items()}
        yield row


def read_samples(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The sample completions that a run kept, each with `step`, `prompt`, `completion`, ..."""
    return read_lines(path, "samples.jsonl")


def read_completions(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """A run's completion of each held-out prompt at its last evaluation, each with `step`, `score`, `prompt`, `completion`."""
    return read_lines(path, "completions.jsonl")


def turn_lines(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """The turns of a conversation as `role: text` lines; the assistant's with their rewards if these are not 0."""
    lines = []
    for turn in turns:
        reward = turn.get("reward")
        earned = f"  (reward {reward:g})" if isinstance(reward, (int, float)) and reward else ""
        lines.append(f"{turn.get('role')}: {turn.get('content')}{earned}")
    return lines


def completion_text(row: Mapping[str, Any]) -> Any:
    """The completion of a sample; for a conversation its turns, one per line."""
    turns = row.get("turns")
    is_talk = isinstance(turns, list) and all(isinstance(turn, Mapping) for turn in turns)
    return "\n".join(turn_lines(turns)) if is_talk and turns else row.get("completion")


def prompt_text(prompt: Any) -> Any:
    """A prompt of messages as `role: content` lines; any other prompt, and messages with tool calls, unchanged."""
    messages = prompt if isinstance(prompt, (list, tuple)) else []
    is_talk = all(isinstance(one, Mapping) and set(one) == {"role", "content"} for one in messages)
    return "\n".join(turn_lines(messages)) if is_talk and messages else prompt


def read_lines(path: str | os.PathLike[str], name: str) -> list[dict[str, Any]]:
    """The objects in a JSON-lines file of a run directory (or in that file); empty if the run has not written it yet."""
    return list(_each_line(path, name))


def _each_line(path: str | os.PathLike[str], name: str) -> Iterator[dict[str, Any]]:
    """Like `read_lines`, one object at a time."""
    place = follow_latest(Path(path))
    file = place if place.suffix == ".jsonl" else place / name
    try:
        with open_regular(file) as lines:
            first_line = 1
            while block := lines.read(_BLOCK) + lines.readline(_LONGEST):
                if len(block) >= _LONGEST:
                    raise DataError(
                        f"{file}: a line after line {first_line} is longer than rlx writes any; the record was damaged"
                    )
                yield from parse_lines(block, file, first_line=first_line)
                first_line += block.count(b"\n")
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise DataError(f"{file.parent}: no such run directory") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def parse_lines(data: bytes, file: Path, *, first_line: int = 1) -> list[dict[str, Any]]:
    """JSON objects with an integer `step`, one per line; only the last line may be incomplete."""
    lines = data.split(b"\n")
    rows = []
    for index, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())  # given bytes, json would detect the encoding of every line
        except (ValueError, RecursionError):
            if index - first_line == len(lines) - 1:  # no newline at the end: the writer was killed while writing it
                break
            raise DataError(f"{file}, line {index}: not JSON; the record was damaged") from None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{file}, line {index}: not an object with an integer step; the record was damaged")
        rows.append(row)
    return rows


def read_tail(file: Path, size: int = 64 * 1024) -> list[dict[str, Any]]:
    """The complete lines among the last `size` bytes of a file: enough for the newest metrics of a long run."""
    try:
        if not file.is_file() and file.exists():
            raise DataError(f"{file}: cannot be read: it is not a regular file")
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
