import numpy as np
import pytest
import torch

from rlx.errors import ConfigError, TrainingError
from rlx.rollout.draw import roll_out
from rlx.rollout.server import ServerSampler
from rlx.seeding import Stream
from tests.rollout.serving import serving
from tests.rollout.stand_in import Bench, StandIn, exact_logprobs, model_of, prompts_of, sampler_of

STREAM = Stream(0, ("rollout", 0))


@pytest.fixture(scope="module")
def policy():
    return StandIn(model_of("llama"), eos=(1, 2, 3, 4, 5, 6, 7, 8))


@pytest.fixture
def server(policy):
    with serving(policy) as server:
        yield server


def server_sampler(server, **changes):
    settings = {
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "stop": (),
        "max_new_tokens": 6,
        "url": server.url if server else "http://127.0.0.1:9/v1",
        "model": None,
        "logprobs": "raw",
        "concurrency": 4,
        "timeout": 10.0,
        "retries": 1,
        "backoff": 0.01,
        "api_key_variable": None,
        "batch_tokens": 1000,
    }
    return ServerSampler(**{**settings, **changes})


def sample(server, policy, *, lengths=(3, 5), group_size=4, sampler=None, **arguments):
    prompts = prompts_of(*lengths)
    settings = {"group_size": group_size, "stream": STREAM, "prompt_keys": range(len(prompts)), **arguments}
    return (sampler or server_sampler(server)).sample(policy, prompts, **settings)


def check_logprobs(rollout, policy, *, temperature=1.0):
    for row, prompt in enumerate(rollout.sequences.prompts):
        for place, completion in enumerate(rollout.sequences.completions[row]):
            exact = exact_logprobs(policy.model, np.concatenate([prompt, completion]), temperature=temperature)
            exact = exact[len(prompt) - 1 : -1].gather(1, torch.from_numpy(completion)[:, None])[:, 0]
            assert (rollout.sampling_logprobs[row, place, : len(completion)] - exact).abs().max() < 1e-4


def test_a_rollout_has_what_the_server_sampled(server, policy):
    rollout = sample(server, policy)
    assert rollout.sequences.completion_lengths.shape == (2, 4)
    check_logprobs(rollout, policy)
    assert 0 < rollout.finished.sum() < 8
    for row in range(2):
        for place, completion in enumerate(rollout.sequences.completions[row]):
            assert rollout.finished[row, place] == (completion[-1] in policy.eos_token_ids)
    assert {body["model"] for body in server.bodies} == {"tiny"}
    assert 1 < server.most_at_once <= 4


def test_every_completion_has_its_own_seed(server, policy):
    first = sample(server, policy)
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == len(seeds) == 8
    second = sample(server, policy)
    assert sorted(seeds) == sorted(body["seed"] for body in server.bodies[8:])
    assert torch.equal(first.sampling_logprobs, second.sampling_logprobs)
    sample(server, policy, attempt=1)
    assert not {body["seed"] for body in server.bodies[16:]} & set(seeds)


def test_the_settings_reach_the_server(server, policy):
    sampler = server_sampler(server, top_k=5, top_p=0.9, min_p=0.01, stop=["k"], model="mine")
    rollout = sample(server, policy, sampler=sampler)
    body = server.bodies[0]
    assert {name: body[name] for name in ("top_k", "top_p", "min_p", "stop", "model", "max_tokens", "temperature")} == {
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.01,
        "stop": ["k"],
        "model": "mine",
        "max_tokens": 6,
        "temperature": 1.0,
    }
    assert body["stop_token_ids"] == [1, 2, 3, 4, 5, 6, 7, 8]
    check_logprobs(rollout, policy)
    sample(server, policy, sampler=server_sampler(server))
    assert not {"top_k", "top_p", "min_p", "stop"} & set(server.bodies[-1])


def test_processed_log_probabilities_know_the_temperature(server, policy):
    sampler = server_sampler(server, logprobs="processed", temperature=0.7)
    check_logprobs(sample(server, policy, sampler=sampler), policy, temperature=0.7)


def test_greedy_decoding(server, policy):
    greedy = sample(server, policy, group_size=1, greedy=True)
    assert {body["temperature"] for body in server.bodies} == {0.0}
    local = sample(None, policy, group_size=1, greedy=True, sampler=sampler_of(max_new_tokens=6))
    for ours, theirs in zip(greedy.sequences.completions, local.sequences.completions, strict=True):
        assert np.array_equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"logprobs": "raw", "temperature": 0.7}, {}),
        ({"logprobs": "raw"}, {"temperature": 0.7}),
        ({"logprobs": "processed", "top_p": 0.9}, {}),
        ({"logprobs": "processed"}, {"greedy": True, "group_size": 1}),
    ],
)
def test_log_probabilities_of_another_distribution_are_refused(server, policy, settings, arguments):
    with pytest.raises(ConfigError, match=r"rollout\.logprobs"):
        sample(server, policy, sampler=server_sampler(server, **settings), **arguments)
    assert not server.bodies


def test_token_ids_may_come_as_strings(server, policy):
    server.change = lambda choice: {name: value for name, value in choice.items() if name != "token_ids"}
    check_logprobs(sample(server, policy), policy)


def without_tokens(choice):
    return {**choice, "token_ids": None, "logprobs": {"token_logprobs": [0.0], "tokens": ["a"]}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (without_tokens, ConfigError, "no token_ids in"),
        (lambda choice: {**choice, "logprobs": None}, ConfigError, r"no logprobs\.token_logprobs in"),
        (lambda choice: {}, ConfigError, r"no token_ids and no logprobs"),
        (lambda choice: {**choice, "token_ids": [*choice["token_ids"], 3]}, TrainingError, "log-probabilities where at most 6"),
        (lambda choice: {**choice, "finish_reason": None}, TrainingError, "ended a completion by None"),
        (lambda choice: {name: choice[name] for name in ("token_ids", "logprobs")}, ConfigError, "has no finish_reason in"),
        (
            lambda choice: {"token_ids": [17], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "length"},
            TrainingError,
            "cut a completion after 1 tokens where 6 were asked for",
        ),
        (lambda choice: {**choice, "token_ids": [99] * len(choice["token_ids"])}, TrainingError, "vocabulary of 41"),
        (
            lambda choice: {**choice, "token_ids": [17] * len(choice["token_ids"]), "finish_reason": "stop"},
            TrainingError,
            "its last token, 17",
        ),
    ],
)
def test_a_reply_that_cannot_be_learned_from_is_refused(server, policy, change, error, message):
    server.change = change
    with pytest.raises(error, match=message):
        sample(server, policy)


ABORTED = {"finish_reason": "abort", "token_ids": [20], "logprobs": {"tokens": ["token_id:20"], "token_logprobs": [-1.0]}}
EMPTY = {"token_ids": [], "logprobs": {"tokens": [], "token_logprobs": []}}


@pytest.mark.parametrize("changed", [ABORTED, EMPTY], ids=["aborted", "empty"])
def test_an_aborted_completion_is_asked_for_again_and_never_learned(server, policy, changed):
    whole = sample(server, policy)
    asked = len(server.bodies)
    left = [1]
    server.change = lambda choice: {**choice, **changed} if left and left.pop() else choice
    again = sample(server, policy)
    assert len(server.bodies) == 2 * asked + 1
    assert again.finished.equal(whole.finished)
    assert again.sampling_logprobs.equal(whole.sampling_logprobs)
    server.change = lambda choice: {**choice, **changed}
    with pytest.raises(TrainingError, match=r"ended a completion by '\w+', with \d tokens, in 2 tries; it is neither"):
        sample(server, policy)


def test_a_server_that_fails_for_good_ends_the_draw(server, policy):
    server.failures.extend([500] * 100)
    with pytest.raises(TrainingError, match="did not answer completions in 2 tries"):
        sample(server, policy, group_size=40)
    assert len(server.bodies) < 40


def test_a_server_with_several_models_needs_a_choice(server, policy):
    server.models = ["small", "large"]
    with pytest.raises(ConfigError, match=r"small, large; choose one with rollout\.model"):
        sample(server, policy)


def test_the_weights_are_compared_before_a_run(server, policy):
    policy = StandIn(policy.model, eos=policy.eos_token_ids)
    server_sampler(server).prepare(policy)
    assert "does not send it new ones" in policy.notes[0]
    assert "differ" not in policy.notes[0]
    stranger = StandIn(model_of("llama", seed=1), eos=policy.eos_token_ids)
    server_sampler(server).prepare(stranger)
    assert "log-probabilities differ" in stranger.notes[0]


def test_evaluations_ask_the_policy_itself():
    sampler = server_sampler(None, top_p=0.8, stop=("x",))
    assert sampler.in_process == sampler_of(top_p=0.8, stop=("x",), max_new_tokens=6, batch_tokens=1000)
    assert sampler.in_process.in_process is not sampler


def test_batches_are_drawn_from_a_server(server, policy):
    bench = Bench(policy, server_sampler(server))
    batch = roll_out(bench, prompts_per_step=3, group_size=2, resample_attempts=0, filter_truncated=False)
    assert batch.rewards.shape == (3, 2)
    assert len(server.bodies) == 6


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"token_ids": ["a", "b"]}, "'a' among its token ids"),
        ({"token_ids": [5.5]}, "5.5 among its token ids"),
        ({"token_ids": "ab"}, "'ab' among its token ids"),
        ({"logprobs": {"token_logprobs": [None]}}, "None among its log-probabilities"),
        ({"logprobs": {"token_logprobs": ["x"]}}, "'x' among its log-probabilities"),
        ({"logprobs": {"token_logprobs": [float("nan")]}}, "nan among its log-probabilities"),
        ({"logprobs": {"token_logprobs": [2.5]}}, "2.5 among its log-probabilities"),
    ],
)
def test_what_is_no_number_in_a_reply_is_the_servers_doing(server, policy, changed, said):
    server.change = lambda choice: {**choice, **changed}
    with pytest.raises(TrainingError, match=f"the server at .* sent {said}"):
        sample(server, policy)


def test_a_reply_of_another_form_has_no_tokens(server, policy):
    server.change = lambda choice: "a text"
    with pytest.raises(ConfigError, match="has no token_ids and no logprobs"):
        sample(server, policy)
