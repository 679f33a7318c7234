"""Rows of a JSONL or Parquet file, each with the place that it came from."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlx.errors import DataError

SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")


def find_file(path: str, *, key: str) -> Path:
    """The file that `path` names, or a DataError with the nearest file beside it."""
    if not path.strip():
        raise DataError(f"{key} is empty; name the file")
    file = Path(path).expanduser()
    try:
        if file.is_file():
            file.open("rb").close()
            return file
    except OSError as error:
        raise DataError(f"{key}: {path} cannot be read: {error.strerror}; make it readable") from error
    if file.exists() and not file.is_dir():
        raise DataError(f"{key}: {path} is no ordinary file, and rlx reads its data more than once; write it into a file first")
    if file.is_dir():
        raise DataError(f"{key}: {path} is a directory; name one file in it ({', '.join(SUFFIXES)})")
    names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    near = difflib.get_close_matches(file.name, names, n=1)
    hint = f"did you mean {file.parent / near[0]}?" if near else f"the working directory is {Path.cwd()}"
    raise DataError(f"{key}: there is no file {path}; {hint}")


def read_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) for each row of the file; place is `file:line` for JSONL and `file, row n` for Parquet.

    Raises DataError that names the line where a line is no JSON object or the file is no Parquet file.
    """
    if file.suffix == ".parquet":
        yield from _parquet_rows(file)
    elif file.suffix in SUFFIXES:
        yield from _jsonl_rows(file)
    else:
        raise DataError(
            f"{file}: rlx reads {', '.join(SUFFIXES)}, not {file.suffix or 'a file without a suffix'}; rename or convert it"
        )


def _jsonl_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file}:{number}: this line is not UTF-8 text ({error.reason}); save the file as UTF-8"
                ) from error
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{file}:{number}: this line is not JSON: {error.msg} at column {error.colno}; "
                    "a JSONL file has one whole JSON object a line"
                ) from error
            if rb"\ud" in line.lower():
                _require_characters(row, f"{file}:{number}")
            if not isinstance(row, dict):
                raise DataError(
                    f'{file}:{number}: this line is a JSON {type(row).__name__}, not an object like {{"prompt": ...}}'
                )
            yield f"{file}:{number}", row


def _require_characters(row: Any, place: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write and no encoding can hold."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(f"{place}: {half} on this line is half of a surrogate pair and no character; take it out") from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise DataError(f"{file}: reading Parquet needs pyarrow; pip install 'rlx[parquet]'") from error
    try:
        table = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{file}, row {number}", row


def column(row: Mapping[str, Any], name: str, *, place: str, setting: str) -> Any:
    """The value of a column that must be there, or a DataError that says which keys there are and which setting renames it."""
    if name in row:
        return row[name]
    near = difflib.get_close_matches(name, list(row), n=1)
    hint = f"did you mean {setting}={near[0]}?" if near else f"set {setting} to the right one"
    raise DataError(f"{place}: there is no key {name!r} here, only {', '.join(map(repr, row)) or 'none at all'}; {hint}")


def file_hash(file: Path) -> str:
    """SHA-256 of the file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
