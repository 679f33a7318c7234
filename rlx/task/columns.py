"""Finds the columns of a data file, by the names in the task's config or the names that well-known data sets use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from rlx.errors import DataError
from rlx.task.base import Text
from rlx.task.messages import Tools, as_conversation, as_system, as_tools, is_transcript, spells_messages
from rlx.task.table import AbsentError, column, files_hash, find_files, read_rows

T = TypeVar("T")
CONVERSATIONS = ("messages", "conversations", "conversation")  # columns of whole conversations, including the last answer
# Purpose of a column -> its names in well-known data sets.
KNOWN = {
    "prompt": ("question", "problem", "instruction", "query", "history", "input", *CONVERSATIONS),  # Orca, GSM8K, MATH, SHP, ...
    "chosen": ("chosen_response", "response_chosen", "preferred", "accepted"),
    "rejected": ("rejected_response", "response_rejected", "dispreferred"),
    "completion": ("response", "output", "solution", "answer"),  # Dolly, Alpaca, MATH, GSM8K
    "label": ("desirable", "thumbs_up", "kto_tag"),
    "answer": ("final_answer", "ground_truth", "solution", "target"),
    "system": ("system_prompt",),
}
SCORES = tuple(  # of UltraFeedback, Capybara and others
    (pattern.format("chosen"), pattern.format("rejected"))
    for pattern in ("score_{}", "{}_score", "rating_{}", "{}_rating", "{}-rating")
)
# Purpose -> advice if no column has it.
_MENDS = {
    "chosen": "rlx learns from a better and a worse completion in columns of their own: name them by task.chosen_key and "
    "task.rejected_key, or write such columns out of ranks and ratings first; demonstrations (conversations, or a prompt and one "
    "completion) are for task=demonstration_file, from which algorithm=sft learns",
    "label": "set task.label_key to the column that says which completions are desirable; demonstrations alone have none, and "
    "task=demonstration_file reads them",
    "completion": "set task.completion_key to the right one; of pairs (chosen and rejected), task=preference_file with "
    "algorithm=sft learns the chosen ones",
    "answer": "set task.answer_key to the right one, or to null where no reward needs an answer",
}
_SHARED = ({"answer", "completion"}, {"answer", "chosen"})  # purposes that may share a column
_BELOW = ("input", "context")  # additional input beside an instruction in Alpaca and Dolly
_LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}  # spellings in text tables
_BOXED = re.compile(r"\\boxed\s*\{")


@dataclass
class Columns:
    """The columns of one file, and which of them a task reads.

    given: purpose of a column -> its name in the task's config; by default the purpose is the name.
    seen: all columns of all rows. read: the columns that the task has read. recognised: purpose -> the well-known name.
    filled: purposes for which some row has a value.
    """

    given: Mapping[str, str | None]
    seen: dict[str, None] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    recognised: dict[str, str] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    _latest: tuple[str, ...] = ()
    _names: dict[str, str | None] = field(default_factory=dict)  # purpose -> column, for the current set of columns

    def saw(self, row: Mapping[str, Any]) -> None:
        """Record the columns of a row."""
        names = tuple(row)
        if names != self._latest:
            self._latest, self._names = names, {}
            self.seen.update(dict.fromkeys(names))

    def name(self, row: Mapping[str, Any], purpose: str) -> str | None:
        """The column of a row for a purpose; None if the row has none, or the config sets the name to null.

        Raises DataError if the same column has another purpose.
        """
        self.saw(row)
        if purpose not in self._names:
            self._names[purpose] = self._found(row, purpose)
            self._require_own(row, purpose)
        name = self._names[purpose]
        if name is not None and row[name] is None:  # a null value does not hide another column for the purpose
            return self._found({name: value for name, value in row.items() if value is not None}, purpose) or name
        return name

    def _require_own(self, row: Mapping[str, Any], purpose: str) -> None:
        """Raise DataError if a column already has another purpose; an answer could otherwise become part of its prompt."""
        name = self._names[purpose]
        given = {other: own for other, own in self.given.items() if own in row}
        for other, taken in {**given, **self._names}.items():
            if taken is not None and taken == name and other != purpose and {other, purpose} not in _SHARED:
                keys = f"task.{other}_key and task.{purpose}_key"
                raise DataError(f"the column {name!r} is read as {other} and as {purpose}; set {keys} to different columns")

    def _found(self, row: Mapping[str, Any], purpose: str) -> str | None:
        name = self.given.get(purpose)
        if name is not None and name not in row and name == purpose:
            known = next((other for other in KNOWN.get(purpose, ()) if other in row), None)
            if known is not None:
                name = self.recognised[purpose] = known
        if name is None or name not in row:
            return None
        self.read.add(name)
        below = next((other for other in _BELOW if other in row), None)
        if name == self.recognised.get(purpose) == "instruction" and below is not None:
            self.read.add(below)
            self.recognised[purpose] = f"instruction, with {below} below it,"
        return name

    def conversation(self, row: Mapping[str, Any]) -> str | None:
        """The column with a whole conversation, even if there is a prompt column; None without one, or if the config says so."""
        given = self.given.get("prompt")
        if given != "prompt":
            return given if given is not None and _is_whole(row.get(given)) else None
        names = [name for name in CONVERSATIONS if name in row]
        if not names and _is_whole(row.get("prompt")) and self.name(row, "completion") is None:
            return "prompt"
        if not names and is_transcript(row.get("text")) and self.name(row, "prompt") is None:
            return "text"
        return next((name for name in names if row[name] is not None), names[0] if names else None)

    def prompt(self, row: Mapping[str, Any], name: str) -> Any:
        """The prompt column's value; for Alpaca and Dolly with the additional input below the instruction."""
        told, given = row[name], next((row[other] for other in _BELOW if row.get(other) is not None), None)
        if name != "instruction" or name == self.given.get("prompt") or not isinstance(told, str):
            return told
        return f"{told}\n\n{given}" if isinstance(given, (str, int, float)) and str(given).strip() else told

    def value(self, row: Mapping[str, Any], purpose: str, *, place: str) -> tuple[str, Any]:
        """(the column's name, its value). Raises AbsentError if the row has no such column, or it is empty."""
        name = self.name(row, purpose) or self.given[purpose] or purpose
        value = column(row, name, place=place, setting=f"task.{purpose}_key", mend=_MENDS.get(purpose, ""), purpose=purpose)
        is_silent = value == [] or (purpose in ("prompt", "answer") and isinstance(value, str) and not value.strip())
        if is_null(value) or is_silent:
            raise AbsentError(place, f"{name!r} is {'empty' if is_silent else 'null'}", purpose=purpose)
        self.filled.add(purpose)
        return name, self.prompt(row, name) if purpose == "prompt" else value

    def made(self, files: Iterable[Path], make: Callable[[Mapping[str, Any], str], T]) -> tuple[list[T], list[AbsentError]]:
        """(the results of `make` for each row and its location, the errors of rows that lack something).

        Raises the first of those errors if all rows lack it, or there is no result.
        """
        found: list[T] = []
        errors: list[AbsentError] = []
        for place, row in chain.from_iterable(map(read_rows, files)):
            try:
                found.append(make(row, place))
            except AbsentError as lacking:
                errors.append(lacking)
        for error in errors:
            if not found or (error.purpose and error.purpose not in self.filled):
                raise error
        return found, errors

    def known(self) -> list[Any]:
        """The recorded facts about columns, as JSON."""
        return [list(self.seen), sorted(self.read), self.recognised]

    def learn(self, known: Sequence[Any]) -> None:
        """Restore the facts that `known` returned for the same rows."""
        seen, read, recognised = known
        self.seen.update(dict.fromkeys(seen))
        self.read.update(read)
        self.recognised.update(recognised)

    def notes(self) -> list[str]:
        """Notes for the user: columns recognised by their names, and columns that are not read."""
        taken = ", ".join(f"{name} as {purpose}" for purpose, name in self.recognised.items())
        unread = [name for name in self.seen if name not in self.read]
        notes = [f"columns recognised: {taken}; task.{next(iter(self.recognised))}_key=... chooses another"] if taken else []
        return notes + ([f"columns that are not read: {', '.join(unread)}"] if unread else [])


class ReadsFile:
    """Base of tasks that read data files: the files at `path`, and the purposes of their columns.

    system: the system message of rows that have none.
    """

    path: str
    system: str | None

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        return find_files(self.path, key="task.path")

    @cached_property
    def columns(self) -> Columns:
        """The columns of the files and their purposes."""
        given = {name.removesuffix("_key"): value for name, value in vars(self).items() if name.endswith("_key")}
        return Columns(given)

    def system_and_tools(self, row: Mapping[str, Any], place: str) -> tuple[str | None, Tools]:
        """The system message of a row, or else of the task, and the row's tool schemas."""
        system, tools = (self.columns.name(row, purpose) for purpose in ("system", "tools"))
        own = None if system is None else as_system(row[system], place=place, key=system)
        return own or self.system, () if tools is None else as_tools(row[tools], place=place, key=tools)

    def content_hash(self) -> str:
        """A hash of the files' content."""
        return files_hash(self._files)


def whole_conversation(columns: Columns, row: Mapping[str, Any], *, place: str) -> Text | None:
    """The conversation of a row whose prompt and answers are in one column; None if the completion has its own column.

    A conversation that ends with an answer is whole, whatever other columns there are; otherwise it is the prompt for another
    column with the answer, if there is one. Raises AbsentError if the column is null or empty.
    """
    own = columns.given.get("completion")
    if own in row and (own != "completion" or row[own] is not None):
        return None
    name = columns.conversation(row)
    if name is None:
        return None
    messages = as_conversation(row[name], place=place, key=name) if row[name] not in (None, "", []) else ()
    answered = isinstance(messages, tuple) and messages != () and messages[-1]["role"] == "assistant"
    if not answered and columns.name(row, "completion") is not None:
        return None
    columns.read.add(name)
    if messages == ():
        raise AbsentError(place, f"{name!r} is null or empty", purpose="prompt")
    columns.filled.add("prompt")
    if name != columns.given.get("prompt"):
        spelled = isinstance(row[name], str) and not is_transcript(row[name])
        columns.recognised["prompt"] = f"{name} (spelled as text)" if spelled else name
    return messages


def _is_whole(value: Any) -> bool:
    """Whether a column may hold a whole conversation: a list, or a text that is one."""
    return isinstance(value, list) or is_transcript(value) or spells_messages(value)


def is_null(value: Any) -> bool:
    """Whether a value is null; in a column of numbers null is NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_label(value: Any, *, place: str, key: str) -> bool:
    """A label as a boolean. Raises AbsentError if it is null or empty, DataError if it is not a label."""
    if is_null(value) or value == "":
        raise AbsentError(place, f"{key!r} is {'empty' if value == '' else 'null'}")
    value = _LABELS.get(value.strip().lower(), value) if isinstance(value, str) else value
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise DataError(f"{place}: {key!r} is {value!r}; a label is true or false, or 1 or 0")


def first_of(row: Mapping[str, Any], names: Iterable[Sequence[str]]) -> Sequence[str] | None:
    """The first group of names whose columns all exist in the row and are not null."""
    for group in names:
        if all(row.get(name) is not None for name in group):
            return group
    return None


def final_answer(answer: Any) -> Any:
    """The answer at the end of a worked solution: after #### (GSM8K), or in the last \\boxed{} (MATH); others unchanged.

    The decimal point that a number column with missing values adds to integers is removed.
    """
    if isinstance(answer, float) and answer.is_integer():
        return int(answer)
    if not isinstance(answer, str):
        return answer
    if "####" in answer:
        return answer.rpartition("####")[2].strip()
    boxes = list(_BOXED.finditer(answer))
    if not boxes or boxes[-1].start() == 0:
        return answer
    start = end = boxes[-1].end()
    depth = 1
    while end < len(answer) and depth:
        depth += {"{": 1, "}": -1}.get(answer[end], 0)
        end += 1
    return answer[start : end - 1] if not depth else answer
