"""Weights & Biases, offline: its files are the only witness there is."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlx.errors import ConfigError
from rlx.record.logger.wandb import WandbLogger


def make(mode: str = "offline") -> WandbLogger:
    return WandbLogger(project="rlx", mode=mode, entity=None, group=None, name=None, tags=["test"])


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="offline, online, disabled"):
        make("of")


def records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: after 7 bytes blocks of 32 KiB, in them pieces (checksum 4, length 2, kind 1, data)."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def logged_steps(directory: Path) -> list[int]:
    """The steps in wandb's own files, in the order of the sessions."""
    from wandb.proto import wandb_internal_pb2

    steps = []
    for file in sorted(directory.glob("wandb/offline-run-*/run-*.wandb")):
        for data in records(file):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("history"):
                steps.append(record.history.step.num)
    return steps


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_resumed_run_is_there_once(watched) -> None:
    pytest.importorskip("wandb")
    steps = logged_steps(watched(make))
    assert sorted(set(steps)) == list(range(10))
    assert len(steps) == len(set(steps))
