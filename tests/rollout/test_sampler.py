import numpy as np
import pytest
import torch

import rlx
from rlx.errors import ConfigError, DataError, ShapeError, TrainingError
from rlx.rollout.sampler import Sampler, counted, random_keys
from rlx.seeding import Stream
from tests.rollout.stand_in import StandIn, model_of, prompts_of, sampler_of

STREAM = Stream(0, ("rollout", 3))


@pytest.fixture(scope="module")
def policy():
    return StandIn(model_of("llama"))


def sample(policy, prompts, *, sampler=None, **arguments):
    settings = {"group_size": 2, "stream": STREAM, "prompt_keys": range(len(prompts)), **arguments}
    return (sampler or sampler_of()).sample(policy, prompts, **settings)


def same(first, second):
    pairs = zip(first.sequences.completions, second.sequences.completions, strict=True)
    return all(np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ConfigError, match=r"rollout\.stop"):
        sampler_of(stop=["a", ""])


@pytest.mark.parametrize("name", ["transformers", "server"])
def test_every_option_of_the_group_loads_alone(name):
    sampler = rlx.load("rollout", name, stop=["x"])
    assert isinstance(sampler, Sampler)
    assert sampler.stop == ("x",)
    assert sampler.in_process.stop == ("x",)


def test_every_part_of_the_address_changes_the_numbers():
    def keys(**changes):
        address = {"stream": STREAM, "prompt_keys": [7, 8], "occurrences": [0, 0], "group_size": 3, **changes}
        return random_keys(**address).tolist()

    base = keys()
    assert len(set(base)) == 6
    assert keys() == base
    assert keys(prompt_keys=[np.int64(7), 8]) == base
    assert keys(group_size=2) == [base[0], base[1], base[3], base[4]]
    for change in ({"stream": STREAM.child(1)}, {"prompt_keys": ["7", "8"]}, {"prompt_keys": [9, 10]}, {"occurrences": [1, 1]}):
        assert not set(keys(**change)) & set(base)


def test_occurrences_are_counted_in_order():
    assert counted(["a", "b", "a", "a", "b"]) == [0, 0, 1, 2, 1]


def test_the_same_prompt_twice_gives_different_completions(policy):
    prompt = prompts_of(4)[0]
    twice = sample(policy, [prompt, prompt], prompt_keys=[5, 5])
    assert not np.array_equal(twice.sequences.completions[0][0], twice.sequences.completions[1][0])
    second = sample(policy, [prompt], prompt_keys=[5], occurrences=[1])
    assert np.array_equal(second.sequences.completions[0][0], twice.sequences.completions[1][0])


def test_step_and_attempt_change_the_completions(policy):
    prompts = prompts_of(4, 4)
    base = sample(policy, prompts)
    assert same(base, sample(policy, prompts))
    assert not same(base, sample(policy, prompts, attempt=1))
    assert not same(base, sample(policy, prompts, stream=Stream(0, ("rollout", 4))))
    assert not same(base, sample(policy, prompts, stream=Stream(1, ("rollout", 3))))


def test_the_sampler_counts_before_the_task(policy):
    prompts = prompts_of(3, 3)
    assert sample(policy, prompts, max_new_tokens=2).sequences.completion_lengths.max() == 8
    open_ended = sampler_of(max_new_tokens=None)
    assert sample(policy, prompts, sampler=open_ended, max_new_tokens=2).sequences.completion_lengths.max() == 2
    with pytest.raises(ConfigError, match="max_new_tokens"):
        sample(policy, prompts, sampler=open_ended)


def test_completions_end_where_the_model_does():
    policy = StandIn(model_of("gpt2", n_positions=10), eos=())
    rollout = sample(policy, prompts_of(9, 4), sampler=sampler_of(max_new_tokens=50))
    assert rollout.sequences.completion_lengths.tolist() == [[1, 1], [6, 6]]
    assert not rollout.finished.any()


def test_a_prompt_longer_than_the_context_is_named():
    policy = StandIn(model_of("gpt2", n_positions=10))
    prompts = [*prompts_of(3), policy.encode_prompt("longerthanthis")]
    with pytest.raises(DataError, match=r"'longerthanthis' has 14 tokens and stand_in reads at most 10"):
        sample(policy, prompts)


def test_greedy_decoding_has_one_outcome(policy):
    with pytest.raises(ConfigError, match="group_size"):
        sample(policy, prompts_of(3), greedy=True)
    for temperature in (0.0, 1e-31, 1e-320, float("nan")):
        with pytest.raises(ConfigError, match=r"temperature is .* at least 1e-30"):
            sample(policy, prompts_of(3), temperature=temperature)
    assert bool(sample(policy, prompts_of(3), temperature=1e-30).sampling_logprobs.isfinite().all())


def test_every_prompt_needs_a_key(policy):
    with pytest.raises(ShapeError, match="prompt_keys"):
        sample(policy, prompts_of(3, 3), prompt_keys=[1])


def test_no_prompts_give_no_completions(policy):
    rollout = sample(policy, [])
    assert len(rollout.sequences) == 0
    assert rollout.sampling_logprobs.shape[0] == rollout.finished.shape[0] == 0


def test_diverged_weights_are_an_error_not_a_completion():
    model = model_of("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="diverged"):
        sample(StandIn(model), prompts_of(3))


def test_text_has_no_stop_string(policy):
    assert sampler_of(stop=("d",)).text(policy, np.array([2, 2, 3, 4])) == "cc"
