import numpy as np
import pytest
import torch

from rlx.errors import TrainingError
from rlx.policy.tiny import build_tiny
from rlx.rollout.gap import LogprobGap, Reported, Watch, logprob_gap, own_rounding, tolerance
from tests.rollout.stand_in import StandIn, exact_logprobs, model_of


@pytest.fixture(scope="module")
def policy():
    return StandIn(model_of("llama"))


def reported(policy, *, noise=0.0, temperature=1.0):
    """Three completions with the policy's own log-probabilities, moved by at most `noise`."""
    generator = np.random.default_rng(0)
    prompts = tuple(generator.integers(2, 40, size=length) for length in (2, 5, 3))
    completions = tuple(generator.integers(2, 40, size=length) for length in (4, 1, 7))
    logprobs = []
    for prompt, tokens in zip(prompts, completions, strict=True):
        exact = exact_logprobs(policy.model, np.concatenate([prompt, tokens]), temperature=temperature)[len(prompt) - 1 : -1]
        own = exact.gather(1, torch.from_numpy(tokens)[:, None])[:, 0].numpy()
        logprobs.append(own + noise * generator.uniform(-1, 1, size=len(own)))
    return Reported(prompts, completions, tuple(logprobs), temperature)


def reported_by(policy, *, noise=0.0):
    """As `reported`, by a whole policy."""
    generator = np.random.default_rng(0)
    prompts, completions = (tuple(generator.integers(3, 90, size=(8, 4))) for _ in range(2))
    nothing = Reported(prompts, completions, tuple(np.zeros((8, 4))), 1.0)
    exact = logprob_gap(policy, nothing, batch_tokens=1000).ours
    return Reported(prompts, completions, tuple(exact.reshape(8, 4) + noise), 1.0)


def watch(**changes):
    return Watch(**{"name": "the server", "dtype": None, "batch_tokens": 10, "checks": True, "truncates": False, **changes})


@pytest.mark.parametrize("batch_tokens", [1, 10, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probabilities_are_compared_token_by_token_in_batches(policy, batch_tokens, temperature):
    found = logprob_gap(policy, reported(policy, temperature=temperature), batch_tokens=batch_tokens)
    assert found.differences.shape == (12,)
    assert found.differences.max() < 1e-5
    assert logprob_gap(policy, reported(policy, noise=0.5), batch_tokens=batch_tokens).differences.max() > 0.2


def test_what_rounding_explains_grows_with_the_unit_and_the_layers(policy):
    float32 = tolerance(policy, None, num_tokens=1000, least=-3.0)
    assert 1e-5 < float32.largest < 1e-4
    assert float32.mean == pytest.approx(float32.largest * (1 / 16 + 1e-3))
    bfloat16 = tolerance(policy, "bfloat16", num_tokens=1000, least=-3.0)
    assert bfloat16.largest / float32.largest == pytest.approx(2**16)
    assert tolerance(policy, None, num_tokens=1000, least=-16.0).largest == pytest.approx(2 * float32.largest)
    deep = StandIn(model_of("llama", num_hidden_layers=8))
    assert tolerance(deep, None, num_tokens=1000, least=-3.0).largest == pytest.approx(2 * float32.largest)


@pytest.mark.parametrize(
    ("noise", "dtype", "refused"), [(0, None, False), (1e-3, None, True), (1e-3, "bfloat16", False), (9, "bfloat16", True)]
)
def test_more_than_rounding_is_refused_with_both_numbers(policy, noise, dtype, refused):
    watched, given = watch(dtype=dtype), reported(policy, noise=noise)
    if not refused:
        watched.draw(policy, given, greedy=True, version=7)
        assert watched.figures()["sampling_gap"] <= watched.figures()["sampling_gap_largest"] < 1.01e-3
        return
    with pytest.raises(
        TrainingError, match=r"weights of version 7: .* has log-probability -[\d.]+ there and -[\d.]+ under the policy"
    ):
        watched.draw(policy, given, greedy=True, version=7)


def test_a_server_that_got_no_weights_is_measured_and_not_refused(policy):
    watched = watch(checks=False)
    watched.draw(policy, reported(policy, noise=1.0), greedy=False, version=None)
    assert watched.figures()["sampling_gap_largest"] > 0.5
    watched.begin()
    assert watched.figures() == {}


def test_standard_errors_are_those_of_a_mean_of_0():
    assert LogprobGap(np.zeros(4), np.zeros(4), np.array([1.0, 1.0, 1.0, 1.0])).standard_errors == 2.0
    assert LogprobGap(np.zeros(0), np.zeros(0), np.zeros(0)).standard_errors == 0.0


def test_the_completions_that_are_compared_are_spread_over_the_draw(policy):
    given = reported(policy)
    assert [len(tokens) for tokens in given.spread(2).completions] == [4, 7]
    assert given.spread(3) is given.spread(None) is given
    assert [len(part) for part in given.split(np.arange(12))] == [4, 1, 7]


@pytest.mark.parametrize(("noise", "refused"), [(0.0, False), (0.1, True)])
def test_where_a_model_magnifies_rounding_its_own_errors_are_the_measure(noise, refused):
    policy = build_tiny(hidden_size=32, intermediate_size=48, num_layers=2)
    with torch.no_grad():
        policy.model.lm_head.weight.add_(300.0)  # adds about 1e4 to every logit, which float32 then rounds by 1e-3
    exact = policy.frozen_copy()
    exact.model.double()
    given = reported_by(exact, noise=noise)
    found = logprob_gap(policy, given, batch_tokens=1000)
    assert found.exceeds(tolerance(policy, None, num_tokens=32, least=float(found.ours.min())))
    own = own_rounding(policy, given, found, dtype=None, batch_tokens=1000)
    errors = logprob_gap(policy, reported_by(exact), batch_tokens=1000).differences
    assert own.largest == pytest.approx(8 * errors.max(), rel=1e-3)
    assert own.mean == pytest.approx(8 * errors.mean(), rel=1e-3)
    watched = watch(batch_tokens=1000)
    if refused:
        with pytest.raises(TrainingError, match="does not sample from the policy's weights"):
            watched.draw(policy, given, greedy=True, version=1)
    else:
        watched.draw(policy, given, greedy=True, version=1)
