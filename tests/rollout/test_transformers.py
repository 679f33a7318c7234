from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from rlx.policy.tiny import build_tiny
from rlx.seeding import Stream
from tests.rollout.stand_in import StandIn, exact_logprobs, model_of, prompts_of, sampler_of

pytestmark = pytest.mark.whole

LENGTHS = (3, 9, 5, 1, 5, 7)
STREAM = Stream(0, ("rollout", 0))


def generated(model, prompt, *, eos, new):
    """What transformers' generate completes a prompt with, and the gap between the two best logits at each token."""
    made = model.generate(
        torch.from_numpy(prompt)[None],
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=list(eos) or None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(made.logits)[:, 0].topk(2).values
    return made.sequences[0, len(prompt) :].numpy(), (best[:, 0] - best[:, 1]).numpy()


@pytest.mark.parametrize("eos", [(), (1,), (5, 17, 30)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mistral"])
def test_greedy_decoding_is_that_of_generate(architecture, eos):
    model = model_of(architecture, seed=3)
    prompts = prompts_of(*LENGTHS)
    rollout = sampler_of(max_new_tokens=20).sample(
        StandIn(model, eos=eos), prompts, group_size=1, stream=STREAM, prompt_keys=range(6), greedy=True
    )
    compared = 0
    for row, prompt in enumerate(prompts):
        ours = rollout.sequences.completions[row][0]
        theirs, gaps = generated(model, prompt, eos=eos, new=20)
        close = np.flatnonzero(gaps < 1e-4)
        upto = close[0] if len(close) else None
        assert ours[:upto].tolist() == theirs[:upto].tolist()
        compared += len(theirs[:upto])
    assert compared > 30
    assert rollout.finished[:, 0].tolist() == [group[0][-1] in eos for group in rollout.sequences.completions]


def test_samples_have_their_exact_probabilities():
    model = model_of("llama", vocab_size=5, eos_token_id=4, initializer_range=0.5)
    prompt = np.array([2, 3])
    group, temperature = 6000, 1.4
    policy = StandIn(model, eos=(4,))
    sampler = sampler_of(max_new_tokens=2, temperature=temperature)
    rollout = sampler.sample(policy, [prompt], group_size=group, stream=STREAM, prompt_keys=[0])
    counts = Counter(tuple(completion.tolist()) for completion in rollout.sequences.completions[0])
    first = exact_logprobs(model, prompt, temperature=temperature)[-1].exp()
    expected = {(4,): float(first[4])}
    for token in range(4):
        second = exact_logprobs(model, np.append(prompt, token), temperature=temperature)[-1].exp()
        expected |= {(token, other): float(first[token] * second[other]) for other in range(5)}
    assert set(counts) <= set(expected)
    observed = [counts[sequence] for sequence in expected]
    assert stats.chisquare(observed, group * np.array(list(expected.values()))).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("limits", [{}, {"top_k": 3}, {"top_p": 0.5, "min_p": 0.05}])
def test_sampling_logprobs_are_those_of_a_forward(temperature, limits):
    model = model_of("qwen2")
    prompts = prompts_of(*LENGTHS)
    rollout = sampler_of(**limits).sample(
        StandIn(model), prompts, group_size=3, stream=STREAM, prompt_keys=range(6), temperature=temperature
    )
    assert rollout.sampling_logprobs.dtype == torch.float32
    assert rollout.sampling_logprobs.shape == rollout.sequences.completion_mask.shape
    assert (rollout.sampling_logprobs[~rollout.sequences.completion_mask] == 0).all()
    assert rollout.temperature == temperature
    for row, prompt in enumerate(prompts):
        for place, completion in enumerate(rollout.sequences.completions[row]):
            exact = exact_logprobs(model, np.concatenate([prompt, completion]), temperature=temperature)
            exact = exact[len(prompt) - 1 : -1].gather(1, torch.from_numpy(completion)[:, None])[:, 0]
            ours = rollout.sampling_logprobs[row, place, : len(completion)]
            assert (ours - exact).abs().max() < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_sampling_logprobs_are_those_that_training_starts_from(temperature):
    policy = build_tiny(hidden_size=32, intermediate_size=48, num_layers=2, max_positions=64)
    prompts = [policy.encode_prompt(text) for text in ("12+34=", "7+1=", "a longer prompt")]
    rollout = sampler_of(max_new_tokens=12, temperature=temperature).sample(
        policy, prompts, group_size=4, stream=STREAM, prompt_keys=range(3)
    )
    training = policy.token_logprobs(rollout.sequences, temperature=temperature)
    torch.testing.assert_close(training.detach(), rollout.sampling_logprobs, atol=1e-4, rtol=0)
    assert training.requires_grad


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_completion_does_not_depend_on_its_batch(architecture):
    model = model_of(architecture)
    policy = StandIn(model)
    prompts = prompts_of(*LENGTHS)

    def completions(rows, *, batch_tokens=100_000, group=3):
        sampler = sampler_of(max_new_tokens=16, batch_tokens=batch_tokens)
        chosen = [prompts[row] for row in rows]
        made = sampler.sample(policy, chosen, group_size=group, stream=STREAM, prompt_keys=[f"p{row}" for row in rows])
        values = zip(rows, made.sequences.completions, made.sampling_logprobs, made.finished, strict=True)
        return {row: (tokens, logprobs, finished) for row, tokens, logprobs, finished in values}

    together = completions(range(6))
    others = [completions([row]) for row in range(6)]
    others += [completions([5, 0, 3]), completions([2, 4, 1]), completions(range(6), batch_tokens=1)]
    others += [completions(range(6), batch_tokens=200), completions(range(6), group=2)]
    for other in others:
        for row, (tokens, logprobs, finished) in other.items():
            for place, completion in enumerate(tokens):
                assert np.array_equal(completion, together[row][0][place])
                length = len(completion)
                torch.testing.assert_close(logprobs[place, :length], together[row][1][place, :length], atol=5e-5, rtol=0)
                assert finished[place] == together[row][2][place]
    assert any(not finished for _, _, flags in together.values() for finished in flags)
    assert any(finished for _, _, flags in together.values() for finished in flags)


def test_the_budget_bounds_what_is_decoded_together():
    model = model_of("llama")
    seen = []
    handle = model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    policy = StandIn(model, eos=())
    sampler = sampler_of(max_new_tokens=2, batch_tokens=2 * 2 * 7)
    sampler.prepare(policy)
    seen.clear()
    sampler.sample(policy, prompts_of(5, 2, 5, 2), group_size=2, stream=STREAM, prompt_keys=range(4))
    handle.remove()
    assert seen == [(2, 2), (4, 1), (2, 5), (4, 1)]  # prompts of equal length together, so none is padded


def test_stop_strings_end_completions_at_once():
    policy = StandIn(model_of("llama"))
    free = sampler_of(max_new_tokens=20).sample(policy, prompts_of(4, 6), group_size=8, stream=STREAM, prompt_keys=[0, 1])
    sampler = sampler_of(max_new_tokens=20, stop=("m", "xy"))
    rollout = sampler.sample(policy, prompts_of(4, 6), group_size=8, stream=STREAM, prompt_keys=[0, 1])
    stopped = 0
    for row in range(2):
        for place, completion in enumerate(rollout.sequences.completions[row]):
            whole = free.sequences.completions[row][place]
            assert np.array_equal(completion, whole[: len(completion)])
            text = policy.decode(whole)
            ends = [text.find(string) + len(string) for string in sampler.stop if string in text]
            assert len(completion) == min([*ends, len(whole)])
            stopped += bool(ends)
            assert not any(string in sampler.text(policy, completion) for string in sampler.stop)
    assert 0 < stopped < 16


def test_truncation_restricts_the_support():
    model = model_of("llama")
    prompt = prompts_of(4)[0]
    rollout = sampler_of(max_new_tokens=1, top_k=2).sample(
        StandIn(model), [prompt], group_size=200, stream=STREAM, prompt_keys=[0]
    )
    best = exact_logprobs(model, prompt)[-1].topk(2).indices.tolist()
    assert {int(completion[0]) for completion in rollout.sequences.completions[0]} == set(best)


@pytest.mark.parametrize("limits", [{"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 6, "top_p": 0.8, "min_p": 0.1}])
def test_samples_of_a_truncated_distribution_have_its_probabilities(limits):
    model = model_of("llama", vocab_size=9, eos_token_id=8, initializer_range=0.5)
    prompt, group = np.array([2, 3, 5]), 5000
    sampler = sampler_of(max_new_tokens=1, temperature=1.3, **limits)
    rollout = sampler.sample(StandIn(model, eos=(8,)), [prompt], group_size=group, stream=STREAM, prompt_keys=[0])
    exact = exact_logprobs(model, prompt, temperature=1.3)[-1].exp()
    order = exact.argsort(descending=True).tolist()[: limits.get("top_k", 9)]
    total, before, kept = sum(exact[token] for token in order), 0.0, []
    for token in order:
        if before < limits.get("top_p", 1.0) * total and exact[token] >= limits.get("min_p", 0.0) * exact[order[0]]:
            kept.append(token)
        before += exact[token]
    assert 1 < len(kept) < 9
    counts = Counter(int(completion[0]) for completion in rollout.sequences.completions[0])
    assert set(counts) == set(kept)
    expected = group * (exact[kept] / exact[kept].sum()).numpy()
    assert stats.chisquare([counts[token] for token in kept], expected).pvalue > 1e-3
    chosen = rollout.sampling_logprobs[0, :, 0]
    first = torch.tensor([int(completion[0]) for completion in rollout.sequences.completions[0]])
    torch.testing.assert_close(chosen.double(), exact.log()[first], atol=1e-4, rtol=0)  # those before truncation


def test_a_recurrent_model_is_sampled_and_the_user_told():
    model = model_of("mamba")
    policy = StandIn(model)
    for _ in range(2):
        rollout = sampler_of(max_new_tokens=4).sample(policy, prompts_of(5, 2), group_size=1, stream=STREAM, prompt_keys=[0, 1])
    assert len(policy.notes) == 1
    assert rollout.sequences.completion_lengths.max() == 4


def test_a_rollout_can_be_learned_from():
    model = model_of("llama")
    rollout = sampler_of().sample(StandIn(model), prompts_of(4), group_size=2, stream=STREAM, prompt_keys=[0])
    ratio = torch.zeros_like(rollout.sampling_logprobs, requires_grad=True)
    (ratio * rollout.sampling_logprobs).sum().backward()  # not an inference tensor
    assert not rollout.sampling_logprobs.requires_grad
