import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rlx
from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Clipping, Optimizer
from rlx.policy.adapter import ADAPTER_WEIGHTS, BASE_FILE, Lora
from rlx.policy.memory import TensorMemory, pass_memory
from rlx.policy.pretrained import load_pretrained
from rlx.policy.reference import Reference
from rlx.policy.tiny import build_tiny, load_tiny
from rlx.seeding import Stream
from rlx.task.base import Pair
from rlx.training.checkpoint import TrainerState, export_policy, load_checkpoint, save_checkpoint, write_policy

peft = pytest.importorskip("peft")
READS_WITH_PEFT = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks it

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 2}
LORA = Lora(rank=4, alpha=8.0)
SEQUENCES = Sequences(
    (np.array([5, 6, 7]), np.array([9])), ((np.array([7, 1]), np.array([7, 8, 3])), (np.array([4, 4, 4]), np.array([2])))
)


def policy_of(lora=LORA, **settings):
    return build_tiny(**SHAPE, adapter=lora, **settings)


def moved(policy, by=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return policy


def logprobs(policy):
    return policy.token_logprobs(SEQUENCES).detach()


@pytest.mark.parametrize(
    "lora", [LORA, Lora(rank=2, alpha=4.0, rslora=True), Lora(rank=2, alpha=4.0, targets=["q_proj", "v_proj"])]
)
def test_a_fresh_adapter_equals_the_base_to_the_last_bit_and_alone_is_trained(lora):
    base, policy = build_tiny(**SHAPE), policy_of(lora)
    assert torch.equal(logprobs(policy), logprobs(base))
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert not torch.equal(logprobs(moved(policy)), logprobs(base))


def test_dora_begins_at_the_base_too():
    torch.testing.assert_close(logprobs(policy_of(Lora(rank=2, alpha=4.0, dora=True))), logprobs(build_tiny(**SHAPE)))


def test_the_seed_decides_the_initial_matrices_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = policy_of(), policy_of(), policy_of(Lora(rank=4, alpha=8.0, seed=1))
    assert torch.equal(before, torch.random.get_rng_state())
    states = [torch.cat([value.flatten() for value in policy.adapter.state().values()]) for policy in (one, same, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_the_reference_is_the_base_and_shares_its_weights():
    base, policy = build_tiny(**SHAPE), policy_of()
    reference = Reference(policy)
    moved(policy)
    assert reference.model is policy.model
    assert torch.equal(reference.token_logprobs(SEQUENCES), logprobs(base))
    assert reference.fingerprint() == base.fingerprint() != policy.fingerprint()
    assert not reference.token_logprobs(SEQUENCES).requires_grad


def test_a_forward_of_the_reference_between_forward_and_backward_changes_no_gradient():
    policy = moved(policy_of())
    reference = Reference(policy)
    plain = torch.autograd.grad(policy.token_logprobs(SEQUENCES).sum(), policy.parameters())
    loss = policy.token_logprobs(SEQUENCES).sum()
    reference.token_logprobs(SEQUENCES)
    found = torch.autograd.grad(loss, policy.parameters())
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


def test_a_run_that_starts_from_an_adapter_has_that_adapter_as_its_reference(tmp_path):
    first = moved(policy_of())
    write_policy(first, tmp_path / "adapter")
    policy = load_pretrained(str(tmp_path / "adapter"))
    assert torch.equal(logprobs(policy), logprobs(first))
    reference = Reference(policy)
    assert policy.parameters()
    moved(policy)
    assert torch.equal(reference.token_logprobs(SEQUENCES), logprobs(first))
    assert not torch.equal(logprobs(policy), logprobs(first))
    assert reference.fingerprint() == first.fingerprint()
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert not [name for name in names if ".start." in name]


def test_reference_values_of_the_base_are_read_from_the_cache_of_a_run_without_an_adapter(tmp_path):
    pairs = [Pair("1+1=", "2", "3"), Pair("2+2=", "4", "5")]
    base, policy = build_tiny(**SHAPE), policy_of()
    for number, owner in enumerate((base, policy)):
        reference = Reference(owner, cache_dir=tmp_path)
        reference.pair_logprobs(PairBatch.of(owner.pair_tokenizer(pairs), [0, 1]))
        assert reference.pairs_read == 2 * number


@READS_WITH_PEFT
def test_a_checkpoint_is_a_small_peft_directory_that_peft_reads(tmp_path):
    policy = moved(policy_of())
    write_policy(policy, tmp_path)
    base = build_tiny(**SHAPE)
    assert str(tmp_path) not in (tmp_path / "adapter_config.json").read_text()
    assert json.loads((tmp_path / BASE_FILE).read_text())["fingerprint"] == base.fingerprint()
    assert (tmp_path / ADAPTER_WEIGHTS).stat().st_size < 4 * sum(p.numel() for p in policy.parameters()) + 10_000
    theirs = peft.PeftModel.from_pretrained(base.model, str(tmp_path))
    tokens = torch.tensor([[5, 6, 7, 7, 8]])
    torch.testing.assert_close(theirs(input_ids=tokens).logits, policy.model(input_ids=tokens).logits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loader": "smollm2", "arguments": {"unpacked_dir": "elsewhere"}}, "passes unpacked_dir to the policy loader smollm2"),
        ({"loader": "tiny", "arguments": {"adapter": {}}}, "passes adapter to the policy loader tiny"),
        ({"loader": "pretrained", "arguments": {"path": "{here}"}}, "holds an adapter"),
        ({"loader": "pretrained", "arguments": {"path": f"/{'x' * 300}"}}, "cannot be read: File name too long"),
    ],
)
def test_an_adapter_names_its_base_and_nothing_else(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    write_policy(policy_of(), tmp_path)
    given = json.loads(json.dumps(given).replace("{here}", str(tmp_path)))
    (tmp_path / BASE_FILE).write_text(json.dumps({**json.loads((tmp_path / BASE_FILE).read_text()), **given}))
    with pytest.raises(ConfigError, match=message):
        load_pretrained(str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha_pattern": {"q_proj": 800}}, "has alpha_pattern={'q_proj': 800}, which rlx does not support"),
        ({"bias": "all"}, "has bias='all'"),
        ({"target_modules": "("}, "has no such layers; its linear layers are"),
        ({"target_modules": [1]}, "has no such layers; its linear layers are"),
        ({"target_modules": ["embed_tokens"]}, "has no such layers; its linear layers are"),
        ({"lora_alpha": 10**400}, "cannot be read: OverflowError"),
    ],
)
def test_an_adapter_that_would_be_another_is_refused(tmp_path, changed, message):
    write_policy(policy_of(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(ConfigError, match=message):
        load_pretrained(str(tmp_path))


def test_tensors_of_an_adapter_that_are_no_weights_are_refused(tmp_path):
    write_policy(policy_of(), tmp_path)
    file = tmp_path / ADAPTER_WEIGHTS
    save_file({name: tensor.int() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match="its tensors are not weights"):
        load_pretrained(str(tmp_path))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="there are no tensors"):
        load_pretrained(str(tmp_path))


@READS_WITH_PEFT
def test_merged_weights_agree_with_the_adapter_and_with_pefts_own_merge(tmp_path):
    policy = moved(policy_of(), by=0.05)
    export_policy(policy, tmp_path / "whole", dtype=torch.float32, merge=True)
    whole = load_pretrained(str(tmp_path / "whole"))
    torch.testing.assert_close(logprobs(whole), logprobs(policy), atol=1e-4, rtol=0)
    write_policy(policy, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(build_tiny(**SHAPE).model, str(tmp_path / "adapter")).merge_and_unload()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(whole.model.state_dict()[name], tensor, atol=1e-4, rtol=0)
    assert policy.adapter.layers()  # the policy itself is left as it was


def test_another_base_is_refused_by_its_fingerprint_and_may_be_named(tmp_path):
    write_policy(moved(policy_of()), tmp_path / "adapter")
    write_policy(build_tiny(**SHAPE), tmp_path / "base")
    write_policy(build_tiny(**SHAPE, seed=1), tmp_path / "other")
    assert load_pretrained(str(tmp_path / "adapter"), base=str(tmp_path / "base")).adapter is not None
    with pytest.raises(ConfigError, match=r"belongs to another base model than other"):
        load_pretrained(str(tmp_path / "adapter"), base=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"cannot be loaded: .* give it by policy\.base=DIRECTORY"):
        load_pretrained(str(tmp_path / "adapter"), base=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="holds no adapter"):
        load_pretrained(str(tmp_path / "base"), base=str(tmp_path / "base"))


def test_what_does_not_fit_is_one_message(tmp_path):
    write_policy(policy_of(), tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"asks for rank 8 and alpha 16, but the adapter in .* has rank 4 and alpha 8"):
        load_pretrained(str(tmp_path / "adapter"), adapter=Lora(rank=8, alpha=16.0))
    with pytest.raises(ConfigError, match=r"has no such layers; its linear layers are .*q_proj"):
        policy_of(Lora(rank=4, alpha=8.0, targets=["query"]))
    other = policy_of(Lora(rank=2, alpha=8.0))
    with pytest.raises(ConfigError, match="does not fit this one of rank 2"):
        other.adapter.load(policy_of().adapter.state(), source="x")
    with pytest.raises(ConfigError, match="rank of Lora is 0"):
        Lora(rank=0, alpha=1.0)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(ConfigError, match="of type IA3; rlx reads only LoRA"):
        load_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="cannot be read: RecursionError"):
        load_pretrained(str(tmp_path / "adapter"))


def test_a_base_in_half_precision_has_an_adapter_in_float32():
    policy = policy_of()
    base = build_tiny(**SHAPE)
    base.model.bfloat16()
    base.add_adapter(LORA, loader="tiny_untrained", arguments={})
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32} == {p.dtype for p in policy.parameters()}
    assert logprobs(base).dtype == torch.float32


def test_a_moving_reference_is_refused():
    policy = policy_of()
    with pytest.raises(ConfigError, match="no weights of its own with policy/adapter"):
        Reference(policy).follow(policy, lambda mine, theirs: mine)


def test_checkpointing_and_the_value_head_work_with_an_adapter():
    policy = moved(policy_of())
    policy.add_value_head()
    statistics = policy.token_statistics(SEQUENCES, requires=frozenset({"values"}))
    plain = torch.autograd.grad(statistics.token_logprobs.sum() + statistics.values.sum(), policy.parameters(), allow_unused=True)
    policy.checkpoint_activations()
    statistics = policy.token_statistics(SEQUENCES, requires=frozenset({"values"}))
    found = torch.autograd.grad(statistics.token_logprobs.sum() + statistics.values.sum(), policy.parameters(), allow_unused=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True) if a is not None)
    assert any(gradient is not None and gradient.any() for gradient in found)


def test_training_goes_on_from_a_checkpoint_to_the_last_bit(tmp_path):
    def optimizer_of(policy):
        return Optimizer(
            lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
            policy.parameters(),
            schedule=Constant(warmup_steps=0),
            num_steps=4,
        )

    def step(policy, optimizer):
        loss = -policy.token_logprobs(SEQUENCES).sum()
        optimizer.step(list(torch.autograd.grad(loss, policy.parameters())), Clipping())

    policy = policy_of()
    optimizer = optimizer_of(policy)
    step(policy, optimizer)
    directory = save_checkpoint(tmp_path, policy=policy, optimizer=optimizer, progress=TrainerState(step=1))
    step(policy, optimizer)
    again = policy_of()
    restored = optimizer_of(again)
    assert load_checkpoint(directory, policy=again, optimizer=restored).step == 1
    step(again, restored)
    assert torch.equal(logprobs(again), logprobs(policy))


RUN = ["policy/adapter=lora", "policy.adapter.rank=2", "policy=tiny_untrained", "policy.hidden_size=32", "policy.num_heads=2"]
FEW = ["evaluation.num_prompts=4", "evaluation.num_pairs=8", "checkpoint.keep_last=9", "logger=[]", "threads=1"]


def trained_lines(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


@pytest.mark.whole
@pytest.mark.parametrize(
    "algorithm",
    [
        ["algorithm=custom_grpo", "loss.beta=0.1", "algorithm.prompts_per_step=2", "algorithm.group_size=3"],
        ["algorithm=hybrid"],
        ["algorithm=ppo", "algorithm.prompts_per_step=2"],
    ],
    ids=lambda words: words[0],
)
def test_a_run_with_an_adapter_goes_on_to_the_last_bit_and_is_evaluated_as_it_ended(algorithm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main = [*algorithm, *RUN, *FEW]
    for run, steps in ((whole, 4), (parts, 2)):
        rlx.train([*main, f"num_steps={steps}", "checkpoint.every=2", f"hydra.run.dir={run}"])
    rlx.train([f"resume={parts}", "num_steps=4"])
    lines = {run: [line for line in trained_lines(run) if line["step"] in (1, 3, 4)] for run in (whole, parts)}
    assert lines[whole] == lines[parts]
    files = {path.name for path in (whole / "checkpoint" / "step_4").iterdir()}
    assert {ADAPTER_WEIGHTS, BASE_FILE} <= files
    assert "model.safetensors" not in files


def test_sampling_with_an_adapter_has_the_log_probabilities_of_training():
    policy = moved(load_tiny(adapter=Lora(rank=4, alpha=8.0)), by=0.05)
    prompts = [policy.encode_prompt(text) for text in ("12+34=", "5+6=")]
    drawn = rlx.load("rollout", "transformers").sample(
        policy, prompts, group_size=8, stream=Stream(0), prompt_keys=[0, 1], max_new_tokens=8, temperature=1.5
    )
    trained = policy.token_logprobs(drawn.sequences, temperature=1.5).detach()
    assert float((trained - drawn.sampling_logprobs).abs().max()) < 1e-4
    assert not torch.equal(trained, load_tiny().token_logprobs(drawn.sequences, temperature=1.5).detach())


def adapted_layer(policy):
    return policy.model.model.layers[0].mlp.up_proj


@pytest.mark.parametrize("lora", [LORA, Lora(rank=2, alpha=4.0, rslora=True), Lora(rank=2, alpha=4.0, dora=True)])
def test_a_layer_computes_what_the_layer_of_peft_does(lora):
    layer = adapted_layer(moved(policy_of(lora)))
    given = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    inputs = (given, *(parameter for parameter in layer.parameters() if parameter.requires_grad))
    found = [forward(given) for forward in (layer, lambda x: peft.tuners.lora.layer.Linear.forward(layer, x))]
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out in found]
    for one, other in zip([found[0], *gradients[0]], [found[1], *gradients[1]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max()))


def test_an_adapted_layer_makes_no_second_tensor_of_its_results_size():
    layer = adapted_layer(policy_of())
    given = torch.randn(1, 1000, 32)
    with TensorMemory() as memory:
        result = layer(given)
    assert memory.peak < 4 * result.numel() + 4 * 1000 * (LORA.rank + 1)


@pytest.mark.parametrize("lora", [None, LORA])
def test_activations_of_the_plan_are_the_tensors_that_autograd_saves(lora):
    policy, saved = policy_of(lora), {}
    rows = Sequences(SEQUENCES.prompts * 8, SEQUENCES.completions * 8)
    known = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = policy.head_input(rows)
    assert held.hidden.requires_grad
    planned = pass_memory(policy, frozenset())(rows[:1], rows).activations
    assert planned == pytest.approx(sum(size for _, size in saved.values()), rel=0.1)
