import torch

from rlx.policy.memory import TensorMemory, cache_bytes_per_token, pass_memory, tensor_bytes
from rlx.policy.tiny import build_tiny
from tests.policy.models import policy_of, sequences_of

NONE = frozenset()


def test_tensors_that_live_and_the_most_that_did_are_counted_by_their_storage():
    old = torch.ones(1000)
    with TensorMemory() as memory:
        one = old + 1
        assert one.view(10, 100).t().shape == (100, 10)  # a view has no storage of its own
        assert old.view(10, 100).shape == (10, 100)
        assert memory.live == 4000
        two = one * 2
        assert (memory.live, memory.peak) == (8000, 8000)
        del one
        assert (memory.live, memory.peak) == (4000, 8000)
        del two
    assert memory.live == 0


def test_what_autograd_keeps_lives_until_its_graph_is_gone():
    weight = torch.ones(100, requires_grad=True)
    with TensorMemory() as memory:
        loss = (weight * 2).exp().sum()
        held = memory.live
        loss.backward()
        del loss
    assert held >= 400  # the result of exp
    assert memory.live < held + 400


def test_the_memory_of_more_rows_is_in_proportion():
    policy = policy_of("gpt2", shared_prefix=False)
    sequences = sequences_of(num_prompts=12, group_size=1)
    few = sequences.take([3] * 1)
    measure = pass_memory(policy, NONE)
    one, many = measure(few, few), measure(few, sequences.take([3] * 10))
    assert 9 * one.activations < many.activations <= 10 * one.activations
    direct = pass_memory(policy, NONE)(sequences.take([3] * 10), sequences.take([3] * 10))
    assert abs(direct.activations / many.activations - 1) < 0.1
    assert abs(direct.total / many.total - 1) < 0.2


def test_checkpointing_keeps_fewer_activations():
    plain, checkpointed = policy_of("llama"), policy_of("llama")
    checkpointed.checkpoint_activations()
    rows = sequences_of(num_prompts=1)
    found = [pass_memory(policy, NONE)(rows, rows) for policy in (plain, checkpointed)]
    assert found[1].activations < found[0].activations / 3


def test_bytes_of_weights_and_of_a_cached_token():
    policy = build_tiny(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4)
    assert tensor_bytes(list(policy.model.parameters())) == 4 * policy.num_parameters
    assert tensor_bytes([policy.model.lm_head.weight, policy.model.model.embed_tokens.weight]) == 4 * 99 * 32
    assert cache_bytes_per_token(policy) == 2 * 2 * 32 * 4


def test_weights_that_autocast_keeps_do_not_grow_with_the_rows():
    rows = sequences_of(num_prompts=1, group_size=2)
    many = rows.take([0] * 50)
    found = {}
    for precision in ("float32", "bfloat16"):
        policy = build_tiny(hidden_size=128, intermediate_size=256, num_layers=2)
        policy.compute_in(precision)
        found[precision] = pass_memory(policy, NONE)(rows, many).activations
    assert found["bfloat16"] < 1.2 * found["float32"]
