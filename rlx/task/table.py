"""Rows of data files with their location: JSON lines, CSV, Parquet, Arrow, compressed or not, in shards."""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from glob import glob
from itertools import chain
from pathlib import Path
from typing import IO, Any

from rlx.client import hub_unreached
from rlx.errors import DataError

SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".parquet", ".arrow")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # CSV separators: the first one found in the header is used
_PATTERN = re.compile(r"[*?\[]")
_LIST = "write one row per line, for example by jq -c '.[]' FILE > ROWS.jsonl"
_SURROGATE = re.compile(rb"\\u[dD]")
_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+){0,2}")  # a data set on the hub, with configuration and split


def find_files(path: str, *, key: str) -> tuple[Path, ...]:
    """The files that `path` names, in the order of their names.

    path: a file; a pattern (shards/*.jsonl.gz); a directory of shards, or one saved by the package datasets; `directory:split`;
    a name on the Hugging Face hub, or a directory with its layout: `name`, `name:split`, `name:configuration` or
    `name:configuration:split`. The training split is used unless another is named.
    Raises DataError if there is no such data.
    """
    if not path.strip():
        raise DataError(f"{key} is empty; name the file")
    if _PATTERN.search(path) and not Path(path).expanduser().exists():
        found = sorted(Path(name) for name in glob(str(Path(path).expanduser()), recursive=True) if _is_data(Path(name)))
        if not found:
            raise DataError(f"{key}: no data file matches {path}; the working directory is {Path.cwd()}")
        return tuple(found)
    if Path(path).expanduser().is_file():
        return (find_file(path, key=key),)
    place, *parts = path.split(":")
    folder = Path(place).expanduser()
    if folder.is_dir() and is_mirror(folder):
        return hub_files(str(folder), parts, key=key)
    if folder.is_dir() and parts and (folder / parts[0]).is_dir():  # a configuration, or a split
        folder, parts = folder / parts[0], parts[1:]
    if folder.is_dir() and len(parts) < 2:
        return _shards(folder, "".join(parts), key=key)
    if _NAME.fullmatch(path) and not folder.exists() and not _is_meant_here(folder):
        return hub_files(place, parts, key=key)
    return (find_file(path, key=key),)


def _is_meant_here(file: Path) -> bool:
    """Whether a nonexistent path means a local file, judging by its suffix, its folder, or a similar name beside it."""
    if suffix_of(file) in SUFFIXES or (len(file.parts) > 1 and file.parent.is_dir()):
        return True
    return bool(difflib.get_close_matches(file.name, [entry.name for entry in Path().iterdir()], n=1, cutoff=0.8))


def _is_data(file: Path) -> bool:
    """Whether a file has a suffix that rlx reads."""
    return suffix_of(file) in SUFFIXES and file.is_file()


def suffix_of(file: Path) -> str:
    """The suffix of a file's content, without that of the compression."""
    return Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix


def _shards(folder: Path, split: str, *, key: str) -> tuple[Path, ...]:
    """The files of a split in a directory, by folder or file name; all files if it has no splits."""
    try:
        files = sorted(file for file in folder.rglob("*") if _is_data(file) and not file.name.startswith("dataset_"))
    except OSError as error:
        raise DataError(
            f"{key}: the directory {folder} cannot be searched: {error}; name the file or the folder of data"
        ) from error
    files = [file for file in files if file.suffix != ".json" or file.name not in ("state.json", "dataset_info.json")]
    if not files:
        raise DataError(f"{key}: the directory {folder} contains no data file ({', '.join(SUFFIXES)})")
    found = [file for file in files if _of_split(file.relative_to(folder), split or "train")]
    if split and not found:
        names = ", ".join(str(file.relative_to(folder)) for file in files[:5])
        raise DataError(f"{key}: {folder} has no files of a split {split!r}, only {names}")
    return tuple(found or files)


def _of_split(file: Path, split: str) -> bool:
    return any(part == split or re.split(r"[-_.]", part)[0] == split for part in file.parts)


def find_file(path: str, *, key: str) -> Path:
    """The file that `path` names. Raises DataError with the most similar file beside it."""
    file = Path(path).expanduser()
    try:
        if file.is_file():
            file.open("rb").close()
            return file
    except OSError as error:
        raise DataError(f"{key}: {path} cannot be read: {error.strerror}; make it readable") from error
    if file.exists() and not file.is_dir():
        raise DataError(f"{key}: {path} is not an ordinary file, and rlx reads data more than once; write it into a file first")
    if file.is_dir():
        raise DataError(f"{key}: {path} is a directory; name one file in it ({', '.join(SUFFIXES)})")
    names = [entry.name for entry in file.parent.iterdir() if entry.exists()] if file.parent.is_dir() else []
    near = difflib.get_close_matches(file.name, names, n=1)
    hint = f"did you mean {file.parent / near[0]}?" if near else f"the working directory is {Path.cwd()}"
    raise DataError(f"{key}: there is no file {path}; {hint}")


def read_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(location, row) for each row of the file; the location is `file:line` for JSONL and `file, row n` for Parquet.

    Raises DataError, with the line, if a line is not a JSON object or the file is not a Parquet file.
    """
    suffix = suffix_of(file)
    if suffix in (".parquet", ".arrow"):
        yield from _arrow_rows(file, suffix)
    elif suffix == ".csv":
        yield from _csv_rows(file)
    elif suffix in SUFFIXES:
        yield from _jsonl_rows(file)
    else:
        raise DataError(
            f"{file}: rlx reads {', '.join(SUFFIXES)}, not {file.suffix or 'a file without a suffix'}; rename or convert it"
        )


def _jsonl_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    name = str(file)
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                row = _decode(line.decode(json.detect_encoding(line), "surrogatepass"))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file}:{number}: this line is not UTF-8 text ({error.reason}); save the file as UTF-8"
                ) from error
            except json.JSONDecodeError as error:
                mend = _LIST if line.strip() == b"[" else "a JSONL file has one whole JSON object per line"
                raise DataError(f"{file}:{number}: this line is not JSON: {error.msg} at column {error.colno}; {mend}") from error
            except _TwiceError as error:
                raise DataError(f"{file}:{number}: this line has the key {error.args[0]!r} twice; leave one of them") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; hundreds of levels
                raise DataError(f"{file}:{number}: this line cannot be read: {error}; take it out") from error
            if _SURROGATE.search(line):
                _require_characters(row, f"{name}:{number}")
            if not isinstance(row, dict):
                kind, mend = type(row).__name__, f"; {_LIST}" if isinstance(row, list) else ""
                raise DataError(f'{file}:{number}: this line is a JSON {kind}, not an object like {{"prompt": ...}}{mend}')
            yield f"{name}:{number}", row


class _TwiceError(Exception):
    """An object has a duplicate key, of which json would keep the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _TwiceError(next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place])))
    return made


_decode = json.JSONDecoder(object_pairs_hook=_object).decode


def _require_characters(row: Any, place: str) -> None:
    """Raise DataError for half of a surrogate pair, which JSON can contain but no encoding can represent."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(f"{place}: {half} on this line is half of a surrogate pair and not a character; remove it") from error


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed."""
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rb") as unpacked:
                yield unpacked  # type: ignore[misc]
        elif file.suffix == ".zst":
            pyarrow = _pyarrow(file)
            with (
                pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd") as stream,
                io.BufferedReader(stream) as unpacked,
            ):
                yield unpacked
        else:
            with file.open("rb") as plain:
                yield plain
    except (OSError, EOFError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # from the operating system: the file cannot be opened
            raise
        raise DataError(f"{file} cannot be unpacked: {error}; is it whole?") from error


def _csv_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a CSV file with a header, separated by commas, semicolons or tabs like the header; empty values are absent."""
    with _opened(file) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        csv.field_size_limit(2**31 - 1)  # global to csv; texts may be longer than its default limit
        try:
            first = text.readline()
            mark = next((mark for mark in _SEPARATORS if mark in first), ",")
            reader = csv.DictReader(chain((first,), text), strict=True, delimiter=mark)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: line 1 is not UTF-8: {error}") from error
        try:
            _require_names_once(reader.fieldnames or (), file)
            for row in reader:
                if None in row:
                    words = f"this row has more fields than the header; quote those with {_SEPARATORS[mark]}"
                    raise DataError(f"{file}:{reader.line_num}: {words}")
                yield f"{file}:{reader.line_num}", {name: value for name, value in row.items() if value not in ("", None)}
        except csv.Error as error:
            raise DataError(f"{file}: after line {reader.line_num} this is not CSV: {error}; are all quotes closed?") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: after line {reader.line_num} this is not UTF-8: {error}") from error


def _require_names_once(names: Sequence[str], file: Path) -> None:
    """Raise DataError for duplicate column names, of which a row would keep the last."""
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    if twice is not None:
        raise DataError(f"{file}: two columns are called {twice!r}; rename or leave out one of them")


def _arrow_rows(file: Path, suffix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    pyarrow = _pyarrow(file)
    from pyarrow import ipc, parquet

    number = 0
    try:
        batches = parquet.ParquetFile(file).iter_batches() if suffix == ".parquet" else ipc.open_stream(str(file))
        for batch in batches:
            _require_names_once(batch.schema.names, file)
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as {'Parquet' if suffix == '.parquet' else 'Arrow'}: {error}") from error


def _pyarrow(file: Path) -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise DataError(f"{file}: reading it needs pyarrow; pip install 'rlx[parquet]'") from error
    return pyarrow


class AbsentError(DataError):
    """A row lacks a value that is needed to learn from it: no such column, null, or empty.

    lacks: a description, such as "'chosen' is null". purpose: of the column, or "". mend: advice if all rows lack it.
    """

    def __init__(self, place: str, lacks: str, *, purpose: str = "", mend: str = "") -> None:
        super().__init__(f"{place}: {lacks}{mend and '; '}{mend}")
        self.place = place
        self.lacks = lacks
        self.purpose = purpose


def column(row: Mapping[str, Any], name: str, *, place: str, setting: str, mend: str = "", purpose: str = "") -> Any:
    """The value of a required column. Raises AbsentError with the existing keys and the setting that renames the column.

    mend: further advice if no key is similar. purpose: as in AbsentError.
    """
    if name in row:
        return row[name]
    near = difflib.get_close_matches(name, list(row), n=1)
    hint = f"did you mean {setting}={near[0]}?" if near else mend or f"set {setting} to the right one"
    lacks = f"there is no key {name!r} here, only {', '.join(map(repr, row)) or 'none at all'}"
    raise AbsentError(place, lacks, purpose=purpose, mend=hint)


def file_hash(file: Path) -> str:
    """SHA-256 of the file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_hash(files: Sequence[Path]) -> str:
    """One hash of several files' bytes; of a single file its own."""
    hashes = [file_hash(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


# Data sets on the Hugging Face hub, or in its layout: the files of a name, a configuration and a split.


_REMOTE = "hf://datasets/"
NEEDS = "pip install 'rlx[datasets]'"


def hub_files(name: str, parts: Sequence[str], *, key: str) -> tuple[Path, ...]:
    """The files of a data set, downloaded if necessary.

    name: on the hub, or a directory with the hub's layout. parts: () or (split,) or (configuration,) or (configuration, split).
    The default split is the training split; the default configuration is the only one, or the one named default.
    Raises DataError if the package datasets is missing, or finds no such data set, configuration or split.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"{key}: there is no file {name}, and data of the Hugging Face hub is read by the package datasets; {NEEDS}"
        ) from error
    with nullcontext("") if Path(name).is_dir() else _hub() as unreached:
        try:
            configs = [str(config) for config in datasets.get_dataset_config_names(name)]
            config, split = _places(name, parts, configs, key=key)
            files = datasets.load_dataset_builder(name, config).config.data_files
        except DataError:
            raise
        except Exception as error:  # of many kinds: no such name, no permission, no data in it
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            said = f"gives no such data set ({first})"
            if unreached:
                said = f"cannot be reached ({unreached}); download the set elsewhere and name its files"
            raise DataError(f"{key}: there is no file {name}, and the Hugging Face hub {said}") from error
        return tuple(Path(_local(str(file), key=key)) for file in _files_of_split(files or {}, split, name=name, key=key))


@contextmanager
def _hub() -> Iterator[str]:
    """Why the hub cannot be reached, "" if it can. If not, earlier downloads are used without retries."""
    import datasets
    from huggingface_hub import constants

    unreached = hub_unreached()
    both: dict[Any, bool] = {each: each.HF_HUB_OFFLINE for each in (constants, getattr(datasets, "config", constants))}
    try:
        for each, offline in both.items():
            each.HF_HUB_OFFLINE = offline or bool(unreached)
        yield unreached
    finally:
        for each, offline in both.items():
            each.HF_HUB_OFFLINE = offline


def _places(name: str, parts: Sequence[str], configs: Sequence[str], *, key: str) -> tuple[str, str]:
    """(configuration, split). A single part is a configuration if there is one of that name, else a split."""
    known = f"{name} has the configurations {', '.join(configs)}"
    if len(parts) == 2 or (len(parts) == 1 and parts[0] in configs):
        config, split = parts[0], parts[1] if len(parts) == 2 else "train"
        if config not in configs:
            raise DataError(f"{key}: {known}, not {config}; name one of them: {key}={name}:{configs[0]}:{split}")
        return config, split
    if len(configs) > 1 and "default" not in configs:
        raise DataError(f"{key}: {known}; name one of them: {key}={':'.join((name, configs[0], *parts))}")
    return "default" if "default" in configs else configs[0], parts[0] if parts else "train"


def _files_of_split(files: Mapping[Any, Sequence[Any]], split: str, *, name: str, key: str) -> Sequence[Any]:
    named = {str(found): list(listed) for found, listed in files.items()}
    if split in named:
        return named[split]
    raise DataError(f"{key}: {name} has no split {split!r}, only {', '.join(named) or 'none'}; name one: {key}={name}:SPLIT")


def _local(file: str, *, key: str) -> str:
    """The path of a file, downloaded if it is on the hub: hf://datasets/OWNER/NAME@REVISION/FILE."""
    if not file.startswith(_REMOTE):
        return file
    from huggingface_hub import hf_hub_download

    repository, _, rest = file.removeprefix(_REMOTE).partition("@")
    revision, _, path = rest.partition("/")
    try:
        return str(hf_hub_download(repository, path, repo_type="dataset", revision=revision))
    except Exception as error:  # of many kinds, as above
        raise DataError(f"{key}: {path} of {repository} cannot be downloaded: {error}") from error


def is_mirror(folder: Path) -> bool:
    """Whether a directory's README declares configurations and their files, as on the hub."""
    readme = folder / "README.md"
    if not readme.is_file():
        return False
    with readme.open(encoding="utf-8", errors="replace") as text:
        head = text.read(100_000)
    return head.startswith("---") and "\nconfigs:" in head.partition("\n---\n")[0]
