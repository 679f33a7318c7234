"""A run never goes on from files that are not those that were written; each kind of damage is refused by name."""

import json
import re

import pytest
import torch

from rlx.training.integrity import digest_of, seal, verify_checkpoint
from tests.training.conftest import metrics, record


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(bytes(data))


def without_line(file, place):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:place] + lines[place + 1 :]))


def doubled(file):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], *lines]))


def edited(file, **changed):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def of_another_shape(file):
    tensors = torch.load(file, weights_only=True)
    moments = tensors["optimizer"]["state"][0]
    moments["exp_avg"] = torch.zeros(2, 2)
    torch.save(tensors, file)


def resealed(run):
    """The checkpoint's digests made again, as somebody would who altered it on purpose."""
    directory = run / "checkpoint" / "step_6"
    values = json.loads((directory / "trainer.json").read_text())
    del values["sealed"]
    (directory / "trainer.json").unlink()
    (directory / "trainer.json").write_text(json.dumps(seal(values, directory, run)))


DAMAGES = {
    "weights": (lambda run: flip(run / "checkpoint/step_6/model.safetensors", -4), "model.safetensors is not what was written"),
    "trainer tensors": (lambda run: flip(run / "checkpoint/step_6/trainer.pt", 200), "trainer.pt is not what was written"),
    "trainer values": (lambda run: edited(run / "checkpoint/step_6/trainer.json", best_score=0.9), "state was changed"),
    "another step": (lambda run: edited(run / "checkpoint/step_6/trainer.json", step=4), "state is of step 4"),
    "no tokenizer": (lambda run: (run / "checkpoint/step_6/tokenizer.json").unlink(), "tokenizer.json cannot be read"),
    "no values": (lambda run: (run / "checkpoint/step_6/trainer.json").write_text("[]"), "holds no trainer's state, but list"),
    "nested values": (lambda run: (run / "checkpoint/step_6/trainer.json").write_text("[" * 99999), "state cannot be read"),
    "metrics gone": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is gone"),
    "metrics cut": (lambda run: without_line(run / "metrics.jsonl", 6), r"metrics.jsonl has \d+ of the \d+ bytes"),
    "metrics doubled": (lambda run: doubled(run / "metrics.jsonl"), "metrics.jsonl does not hold the lines"),
    "answers altered": (lambda run: flip(run / "answers.jsonl", 20), "answers.jsonl does not hold the lines"),
    "another seed": (lambda run: edited(run / "run.json", seed=7), "run.json was changed"),
}


@pytest.fixture
def run(rlx_run):
    code, directory, printed = rlx_run("checkpoint.every=6")
    assert code == 0, printed
    return directory


@pytest.mark.whole
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_refused_by_name(rlx_run, run, name):
    damage, message = DAMAGES[name]
    damage(run)
    code, _, printed = rlx_run(f"resume={run}", "num_steps=8", small=False)
    assert code == 2
    assert "Traceback" not in printed
    assert re.search(message, printed), printed
    assert record(run)["status"] == "completed"


@pytest.mark.whole
def test_moments_of_another_shape_are_refused_before_torch_reads_them(rlx_run, run):
    of_another_shape(run / "checkpoint/step_6/trainer.pt")
    resealed(run)
    code, _, printed = rlx_run(f"resume={run}", "num_steps=8", small=False)
    assert code == 2
    assert "exp_avg of parameter 0 is (2, 2)" in printed


@pytest.mark.whole
def test_what_came_after_the_checkpoint_is_not_covered(rlx_run, run):
    whole = metrics(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/loss": 1.0}\n{"step": 8, "tra')
    code, _, printed = rlx_run(f"resume={run}", "num_steps=8", small=False)
    assert code == 0, printed
    assert metrics(run)[: len(whole)] == whole
    assert metrics(run)[-1]["step"] == 8


def test_a_digest_is_of_the_first_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abcdef")
    (tmp_path / "b").write_bytes(b"abc")
    assert digest_of(tmp_path / "a", 3) == digest_of(tmp_path / "b")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")


def test_a_checkpoint_without_digests_is_taken_as_it_is(tmp_path):
    verify_checkpoint(tmp_path / "step_3", {"step": 3})
