"""The world of the exact laboratory: every completion once, probabilities that add up to one, tables as policies."""

import numpy as np
import pytest
import torch

from rlx.check.exact.world import World, exact_laboratory
from rlx.data.sequences import Sequences
from tests.check.checking import subject
from tests.check.faulty import Rewards

SUBJECT = subject(Rewards(prompts_per_step=1, group_size=2))
WORLD = World.of(SUBJECT.policy, vocabulary=5, length=3)


def test_every_completion_is_there_once_and_their_probabilities_add_up_to_one():
    assert len(set(WORLD.completions)) == len(WORLD.completions) == 1 + 4 + 16 * 5
    assert len(WORLD.states) == 1 + 4 + 16
    exact = exact_laboratory(SUBJECT, WORLD)
    assert WORLD.logprobs(exact.logits, 1.0).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_the_tokens_read_as_texts_of_their_own():
    texts = [SUBJECT.policy.decode([WORLD.tokens[place] for place in each]) for each in WORLD.completions]
    assert len(set(texts)) == len(texts)


def test_a_table_gives_the_statistics_that_its_logits_say():
    exact = exact_laboratory(SUBJECT, WORLD)
    first, second = WORLD.completions[7], WORLD.completions[-1]
    group = tuple(np.array([WORLD.tokens[place] for place in each]) for each in (first, second))
    sequences = Sequences((np.array([WORLD.tokens[0]]),), (group,))
    found = exact.laboratory.policy.token_statistics(
        sequences,
        temperature=2.0,
        requires=frozenset({"entropy", "kl_to_reference", "values"}),
        reference=exact.laboratory.reference,
    )
    whole = WORLD.logprobs(exact.logits, 2.0)
    sums = found.token_logprobs.sum(dim=-1)[0]
    torch.testing.assert_close(sums, torch.stack([whole[7], whole[-1]]))
    root, theirs = (torch.log_softmax(logits[0] / 2, dim=-1) for logits in (exact.logits, exact.reference_logits))
    torch.testing.assert_close(found.kl_to_reference[0, :, 0], (root.exp() * (root - theirs)).sum().expand(2))
    torch.testing.assert_close(found.entropy[0, 0, 0], -(root.exp() * root).sum())


def test_a_sampler_gives_what_is_chosen_and_greedily_the_likeliest():
    exact = exact_laboratory(SUBJECT, WORLD)
    exact.sampler.chosen[:] = [3, 40]
    batch = SUBJECT.draw(exact.laboratory)
    wanted = [[WORLD.tokens[place] for place in WORLD.completions[number]] for number in (3, 40)]
    assert [tokens.tolist() for tokens in batch.sequences.completions[0]] == wanted
    torch.testing.assert_close(batch.rewards[0].double(), exact.rewards[[3, 40]], atol=1e-6, rtol=0)
    table = torch.log_softmax(exact.logits, dim=-1)
    assert WORLD.completions[exact.sampler.likeliest(table)][0] == int(table[0].argmax())
