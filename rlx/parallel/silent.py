"""The recorder and the view of ranks other than rank 0, which write and show nothing."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from rlx.parallel.launch import tell_record
from rlx.parallel.ranks import Ranks
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, RunRecord
from rlx.report.terminal import TrainView


class SilentRecorder(Recorder):
    """Knows the record that rank 0 writes, and writes nothing."""

    def __init__(self, record: RunRecord) -> None:
        self.record, self.directory = record, record.directory

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        pass

    def answers(
        self, step: int, scores: Sequence[float], *, digest: str = "", completions: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        pass

    def sync(self) -> None:
        pass

    def update(self, **fields: Any) -> None:
        self.record = dataclasses.replace(self.record, **fields)

    def finish(self, result: AlgorithmResult) -> None:
        pass

    def fail(self, error: BaseException, **details: Any) -> None:
        pass

    def interrupt(self, **details: Any) -> None:
        pass


class SilentView(TrainView):
    """A view that shows nothing."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self._silent = True

    def warn(self, text: str) -> None:
        pass


def recorder_of_first(make: Callable[[], Recorder], ranks: Ranks) -> Recorder:
    """On rank 0 the recorder that `make` returns, on the other ranks one that writes nothing."""
    made: list[Recorder] = []

    def create() -> RunRecord:
        made.append(make())
        tell_record(made[0].directory)
        return made[0].record

    record = ranks.from_first("the record", create)
    return made[0] if made else SilentRecorder(record)
