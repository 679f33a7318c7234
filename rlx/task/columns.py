"""Finds the columns of a data file, by the names that the task's config gives or those that well-known data sets use."""

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
from rlx.task.messages import as_conversation, is_transcript, spells_messages
from rlx.task.table import AbsentError, column, files_hash, find_files, read_rows

T = TypeVar("T")
CONVERSATIONS = ("messages", "conversations", "conversation")  # columns of whole conversations, their last answer too
# Purpose of a column -> other names that well-known data sets give it.
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
# Purpose -> what to do where no column has it.
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
_SHARED = ({"answer", "completion"}, {"answer", "chosen"})  # purposes of one column: what is learned is what a reward asks for
_BELOW = ("input", "context")  # what Alpaca and Dolly give beside an instruction
_LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}  # as tables of text have them
_BOXED = re.compile(r"\\boxed\s*\{")


@dataclass
class Columns:
    """The columns of one file, and which of them a task reads.

    given: purpose of a column -> its name in the task's config; by default the purpose is the name.
    seen: every column that any row has. read: the columns that the task has read. recognised: purpose -> the well-known name.
    filled: purposes for which some row has a value.
    """

    given: Mapping[str, str | None]
    seen: dict[str, None] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    recognised: dict[str, str] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    _latest: tuple[str, ...] = ()
    _names: dict[str, str | None] = field(default_factory=dict)  # purpose -> the column, of rows with the latest columns

    def saw(self, row: Mapping[str, Any]) -> None:
        """Remember the columns of a row."""
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
        if name is not None and row[name] is None:  # null hides no column of another name
            return self._found({name: value for name, value in row.items() if value is not None}, purpose) or name
        return name

    def _require_own(self, row: Mapping[str, Any], purpose: str) -> None:
        """Raise DataError if a column has another purpose already: an answer would be part of its prompt, say."""
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
        """The column of a whole conversation, also where there is another one of its prompt; None without, or by the config."""
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
        """What the column of the prompt holds; an instruction of Alpaca or Dolly has what was given with it below it."""
        told, given = row[name], next((row[other] for other in _BELOW if row.get(other) is not None), None)
        if name != "instruction" or name == self.given.get("prompt") or not isinstance(told, str):
            return told
        return f"{told}\n\n{given}" if isinstance(given, (str, int, float)) and str(given).strip() else told

    def value(self, row: Mapping[str, Any], purpose: str, *, place: str) -> tuple[str, Any]:
        """(the column's name, its value). Raises AbsentError if the row has no such column, or nothing in it."""
        name = self.name(row, purpose) or self.given[purpose] or purpose
        value = column(row, name, place=place, setting=f"task.{purpose}_key", mend=_MENDS.get(purpose, ""), purpose=purpose)
        is_silent = value == [] or (purpose in ("prompt", "answer") and isinstance(value, str) and not value.strip())
        if is_null(value) or is_silent:
            raise AbsentError(place, f"{name!r} is {'empty' if is_silent else 'null'}", purpose=purpose)
        self.filled.add(purpose)
        return name, self.prompt(row, name) if purpose == "prompt" else value

    def made(self, files: Iterable[Path], make: Callable[[Mapping[str, Any], str], T]) -> tuple[list[T], list[AbsentError]]:
        """(what `make` makes of each row and its place, the errors about rows that lack something).

        Raises the first of those errors if no row has what is lacking, or nothing was made.
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
        """What was found out, as JSON."""
        return [list(self.seen), sorted(self.read), self.recognised]

    def learn(self, known: Sequence[Any]) -> None:
        """Take over what `known` gave for the same rows."""
        seen, read, recognised = known
        self.seen.update(dict.fromkeys(seen))
        self.read.update(read)
        self.recognised.update(recognised)

    def notes(self) -> list[str]:
        """Lines for the user: columns recognised by their names, and columns that are not read."""
        taken = ", ".join(f"{name} as {purpose}" for purpose, name in self.recognised.items())
        unread = [name for name in self.seen if name not in self.read]
        notes = [f"columns recognised: {taken}; task.{next(iter(self.recognised))}_key=... chooses another"] if taken else []
        return notes + ([f"columns that are not read: {', '.join(unread)}"] if unread else [])


class ReadsFile:
    """What all tasks of a data file share: the files at `path`, and which of their columns hold what."""

    path: str

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        return find_files(self.path, key="task.path")

    @cached_property
    def columns(self) -> Columns:
        """Which columns of the file hold what."""
        given = {name.removesuffix("_key"): value for name, value in vars(self).items() if name.endswith("_key")}
        return Columns(given)

    def content_hash(self) -> str:
        """A hash of the files' content."""
        return files_hash(self._files)


def whole_conversation(columns: Columns, row: Mapping[str, Any], *, place: str) -> Text | None:
    """The conversation of a row whose prompt and answers are in one column; None if a completion has a column of its own.

    A conversation that ends with an answer is whole, whatever other columns are called; one that does not is the prompt of what
    another column answers, if there is one. Raises AbsentError if the column is null or empty.
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
    """Whether a value is null; NaN is the null of a column of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_label(value: Any, *, place: str, key: str) -> bool:
    """A label as true or false. Raises AbsentError if it is null or empty, DataError if it is none."""
    if is_null(value) or value == "":
        raise AbsentError(place, f"{key!r} is {'empty' if value == '' else 'null'}")
    value = _LABELS.get(value.strip().lower(), value) if isinstance(value, str) else value
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise DataError(f"{place}: {key!r} is {value!r}; a label is true or false, or 1 or 0")


def first_of(row: Mapping[str, Any], names: Iterable[Sequence[str]]) -> Sequence[str] | None:
    """The first group of names for which the row has every column, none of them null."""
    for group in names:
        if all(row.get(name) is not None for name in group):
            return group
    return None


def final_answer(answer: Any) -> Any:
    """The answer at the end of a worked solution: after #### (GSM8K), or in the last \\boxed{} (MATH); others unchanged.

    A whole number is one without a decimal point, which a column of numbers has got if it lacks one somewhere.
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
