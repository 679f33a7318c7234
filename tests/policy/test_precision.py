import math

import numpy as np
import pytest
import torch

import rlx
from rlx.algorithm.base import Lab
from rlx.data.preferences import PairBatch
from rlx.errors import ConfigError
from rlx.experiment import sequence_ratio_notes
from rlx.policy.base import Policy
from rlx.policy.precision import autocast_dtype
from rlx.policy.reference import Reference
from rlx.policy.tiny import build_tiny, load_tiny
from rlx.rollout.decoding.probe import forward_for
from rlx.seeding import Stream
from rlx.training.gradients import AccumulatedGradients
from tests.policy.models import policy_of, sequences_of

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 2}
CPU = torch.device("cpu")


def in_bfloat16(policy):
    policy.compute_in("bfloat16")
    return policy


def lab_of(policy, reference):
    task = rlx.load("task", "arithmetic")
    return Lab(task, policy, reference, rlx.load("rollout", "transformers"), 0, Stream(0), {})


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2_full"])
def test_products_are_in_bfloat16_and_the_rest_in_float32(architecture):
    policy, whole = in_bfloat16(policy_of(architecture)), policy_of(architecture)
    seen = []
    for module in policy.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    policy.add_value_head()
    found = policy.token_statistics(sequences_of(), requires=frozenset({"entropy", "values"}))
    gradients = torch.autograd.grad((found.token_logprobs + found.values).sum(), policy.parameters())
    assert set(seen) == {torch.bfloat16}
    assert {found.token_logprobs.dtype, found.entropy.dtype, found.values.dtype} == {torch.float32}
    assert {tensor.dtype for tensor in (*gradients, *policy.parameters())} == {torch.float32}
    difference = float((found.token_logprobs - whole.token_logprobs(sequences_of())).detach().abs().max())
    assert 1e-5 < difference < 0.5


def test_layouts_are_those_that_were_compared_in_float32():
    policy = in_bfloat16(policy_of("llama"))
    assert policy.forward_choice == policy_of("llama").forward_choice
    assert policy.shared_prefix
    assert not policy.notes or "slower than float32" in policy.notes[0]


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_an_unchanged_policy_equals_its_reference_to_the_last_bit(micro_batch, tmp_path):
    policy = in_bfloat16(load_tiny())
    reference = Reference(policy, cache_dir=tmp_path)
    algorithm = rlx.load("algorithm", "dpo", pairs_per_step=24)
    batch = algorithm.draw(lab_of(policy, reference))
    for rows in (slice(0, 24), slice(3, 10)):
        ours, theirs = policy.pair_logprobs(batch[rows]), reference.pair_logprobs(batch[rows])
        assert torch.equal(ours.chosen, theirs.chosen)
        assert torch.equal(ours.rejected, theirs.rejected)
    source = AccumulatedGradients(algorithm, policy, reference, batch, micro_batch=micro_batch)
    source()
    assert source.metrics["margin"] == 0.0
    assert source.metrics["loss"] == pytest.approx(math.log(2), abs=2e-7)  # a sum of rounded weights times the log 2 of float32


def test_batches_that_come_again_are_kept_by_their_rows_and_by_the_arithmetic(tmp_path):
    def computed(policy):
        reference = Reference(policy, cache_dir=tmp_path)
        pairs = policy.pair_tokenizer(rlx.load("task", "arithmetic").held_out_pairs()[:8])
        batch = PairBatch.of(pairs, np.arange(8))
        values = [reference.pair_logprobs(batch, comes_again=True).chosen for _ in range(2)]
        assert torch.equal(*values)
        return values[0], reference.pairs_read, reference.pairs_computed

    coarse, read, made = computed(in_bfloat16(load_tiny()))
    assert (read, made) == (0, 8)
    again, read, made = computed(in_bfloat16(load_tiny()))
    assert (read, made) == (8, 8)  # those that were read first are computed too, to verify the store
    assert torch.equal(coarse, again)
    fine, read, _ = computed(load_tiny())
    assert read == 0
    assert not torch.equal(coarse, fine)


def test_the_sampler_computes_in_the_same_arithmetic():
    gaps = {}
    for precision in ("float32", "bfloat16"):
        policy = load_tiny()
        policy.compute_in(precision)
        sampler = rlx.load("rollout", "transformers")
        assert type(forward_for(policy.model)[0]).__name__ == "LlamaForward"  # chosen by a comparison in float32
        prompts = [policy.encode_prompt(text) for text in ("12+34=", "5+6=")]
        drawn = sampler.sample(
            policy, prompts, group_size=8, stream=Stream(0), prompt_keys=[0, 1], max_new_tokens=8, temperature=2.0
        )
        trained = policy.token_logprobs(drawn.sequences, temperature=2.0).detach()
        gaps[precision] = float((trained - drawn.sampling_logprobs).abs().max())
        assert drawn.sampling_logprobs.dtype == torch.float32
    assert gaps["float32"] < 1e-4 < gaps["bfloat16"] < 0.2


@pytest.mark.parametrize(
    ("device", "weights", "said"),
    [
        (torch.device("meta"), torch.float32, "device=meta has no bfloat16 arithmetic"),
        (CPU, torch.float64, "has no effect with policy.dtype=float64"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(device, weights, said):
    assert autocast_dtype("float32", device=device, weights=weights) is None
    with pytest.raises(ConfigError, match=said):
        autocast_dtype("bfloat16", device=device, weights=weights)


def test_a_gpu_that_only_emulates_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(ConfigError, match="precision=bfloat16: Tesla T4 has no bfloat16 arithmetic"):
        autocast_dtype("bfloat16", device=torch.device("cuda"), weights=torch.float32)


def test_weights_in_16_bits_have_a_float32_value_head_and_an_exact_reference():
    policy = build_tiny(**SHAPE)
    half = Policy(policy.model.to(torch.bfloat16), policy.tokenizer, name="half")
    half.add_value_head()
    assert half.value_head.linear.weight.dtype == torch.float32
    assert half.is_coarse
    assert half.token_statistics(sequences_of(num_tokens=90), requires=frozenset({"values"})).values.dtype == torch.float32
    pairs = half.pair_tokenizer(rlx.load("task", "arithmetic").pairs()[:40])
    batch = PairBatch.of(pairs, np.arange(5, 40))[3:20]
    reference = Reference(half)
    assert torch.equal(half.pair_logprobs(batch).rejected, reference.pair_logprobs(batch).rejected)


def test_a_loss_of_sequence_ratios_is_noted():
    loss = {name: rlx.load("loss", name) for name in ("gspo", "vespo", "grpo")}
    noted = {name: sequence_ratio_notes({"grpo": {"loss": one}}) for name, one in loss.items()}
    assert noted["grpo"] == []
    assert "loss gspo reads the importance ratio of a whole completion" in noted["gspo"][0]
    assert "loss vespo" in noted["vespo"][0]
