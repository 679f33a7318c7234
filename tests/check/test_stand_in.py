"""Stand-ins: numbers that the tokens decide, a sampler, a policy whose parameters are its numbers, and a task."""

import numpy as np
import pytest
import torch

from rlx.check.stand_in import (
    EXTENDED,
    SHAPES,
    UNEVEN,
    Numbers,
    ScriptedSampler,
    generator_of,
    given,
    key_of,
)
from rlx.check.stand_in_task import has_scores, with_scores
from rlx.data.sequences import Sequences
from rlx.rollout.sampler import Draw
from tests.check.checking import laboratory, subject
from tests.check.faulty import Preferences, Rewards

TEXTS, GROUP = ("1+2=", "13+5=", "6+17="), 4


def test_numbers_are_a_function_of_the_tokens_and_of_what_they_are_for():
    key, other = key_of(np.array([1, 2]), np.array([3])), key_of(np.array([1]), np.array([2, 3]))
    numbers = Numbers(0.5)
    first = numbers.of("policy", "token_logprobs", key, 4)
    assert (first == Numbers(0.5).of("policy", "token_logprobs", key, 4)).all()
    assert (first < 0).all()
    for different in (("reference", "token_logprobs", key), ("policy", "entropy", key), ("policy", "token_logprobs", other)):
        assert (first != numbers.of(*different, 4)).any()
    assert generator_of("a", key).random() != generator_of("b", key).random()


def test_a_constant_is_of_whom_it_is_named_for():
    key = (b"p", b"c")
    numbers = Numbers(0.1, -7.0, "reference")
    assert (numbers.of("reference", "token_logprobs", key, 3) == -7).all()
    assert (numbers.of("policy", "token_logprobs", key, 3) != -7).all()


def test_log_probabilities_are_negative_and_those_of_two_never_agree_by_being_cut_off():
    numbers = Numbers(2.0)
    for letter in range(50):
        key = key_of(np.array([1]), np.array([letter]))
        policy, sampler = (numbers.of(who, "token_logprobs", key, 8) for who in ("policy", "sampler"))
        assert (policy <= -0.01).all()
        assert (policy != sampler).all()


def test_an_agreeing_sampler_agrees_on_about_half_of_the_completions():
    numbers = Numbers(0.4, agreeing=True)
    keys = [key_of(np.array([1]), np.array([letter])) for letter in range(200)]
    same = [
        all(numbers.of("policy", "token_logprobs", key, 4) == numbers.of("sampler", "token_logprobs", key, 4)) for key in keys
    ]
    assert 70 < sum(same) < 130


def completed(numbers, *, keys=7, limits=(6, 6, 2), temperature=1.0, shape="usual", turned=False):
    policy, _, sampler, _ = laboratory()
    prompts = tuple(policy.encode_prompt(text) for text in TEXTS)
    draw = Draw(prompts, GROUP, np.array(limits), np.arange(len(TEXTS) * GROUP, dtype=np.uint64) + keys, temperature, False)
    made = ScriptedSampler.of(sampler, numbers, shape=shape)
    return prompts, (ScriptedSampler(**{**vars(made), "turned": True}) if turned else made).complete(policy, draw)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_draw_is_the_same_completions_within_their_limits(shape):
    _, first = completed(Numbers(0.3), shape=shape)
    first.tokens[:] = -1  # what was given away is nobody else's
    _, made = completed(Numbers(0.3), shape=shape)
    _, again = completed(Numbers(0.3), shape=shape)
    assert (made.tokens == again.tokens).all()
    assert (made.logprobs == again.logprobs).all()
    assert (made.tokens >= 0).all()
    if shape in EXTENDED:
        assert (made.lengths == EXTENDED[shape]).all()
    elif shape in UNEVEN:
        assert set(made.lengths.tolist()) <= {4, *UNEVEN[shape]}
    else:
        assert (made.lengths <= np.repeat([6, 6, 2], GROUP)).all()
    if shape in ("one token", "empty"):
        assert set(made.lengths.tolist()) <= ({0, 1} if shape == "one token" else {0})


def test_long_completions_begin_as_short_ones_and_groups_that_are_alike_are_so_but_for_the_first():
    (_, short), (_, long) = completed(Numbers(0.3), shape="short"), completed(Numbers(0.3), shape="long")
    assert (short.tokens[:, :7] == long.tokens[:, :7]).all()
    _, made = completed(Numbers(0.3), shape="alike", limits=(6, 6, 6))
    first, second, third = made.tokens.reshape(3, GROUP, -1)
    assert (second == third).all()
    assert (first != second).any()


def test_another_address_other_completions():
    assert completed(Numbers(0.3))[1].tokens.tolist() != completed(Numbers(0.3), keys=99)[1].tokens.tolist()


def test_log_probabilities_are_the_samplers_numbers_or_the_policys_own():
    prompts, made = completed(Numbers(0.3), temperature=2.0)
    groups = [
        tuple(made.tokens[row, : made.lengths[row]] for row in range(p * GROUP, (p + 1) * GROUP)) for p in range(len(prompts))
    ]
    sequences = Sequences(prompts, tuple(groups), made.tokens.shape[1])
    theirs = given(Numbers(0.3), "sampler", "token_logprobs", sequences).reshape(len(made.tokens), -1) / 2
    np.testing.assert_allclose(made.logprobs, theirs.numpy(), rtol=1e-6)
    _, asked = completed(None)
    with torch.no_grad():
        ours = laboratory()[0].token_logprobs(sequences).reshape(len(made.tokens), -1)
    np.testing.assert_allclose(asked.logprobs, ours.numpy(), atol=1e-5)


def test_turned_groups_come_in_the_opposite_order():
    (_, made), (_, turned) = completed(Numbers(0.3)), completed(Numbers(0.3), turned=True)
    order = [*range(GROUP), *range(2 * GROUP - 1, GROUP - 1, -1), *range(2 * GROUP, 3 * GROUP)]
    assert (turned.tokens == made.tokens[order]).all()


def test_completions_of_any_task_differ_in_length():
    checked = subject(Preferences())
    batch = checked.first_update(checked.stand_in())
    assert len(batch.sequences.completion_lengths.unique()) >= 4


def test_without_spread_policy_sampler_and_reference_agree():
    checked = subject(Rewards())
    setting = checked.stand_in(spread=0.0)
    batch = checked.first_update(setting)
    ours = setting.policy.token_logprobs(batch.sequences).detach()
    torch.testing.assert_close(ours, setting.reference.token_logprobs(batch.sequences))
    torch.testing.assert_close(ours.float(), batch.sampling_logprobs.float())


def test_a_drift_lowers_the_reference_alone():
    checked = subject(Preferences())
    near, far = checked.stand_in(spread=0.0), checked.stand_in(spread=0.0, drift=0.5)
    batch = checked.first_update(near)
    mask = batch.sequences.completion_mask
    gap = near.reference.token_logprobs(batch.sequences) - far.reference.token_logprobs(batch.sequences)
    torch.testing.assert_close(gap[mask], torch.full_like(gap[mask], 0.5))
    assert torch.equal(near.policy.token_logprobs(batch.sequences), far.policy.token_logprobs(batch.sequences))


def test_the_gradient_of_a_log_probability_is_that_of_its_leaf():
    checked = subject(Preferences())
    setting = checked.stand_in()
    batch = checked.first_update(setting)
    setting.policy.token_logprobs(batch.sequences).sum().backward()
    assert setting.policy.leaf_names == ["token_logprobs"]
    assert bool((setting.policy.parameters()[0].grad == 1).all())


def test_made_up_scores_prefer_the_chosen_and_depend_on_the_text_alone():
    task = laboratory()[1]
    assert not has_scores(task)
    scored = with_scores(task)
    assert has_scores(scored)
    assert [pair.scores for pair in scored.pairs()] == [pair.scores for pair in with_scores(task).pairs()]
    assert all(pair.scores[0] > pair.scores[1] for pair in scored.held_out_pairs())
    assert len({pair.scores for pair in scored.pairs()}) > 1
