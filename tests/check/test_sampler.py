import numpy as np
import pytest
import torch

from rlx.check.laboratory import SHAPES, Numbers, ScriptedSampler, given
from rlx.data.sequences import Sequences
from rlx.rollout.sampler import Draw
from tests.check.checking import laboratory, subject
from tests.check.faulty import Preferences

TEXTS, GROUP = ("1+2=", "13+5=", "6+17="), 4


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
    assert (made.lengths <= np.repeat([6, 6, 2], GROUP)).all()
    if shape in ("one token", "empty"):
        assert set(made.lengths.tolist()) <= ({0, 1} if shape == "one token" else {0})


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
