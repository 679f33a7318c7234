import errno
import json
import math
import re
from functools import partial

import pytest
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM

from rlx.errors import DataError, TrainingError
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Clipping, Optimizer
from rlx.policy.tiny import build_tiny
from rlx.training import checkpoint
from rlx.training.checkpoint import (
    TrainerState,
    checkpoint_path,
    checkpoint_steps,
    export_policy,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    seal,
    verify_checkpoint,
    write_policy,
)
from tests.training.conftest import metrics, record, reproducible


def small(seed=0):
    return build_tiny(seed=seed, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)


def optimizer_of(policy):
    return Optimizer(partial(torch.optim.AdamW, lr=0.1), policy.parameters(), schedule=Constant(warmup_steps=0), num_steps=9)


def stepped(policy, optimizer):
    optimizer.step([torch.full_like(parameter, 0.5) for parameter in policy.parameters()], Clipping())


def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path):
    policy = small()
    optimizer = optimizer_of(policy)
    stepped(policy, optimizer)
    progress = TrainerState(3, 0.5, 2, {"tokens_trained": 7.0}, 1.5, {"baseline": torch.tensor([1.0, 2.0])})
    directory = save_checkpoint(tmp_path, policy=policy, optimizer=optimizer, progress=progress)
    other = small(seed=1)
    again = optimizer_of(other)
    loaded = load_checkpoint(directory, policy=other, optimizer=again)
    assert loaded.state.pop("baseline").tolist() == [1.0, 2.0]
    assert loaded == TrainerState(3, 0.5, 2, {"tokens_trained": 7.0}, 1.5)
    for one, two in ((policy, optimizer), (other, again)):
        stepped(one, two)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))


def test_a_checkpoint_is_a_transformers_directory(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = small()
    directory = save_checkpoint(tmp_path, policy=policy, optimizer=optimizer_of(policy), progress=TrainerState(step=1))
    assert (directory / "model.safetensors").exists()
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert torch.equal(next(model.parameters()), next(iter(policy.parameters())))
    assert AutoTokenizer.from_pretrained(directory)("1+1=")["input_ids"] == policy.tokenizer("1+1=")["input_ids"]
    own = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert all(name in own or name.startswith("trainer") for name in (file.name for file in directory.iterdir()))


def test_the_last_and_the_best_are_kept(tmp_path):
    policy = small()
    optimizer = optimizer_of(policy)
    for step in (2, 4, 10, 12):
        save_checkpoint(tmp_path, policy=policy, optimizer=optimizer, progress=TrainerState(step=step))
    (tmp_path / "checkpoint" / ".step_14.99").mkdir()
    prune_checkpoints(tmp_path, keep_last=2, best_step=2)
    assert checkpoint_steps(tmp_path) == [2, 10, 12]
    assert not list((tmp_path / "checkpoint").glob(".step*"))
    prune_checkpoints(tmp_path, keep_last=1, best_step=None)
    assert checkpoint_steps(tmp_path) == [12]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576512 vs 576404"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_leaves_the_old_checkpoints_and_says_what_to_do(tmp_path, monkeypatch, error):
    policy = small()
    optimizer = optimizer_of(policy)
    save_checkpoint(tmp_path, policy=policy, optimizer=optimizer, progress=TrainerState(step=1))

    def full(*arguments, **settings):
        raise error

    monkeypatch.setattr(checkpoint, "write_policy", full)
    with pytest.raises(TrainingError, match=r"step 2 .*: the disk is full; free some space, then resume with"):
        save_checkpoint(tmp_path, policy=policy, optimizer=optimizer, progress=TrainerState(step=2))
    with pytest.raises(TrainingError, match=r"export\.path=.*: the disk is full; free some space; they are in the run's last"):
        export_policy(policy, tmp_path / "exported", dtype=torch.float16)
    assert [entry.name for entry in (tmp_path / "checkpoint").iterdir()] == ["step_1"]
    with pytest.raises(TrainingError, match=r"free some space, then run the command again"):  # nothing to go on from
        save_checkpoint(tmp_path / "new", policy=policy, optimizer=optimizer, progress=TrainerState(step=1))


def test_damaged_state_is_named_and_nothing_is_unpickled(tmp_path):
    policy = small()
    optimizer = optimizer_of(policy)
    directory = save_checkpoint(tmp_path, policy=policy, optimizer=optimizer, progress=TrainerState(step=1))

    class Evil:
        def __reduce__(self):
            return (json.loads, ("[]",))

    torch.save({"optimizer": Evil(), "state": {}}, directory / "trainer.pt")
    with pytest.raises(DataError, match=r"trainer\.pt is not what was written"):
        load_checkpoint(directory, policy=policy, optimizer=optimizer)
    (directory / "trainer.json").write_text('{"step": 1}')  # without digests, so that the tensors are read
    with pytest.raises(DataError, match="trainer's state cannot be read"):
        load_checkpoint(directory, policy=policy, optimizer=optimizer)
    (directory / "trainer.json").write_text("{")
    with pytest.raises(DataError, match="trainer's state cannot be read"):
        load_checkpoint(directory, policy=policy, optimizer=optimizer)


def test_paths_sort_by_number(tmp_path):
    for step in (5, 100, 20):
        checkpoint_path(tmp_path, step).mkdir(parents=True)
    (tmp_path / "checkpoint" / "step_x").mkdir()
    assert checkpoint_steps(tmp_path) == [5, 20, 100]


MOVING = ("loss=tr_dpo", "loss.modifiers.reference.every_steps=2", "loss.modifiers.reference.policy_share=0.75")


@pytest.mark.whole
def test_a_moving_reference_moves_after_every_so_many_steps_and_the_evaluation_keeps_the_first(rlx_run):
    """Each batch is the whole data twice over, so that a moved reference shows in the rewards of the next step."""
    _, run, _ = rlx_run("loss=dpo", "optimizer.lr=0.01")
    still = reproducible(run)
    _, run, _ = rlx_run(*MOVING, "optimizer.lr=0.01")
    moving = reproducible(run)
    assert moving[:3] == still[:3]
    assert abs(moving[3]["train/margin"]) < abs(still[3]["train/margin"])
    assert moving[3]["eval/kl"] > 0.5 * still[3]["eval/kl"]  # far from the start, wherever the loss's reference went


def test_a_reference_that_has_just_become_the_policy_gives_no_reward(rlx_run):
    _, run, _ = rlx_run(*MOVING, "loss.modifiers.reference.policy_share=1", "optimizer.lr=0.01")
    margins = [line["train/margin"] for line in metrics(run)[1:]]
    assert [abs(margin) < 1e-4 for margin in margins] == [True, False] * 3


@pytest.mark.whole
def test_a_run_with_a_moving_reference_is_resumed_as_if_unbroken(rlx_run):
    _, whole, _ = rlx_run(*MOVING, "optimizer.lr=0.01")
    assert whole is not None
    _, run, _ = rlx_run(*MOVING, "optimizer.lr=0.01", "num_steps=3", "checkpoint.keep_best=false")
    assert run is not None
    code, _, printed = rlx_run(f"resume={run}", "num_steps=6", small=False)
    assert code == 0, printed
    assert reproducible(run)[-3:] == reproducible(whole)[-3:]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (RuntimeError("Error while serializing: I/O error: File too large (os error 27)"), "ulimit -f"),
        (RuntimeError("basic_ios::clear: iostream error"), "ulimit -f"),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "make the directory writable"),
    ],
)
def test_a_write_that_fails_names_its_cause(error, said):
    from rlx.training.checkpoint import _reason

    assert said in _reason(error)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_weights_that_are_tied_are_written_once_and_tied_again_when_read(tmp_path, dtype):
    """The head is the embedding: one tensor of the file, in whatever dtype it is exported."""
    policy = small()
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    write_policy(policy, tmp_path, dtype=dtype)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        sizes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    vocabulary = tuple(policy.model.get_input_embeddings().weight.shape)
    assert [name for name, size in sizes.items() if size == vocabulary] == ["model.embed_tokens.weight"]
    assert sum(map(math.prod, sizes.values())) == policy.num_parameters
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert read.get_output_embeddings().weight is read.get_input_embeddings().weight
    assert read.dtype == (dtype or torch.float32)
    assert torch.equal(read.get_output_embeddings().weight, policy.model.get_input_embeddings().weight.to(read.dtype))


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
    "metrics doubled": (lambda run: doubled(run / "metrics.jsonl"), r"metrics.jsonl has \d+ bytes, not the \d+ bytes"),
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
    edited(run / "run.json", status="interrupted", result=None, logs={})  # as a killed run has it
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/loss": 1.0}\n{"step": 8, "tra')
    code, _, printed = rlx_run(f"resume={run}", "num_steps=8", small=False)
    assert code == 0, printed
    assert metrics(run)[: len(whole)] == whole
    assert metrics(run)[-1]["step"] == 8


def test_a_checkpoint_without_digests_is_taken_as_it_is(tmp_path):
    verify_checkpoint(tmp_path / "step_3", {"step": 3})
