"""Products by oneDNN are those of torch, forward and backward, and are made only where they can be."""

import platform

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from rlx.data.sequences import Sequences
from rlx.errors import ConfigError
from rlx.policy import products
from rlx.policy.products import OneDnnLinear, is_linear, linear, linear_of, multiply_by_onednn, uses_onednn
from rlx.policy.tiny import build_tiny
from rlx.workbench.bench import onednn_operations

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not products._is_right(), reason="this torch has no oneDNN")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def calls(monkeypatch):
    """The shapes of every product that oneDNN made."""
    found = []
    own = products._by_onednn
    monkeypatch.setattr(products, "_by_onednn", lambda left, right: found.append((*left.shape, len(right))) or own(left, right))
    return found


@pytest.mark.parametrize("rows", [(64,), (129,), (3, 96), (1, 2, 150)], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("frozen", ["nothing", "weight", "rows"])
def test_a_product_and_its_gradients_are_those_of_torch(calls, rows, has_bias, frozen):
    inputs = [numbers(*rows, 256), 0.05 * numbers(512, 256, seed=1), numbers(512, seed=2) if has_bias else None]
    found = []
    for multiply in (linear, F.linear):
        given = [None if tensor is None else tensor.clone().requires_grad_() for tensor in inputs]
        if frozen != "nothing":
            given[frozen == "weight"].requires_grad_(False)
        result = multiply(*given)
        result.sin().sum().backward()
        found.append([result.detach(), *(tensor.grad for tensor in given if tensor is not None and tensor.requires_grad)])
    assert len(calls) >= 1 + (frozen == "nothing")
    assert found[0][0].shape == (*rows, 512)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_a_gradient_of_a_gradient_is_that_of_torch(calls):
    found = []
    for multiply in (linear, F.linear):
        rows, weight = numbers(200, 256).requires_grad_(), (0.1 * numbers(128, 256, seed=1)).requires_grad_()
        first = torch.autograd.grad(multiply(rows, weight).sin().sum(), rows, create_graph=True)[0]
        found.append(torch.autograd.grad(first.square().sum(), weight)[0])
    assert len(calls) >= 4
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-3)


def test_what_onednn_cannot_do_is_left_to_torch(calls):
    rows, weight = numbers(512, 256), numbers(512, 256, seed=1)
    assert linear(rows.double(), weight.double()).dtype == torch.float64
    assert linear(rows[:2], weight).shape == (2, 512), "too little work to be worth its start"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(rows, weight).dtype == torch.bfloat16
    per_row = torch.func.vmap(torch.func.grad(lambda row: linear(row, weight).sum()))(numbers(3, 64, 256))
    torch.testing.assert_close(per_row[0, 0], weight.sum(0), rtol=1e-5, atol=1e-4)
    assert calls == []
    linear(rows, weight)
    assert calls == [(512, 256, 512)]


def test_the_processor_alone_decides(monkeypatch):
    for narrow in (True, False):
        monkeypatch.setattr(products, "_mkl_is_narrow", lambda narrow=narrow: narrow)
        assert uses_onednn("auto", device=CPU, dtype=torch.float32) is narrow
        assert not uses_onednn("auto", device=CPU, dtype=torch.bfloat16)
        assert not uses_onednn("torch", device=CPU, dtype=torch.float32)
        assert uses_onednn("onednn", device=CPU, dtype=torch.float32)


def test_a_processor_is_known_by_its_maker_and_its_vectors(monkeypatch):
    known = {}
    monkeypatch.setattr(products.Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    for maker in ("AuthenticAMD", "GenuineIntel"):
        for vectors in ("AVX512", "AVX2"):
            monkeypatch.setattr(platform, "processor", lambda maker=maker: f"AMD64 Family 25 Model 97 Stepping 2, {maker}")
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda vectors=vectors: vectors)
            known[maker, vectors] = products._mkl_is_narrow.__wrapped__()
    assert known == {
        ("AuthenticAMD", "AVX512"): torch._C.has_mkl,
        ("AuthenticAMD", "AVX2"): False,
        ("GenuineIntel", "AVX512"): False,
        ("GenuineIntel", "AVX2"): False,
    }


def test_onednn_is_refused_where_it_cannot_be(monkeypatch):
    with pytest.raises(ConfigError, match="matmul=mkl: choose auto, torch, onednn"):
        uses_onednn("mkl", device=CPU, dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"matmul=onednn is for float32 weights on a CPU, but these are torch.float64"):
        uses_onednn("onednn", device=CPU, dtype=torch.float64)
    monkeypatch.setattr(products, "_is_right", lambda: False)
    with pytest.raises(ConfigError, match="oneDNN is missing from this build of torch or multiplies wrongly"):
        uses_onednn("onednn", device=CPU, dtype=torch.float32)
    assert not uses_onednn("auto", device=CPU, dtype=torch.float32)


def test_only_plain_linear_layers_change():
    class Own(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Own(4, 4))
    multiply_by_onednn(model)
    assert [type(layer) for layer in model] == [OneDnnLinear, Own]
    assert [is_linear(layer) for layer in model] == [True, False]
    assert [linear_of(layer) for layer in model] == [linear, F.linear]


def test_a_policy_computes_what_it_computed(calls):
    policy = build_tiny(hidden_size=128, intermediate_size=384, num_layers=2)
    tokens = np.random.default_rng(0).integers(3, 90, (4, 4, 40))
    batch = Sequences(tuple(tokens[:, 0]), tuple(tuple(rows[1:]) for rows in tokens))
    found = []
    for matmul in ("torch", "onednn"):
        policy.multiply_by(matmul)
        policy.model.zero_grad()
        logprobs = policy.token_logprobs(batch)
        logprobs.sum().backward()
        found.append((logprobs.detach(), [parameter.grad.clone() for parameter in policy.parameters()]))
    assert policy.multiplies_by_onednn
    assert len(calls) > 20
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())
    assert policy.frozen_copy().multiplies_by_onednn


def test_their_operations_are_counted_as_those_of_torch():
    counted = []
    for multiply in (linear, F.linear):
        rows, weight = numbers(160, 256).requires_grad_(), numbers(192, 256).requires_grad_()
        with FlopCounterMode(display=False, custom_mapping=onednn_operations()) as counter:
            multiply(rows, weight).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted == [3 * 2 * 160 * 256 * 192] * 2
