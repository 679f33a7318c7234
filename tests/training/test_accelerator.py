"""The laws on an accelerator: `make gpu`, or RLX_TEST_DEVICE=cuda:1 (or mps, or cpu, to try the tests themselves)."""

from __future__ import annotations

import json
import os

import pytest
import torch

from rlx.cli.main import main
from rlx.data.layout import plain_rows, shared_prefix_rows
from rlx.policy.reference import Reference
from rlx.seeding import Stream
from tests.policy.models import policy_of, sequences_of
from tests.rollout.stand_in import prompts_of, sampler_of

DEVICE = os.environ.get("RLX_TEST_DEVICE", "cuda")
_FOUND = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}[DEVICE.split(":")[0]]()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not _FOUND, reason=f"there is no {DEVICE} here")]
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
ROWS = {"plain": plain_rows, "shared": shared_prefix_rows, "branched": lambda rows: shared_prefix_rows(rows, branched=True)}


def policy_there(architecture="llama", **settings):
    policy = policy_of(architecture, **settings)
    policy.model.to(DEVICE)
    return policy


def gradients(policy, sequences):
    logprobs = policy.token_logprobs(sequences)
    weights = torch.linspace(-1, 1, logprobs.numel(), device=logprobs.device).reshape(logprobs.shape)
    return torch.autograd.grad((weights * logprobs).sum(), policy.parameters())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("rows", ROWS)
def test_log_probabilities_and_gradients_are_those_of_the_cpu(architecture, rows):
    there, here, sequences = policy_there(architecture), policy_of(architecture), sequences_of()
    there.layout = here.layout = ROWS[rows]
    torch.testing.assert_close(there.token_logprobs(sequences).cpu(), here.token_logprobs(sequences), **TOLERANCE)
    for one, other in zip(gradients(there, sequences), gradients(here, sequences), strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rows", ROWS)
def test_activation_checkpointing_reaches_the_thread_of_the_backward_pass(rows):
    policy, sequences = policy_there(), sequences_of()
    policy.layout = ROWS[rows]
    plain = gradients(policy, sequences)
    policy.checkpoint_activations()
    for one, other in zip(gradients(policy, sequences), plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)  # kernels that add by atomics are equal to rounding


def test_in_half_precision_the_reference_is_the_policy_before_the_first_step():
    policy, sequences = policy_there(), sequences_of()
    policy.compute_in("bfloat16")
    reference = Reference(policy)
    logprobs = policy.token_logprobs(sequences)
    assert logprobs.dtype == torch.float32
    assert torch.equal(logprobs, reference.token_logprobs(sequences))


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_sampling_and_training_agree(architecture):
    policy, prompts = policy_there(architecture), prompts_of(3, 9, 5)
    rollout = sampler_of(max_new_tokens=12).sample(
        policy, prompts, group_size=4, stream=Stream(0, ("rollout", 0)), prompt_keys=range(3), greedy=False
    )
    with torch.no_grad():
        trained = policy.token_logprobs(rollout.sequences)
    torch.testing.assert_close(rollout.sampling_logprobs.to(trained.device), trained, **TOLERANCE)


SMALL = ("num_steps=3", "evaluation.num_prompts=16", "logger=[]", f"device={DEVICE}")


@pytest.fixture
def metrics_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    made = []

    def run(*arguments):
        made.append(tmp_path / f"run{len(made)}")
        assert main(["train", *SMALL, f"hydra.run.dir={made[-1]}", *arguments]) == 0
        assert json.loads((made[-1] / "run.json").read_text())["status"] == "completed"
        return [json.loads(line) for line in (made[-1] / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [(), ("policy/adapter=lora",)], ids=["weights", "adapter"])
@pytest.mark.parametrize("algorithm", ["custom_dpo", "custom_grpo", "ppo", "hybrid"])
def test_algorithms_train_as_on_the_cpu(metrics_of, algorithm, adapter, precision):
    arguments = (f"algorithm={algorithm}", *adapter)
    start, *_, end = metrics_of(*arguments, f"precision={precision}")
    assert end["step"] == 3
    here = metrics_of(*arguments, "device=cpu")[0]
    assert start["eval/score"] == pytest.approx(here["eval/score"], abs=2 / 16)
