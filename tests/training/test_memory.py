import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import rlx
from rlx.config.compose import compose
from rlx.errors import ConfigError
from rlx.experiment import assemble
from rlx.training import memory
from rlx.training.gradients import AccumulatedGradients, is_out_of_memory
from rlx.training.memory import MemoryPlan, Planner, out_of_memory
from tests.algorithm.conftest import lab, policy_and_reference  # noqa: F401

pytestmark = pytest.mark.whole
SMALL = ["policy=tiny_untrained", "policy.hidden_size=32", "policy.num_heads=2", "policy.num_layers=2", "logger=[]"]
PLAN = MemoryPlan(
    weights=100,
    reference=100,
    optimizer=200,
    gradients=100,
    gradient_copies=2,
    activations=300,
    logits=50,
    stored=0,
    cache=40,
    choosing=10,
    kernels=0,
    device="cpu",
    has=1000,
    micro_batch=8,
    of_rows=8,
)


def planner_of(*words):
    cfg = compose("train", [*SMALL, *words])
    return Planner(cfg, assemble(cfg))


@pytest.mark.parametrize(("optimizer", "states"), [("adamw", 2), ("sgd", 0), ("muon", 1), ("adafactor", 0)])
def test_what_is_counted(optimizer, states):
    plan = planner_of(f"optimizer={optimizer}").plan(None)
    trained = assemble(compose("train", SMALL)).policy.num_parameters
    assert plan.gradients == 4 * trained
    assert plan.weights == plan.reference >= plan.gradients
    assert plan.optimizer == states * plan.gradients
    assert (plan.micro_batch, plan.of_rows) == (64, 64)
    assert plan.activations > 0
    assert plan.logits > 0
    assert plan.cache > 0


def test_an_adapter_has_no_reference_and_small_gradients():
    pytest.importorskip("peft")
    whole, adapter = planner_of().plan(None), planner_of("policy/adapter=lora", "policy.adapter.rank=2").plan(None)
    assert adapter.reference == 0
    assert adapter.gradients < whole.gradients / 3


@pytest.mark.parametrize("algorithm", ["custom_grpo", "ppo", "sft", "hybrid", "online_dpo"])
def test_every_kind_of_algorithm_has_a_plan(algorithm):
    plan = planner_of(f"algorithm={algorithm}").plan(4)
    assert 0 < plan.micro_batch <= 4 < plan.of_rows
    assert plan.activations < planner_of(f"algorithm={algorithm}").plan(8).activations


def test_the_peak_is_what_stays_with_the_larger_phase():
    assert PLAN.peak == 400 + 300 + 50 + 100
    assert replace(PLAN, micro_batch=4).update == 100 + 450
    assert replace(PLAN, cache=900).peak == 400 + 910
    assert replace(PLAN, gradients=1000).update == 2000  # the clipped ones beside those that are clipped
    assert "TOO MUCH" not in PLAN.line()
    assert "TOO MUCH: " in replace(PLAN, has=800).line()


def test_the_keys_that_help_most_come_first():
    keys = [text.split(" saves")[0] for text in PLAN.advice()]
    assert keys[:2] == ["policy/adapter=lora", "activation_checkpointing=true"]
    sampling = replace(PLAN, cache=5000).advice()
    assert sampling[0].startswith("policy/adapter=lora") or sampling[0].startswith("rollout.batch_tokens")
    assert any(text.startswith("rollout.batch_tokens") for text in sampling)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["policy/adapter=lora"], memory.ADAPTER),
        (["activation_checkpointing=true"], memory.CHECKPOINTING),
        (["precision=bfloat16"], memory.PRECISION),
        (["micro_batch=1"], memory.MICRO_BATCH),
        (["optimizer=adafactor"], memory.OPTIMIZER),
    ],
)
def test_a_key_that_the_run_follows_already_is_no_advice(words, key):
    if key == memory.ADAPTER:
        pytest.importorskip("peft")
    large = {"optimizer": 10**9, "activations": 10**9, "micro_batch": 8, "of_rows": 8}
    plan = replace(planner_of(*words).plan(1 if key == memory.MICRO_BATCH else None), **large)
    assert plan.taken == {key}
    assert plan.advice()
    assert not any(text.startswith(key) for text in plan.advice())
    assert any(text.startswith(key) for text in replace(plan, taken=frozenset()).advice())


def test_auto_takes_the_largest_micro_batch_that_fits(monkeypatch):
    planner = planner_of("micro_batch=auto")
    assert planner.largest_that_fits() == 64
    limit = planner.plan(10).peak
    monkeypatch.setattr(memory, "device_memory", lambda _: int(limit / memory.SHARE) + 1)
    rows = planner.largest_that_fits()
    assert 10 <= rows < 64
    assert planner.plan(rows).peak <= limit + 1 < planner.plan(rows + 1).peak
    monkeypatch.setattr(memory, "device_memory", lambda _: 1)
    assert planner.largest_that_fits() == 1


class Crowded:
    """A policy that has no room for more than `most` rows."""

    def __init__(self, policy, most):
        self._policy, self.most, self.tried = policy, most, []

    def __getattr__(self, name):
        return getattr(self._policy, name)

    def pair_logprobs(self, batch, *arguments, **settings):
        self.tried.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._policy.pair_logprobs(batch, *arguments, **settings)


def test_micro_batches_are_halved_where_memory_runs_out_and_the_gradient_stays(lab):  # noqa: F811
    algorithm = rlx.load("algorithm", "dpo", pairs_per_step=10)
    batch = algorithm.draw(lab)
    whole = AccumulatedGradients(algorithm, lab.policy, lab.reference, batch, micro_batch=10)
    crowded = Crowded(lab.policy, 3)
    halved = AccumulatedGradients(algorithm, crowded, lab.reference, batch, micro_batch=10, halves=True)
    for mine, other in zip(halved()["loss"], whole()["loss"], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-9)
    assert halved.micro_batch == 2
    assert crowded.tried == [10, 5, 2, 2, 2, 2, 2]
    assert halved.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-12)


@pytest.mark.parametrize(("halves", "most"), [(False, 3), (True, 0)])
def test_memory_that_is_still_lacking_is_an_error(lab, halves, most):  # noqa: F811
    algorithm = rlx.load("algorithm", "dpo", pairs_per_step=10)
    source = AccumulatedGradients(
        algorithm, Crowded(lab.policy, most), lab.reference, algorithm.draw(lab), micro_batch=None, halves=halves
    )
    with pytest.raises(torch.OutOfMemoryError) as caught:
        source()
    short = str(out_of_memory(caught.value, PLAN))
    assert "memory ran out on cpu (CUDA out of memory" in short
    assert short.count(" saves about ") == 3
    assert "policy/adapter=lora" in str(out_of_memory(caught.value, None))


def test_only_errors_of_memory_are_taken_for_such():
    full = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    assert is_out_of_memory(RuntimeError(full))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_run_says_its_memory_and_auto_is_in_its_metrics(tmp_path, capsys):
    few = ["num_steps=1", "evaluation.num_prompts=4", "evaluation.num_pairs=4", f"output_dir={tmp_path}"]
    rlx.train([*SMALL, *few, "micro_batch=auto"])
    assert "memory     about " in capsys.readouterr().out
    lines = next(tmp_path.rglob("metrics.jsonl")).read_text()
    assert '"cost/micro_batch": 64.0' in lines
    with pytest.raises(ConfigError, match="plan=true shows what one run needs"):
        rlx.train([*SMALL, *few, "plan=true"])


SIZES = {"small": (384, 6, 6), "middle": (640, 10, 10), "large": (1024, 12, 16)}
SETTINGS = {
    "dpo": ["algorithm=custom_dpo"],
    "grpo": ["algorithm=custom_grpo"],
    "micro_batch=16": ["algorithm=custom_dpo", "micro_batch=16"],
    "activation_checkpointing": ["algorithm=custom_dpo", "activation_checkpointing=true"],
    "adapter": ["algorithm=custom_dpo", "policy/adapter=lora"],
}
MEASURE = """
import re, sys, torch
from rlx.config.compose import compose
from rlx.experiment import assemble
from rlx.training.memory import Planner
from rlx.training.build import build_loop

def resident(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))

cfg = compose("train", ["logger=[]", *sys.argv[1:]])
experiment = assemble(cfg)
plan = Planner(cfg, experiment).plan(cfg.micro_batch)
loop = build_loop(cfg, experiment, None, None, None)
experiment.sampler.prepare(experiment.policy)
before = resident("VmRSS") - plan.weights - plan.reference
open("/proc/self/clear_refs", "w").write("5")
loop._step(0), loop._step(1)
loop.evaluator(loop.policy)
print(plan.peak, resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory of Linux")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_plan_is_within_a_fifth_of_the_measured_peak(size, setting, tmp_path):
    hidden, layers, heads = SIZES[size]
    shape = {"hidden_size": hidden, "intermediate_size": hidden * 11 // 4, "num_layers": layers, "num_heads": heads}
    words = ["policy=tiny_untrained", *(f"policy.{key}={value}" for key, value in shape.items()), *SETTINGS[setting]]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words, f"cache_dir={tmp_path}"], capture_output=True, text=True, timeout=900, check=True
    )
    planned, measured = map(int, done.stdout.split())
    assert 0.8 < planned / measured < 1.25
