"""TensorBoard's own reader sees every step once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlx.record.logger.tensorboard import TensorBoardLogger

pytest.importorskip("tensorboard")


def make() -> TensorBoardLogger:
    return TensorBoardLogger(directory="tensorboard", hyperparameters=True)


def read(directory: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    return events.Reload()


def test_after_a_resume_no_step_is_there_twice(watched) -> None:
    events = read(watched(make))
    assert [event.step for event in events.Scalars("train/loss")] == list(range(10))
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("eval/score")] == [
        (step, step / 10) for step in range(0, 10, 2)
    ]
    texts = events.Tensors("samples")
    assert [event.step for event in texts] == [0, 2, 4, 6, 8]
    assert b"sample 8" in texts[-1].tensor_proto.string_val[0]


def test_the_config_fills_the_hyperparameters(watched) -> None:
    from tensorboard.plugins.hparams import metadata

    events = read(watched(make))
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    assert values["loss.beta"].number_value == 0.1
    assert values["algorithm"].string_value == "dpo"
    assert values["task.noise"].bool_value is False
    end = metadata.parse_session_end_info_plugin_data(events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content)
    assert end.status == 1  # success


def test_what_a_kill_left_of_an_event_is_cut(create) -> None:
    from rlx.record.recorder import Recorder

    first = create(loggers={"it": make()})
    for step in range(4):
        first.log(step, {"train/loss": 1.0})
    first.interrupt()
    (file,) = (first.directory / "tensorboard").iterdir()
    os.truncate(file, file.stat().st_size // 2)
    again = Recorder.reopen(first.directory, 0, loggers={"it": make()})
    for step in range(1, 4):
        again.log(step, {"train/loss": 1.0})
    again.interrupt()
    assert [event.step for event in read(first.directory).Scalars("train/loss")][-3:] == [1, 2, 3]


def test_it_needs_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, types\n"
        "from rlx.record.logger.tensorboard import TensorBoardLogger\n"
        "assert 'tensorboard' not in sys.modules\n"
        "it = TensorBoardLogger('tb', False)\n"
        "it.open(types.SimpleNamespace(directory=pathlib.Path(sys.argv[1])))\n"
        "it.log(0, {'a': 1.0}); it.samples(0, [{'prompt': 'p'}]); it.close('completed')\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
