"""Laws of tokens: what is said of rows that teach nothing."""

from dataclasses import replace

import torch

import rlx
from rlx.check.checker import LAWS, check_algorithm
from rlx.check.finding import FAILED
from rlx.check.law.token import prompt
from tests.check.checking import failed, subject
from tests.check.faulty import Preferences


def test_rows_that_weigh_nothing_for_what_they_are_are_counted():
    class WithoutTheLongest(Preferences):
        def draw(self, lab):
            batch = super().draw(lab)
            kept = batch.rejected_mask.sum(dim=1) <= 6
            return batch.with_weights(preference=kept / kept.sum().clamp(min=1))

    (verdict,) = check_algorithm(subject(WithoutTheLongest()), laws={"tokens": LAWS["tokens"]})
    assert "of 8 rows weigh 0" in verdict.finding.number
    assert not verdict.failed


def test_rows_that_weigh_nothing_for_their_place_are_a_fault():
    class EverySecond(Preferences):
        def draw(self, lab):
            batch = super().draw(lab)
            return batch.with_weights(preference=torch.arange(len(batch)) % 2 / len(batch))

    found = failed(EverySecond(), "tokens")["tokens"]
    assert found.wrong.startswith("4 of 8 rows of a draw weigh 0, the same places in each of 5 draws (row 0 first)")


def test_halves_of_a_draw_that_take_turns_are_none():
    class InTurns(Preferences):
        def updates(self, batch, rng):
            for half in (0, 1):
                yield batch.with_weights(preference=(torch.arange(len(batch)) % 2 == half) * 2 / len(batch))

    assert failed(InTurns(), "tokens") == {}


def test_logits_of_completions_alone_are_not_taken_for_those_of_the_prompt():
    # 5 completions of a prompt of 5 tokens: the head reads as many places as the row has tokens
    algorithm = replace(rlx.load("algorithm", "custom_grpo"), prompts_per_step=1, group_size=5)
    assert prompt(subject(algorithm)).status != FAILED
