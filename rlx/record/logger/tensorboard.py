"""TensorBoard files, written with only the tensorboard package: `tensorboard --logdir outputs`."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rlx.record.logger.base import Logger, clean, logged_config, samples_as_markdown
from rlx.record.run import RunRecord

_FILES = "events.out.tfevents.*.rlx"


@dataclass
class TensorBoardLogger(Logger):
    """Scalars, hyperparameters and sample completions in `<run>/<directory>`.

    directory: below the run's directory. hyperparameters: whether to fill the HPARAMS tab.
    """

    directory: str
    hyperparameters: bool

    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)

    def open(self, run: RunRecord, *, resumed_at: int | None = None) -> None:
        """Open a new event file. After a resume, the old files are cut after the checkpoint, and a running reader is told."""
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        place = run.directory / self.directory
        place.mkdir(parents=True, exist_ok=True)
        if resumed_at is not None:
            for file in place.glob(_FILES):
                _cut(file, resumed_at)
        self._writer = RecordWriter((place / _next_name(place)).open("xb"))
        self._write(file_version="brain.Event:2")
        if resumed_at is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=resumed_at + 1, session_log=start)
        elif self.hyperparameters:
            self._write(summary=_hyperparameters(run))
        self._writer.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar per metric to the disk at once, because the package's async writer hides a full disk."""
        from tensorboard.compat.proto import summary_pb2

        values = [summary_pb2.Summary.Value(tag=clean(name), simple_value=value) for name, value in metrics.items()]
        self._write(step=step, summary=summary_pb2.Summary(value=values))
        self._writer.flush()

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """The completions as one text."""
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorboard.plugins.text import metadata

        shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
        text = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, string_val=[samples_as_markdown(rows).encode()], tensor_shape=shape
        )
        about = metadata.create_summary_metadata(display_name="samples", description="")
        value = summary_pb2.Summary.Value(tag="samples", metadata=about, tensor=text)
        self._write(step=step, summary=summary_pb2.Summary(value=[value]))
        self._writer.flush()

    def close(self, status: str) -> None:
        """Write how the run ended, and close the file."""
        if self.hyperparameters:
            self._write(summary=_session_end(status))
        self._writer.flush()
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        self._writer.write(event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())


def _next_name(place: Path) -> str:
    """A file name that sorts after the existing ones, even within the same second: readers order files by name."""
    stamps = [int(name.split(".")[3]) for name in (path.name for path in place.glob(_FILES))]
    return f"events.out.tfevents.{max([int(time.time()), *(stamp + 1 for stamp in stamps)]):010d}.rlx"


def _cut(file: Path, step: int) -> None:
    """Truncate an event file before its first event after `step`, or before an incomplete event left by a kill.

    Format of an event: the length of its data (8 bytes), a checksum (4 bytes), the data, a checksum (4 bytes).
    """
    from tensorboard.compat.proto import event_pb2

    data = file.read_bytes()
    kept = 0
    while kept + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, kept)
        end = kept + 16 + length
        if end > len(data) or event_pb2.Event.FromString(data[kept + 12 : end - 4]).step > step:
            break
        kept = end
    os.truncate(file, kept)


def _hyperparameters(run: RunRecord) -> Any:
    """The config of the run, and the score as the metric to sort by."""
    from tensorboard.plugins.hparams import summary_v2

    values = {**logged_config(run.config), "algorithm": run.algorithm, "task": run.task, "variant": clean(run.variant)}
    summary = summary_v2.hparams_config_pb([], [summary_v2.Metric("eval/score", display_name="score")])
    summary.value.extend(summary_v2.hparams_pb(values, trial_id=run.id).value)
    return summary


def _session_end(status: str) -> Any:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    word = {"completed": "STATUS_SUCCESS", "failed": "STATUS_FAILURE"}.get(status, "STATUS_UNKNOWN")
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.Status.Value(word), end_time_secs=time.time())
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
    value = summary_pb2.Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    return summary_pb2.Summary(value=[value])
