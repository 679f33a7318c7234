import json
from pathlib import Path

import pytest
import torch

from rlx.errors import ConfigError
from rlx.experiment import set_threads
from rlx.training.run import require_writable
from tests.training.conftest import record


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_more_threads_than_torch_survives_are_refused(threads):
    with pytest.raises(ConfigError, match="threads=100000 is more than"):
        set_threads(100_000)
    set_threads(None)
    assert torch.get_num_threads() == threads


def test_a_place_for_the_weights_that_cannot_be_made_is_refused_before_they_are(tmp_path):
    require_writable(None)
    require_writable(str(tmp_path / "deep" / "folder"))
    assert not list((tmp_path / "deep" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"export\.path"):
        require_writable(str(tmp_path / "file" / "below"))


@pytest.mark.whole
def test_every_way_to_end_is_in_the_record(rlx_run):
    _, run, _ = rlx_run("optimizer.lr=1e30", "algorithm=dpo")
    assert record(run)["status"] == "failed"
    kept = [json.loads(line) for line in Path(run, "nonfinite_examples.jsonl").read_text().splitlines()]
    assert kept
    _, run, _ = rlx_run()
    assert record(run)["status"] == "completed"
