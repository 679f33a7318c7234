"""A hyperparameter that matters on made-up numbers and does nothing on the task's rows is named."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import rlx
from rlx.algorithm.base import Algorithm, AlgorithmType, LossOutput, Need
from rlx.check.task_effect import idle_keys, remembering
from rlx.check.variant import small
from rlx.cli.main import invoke
from rlx.cli.verb.check import task_notes
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Draw
from tests.check.checking import subject


@dataclass(frozen=True)
class LengthDpo(Algorithm):
    """DPO with a penalty for the difference in length of the two completions."""

    kind = AlgorithmType.PREFERENCE_LEARNING
    needs = frozenset({Need.PAIRS, Need.REFERENCE})
    beta: float = 0.1
    penalty: float = 0.01
    pairs_per_step: int = 64

    def draw(self, lab):
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(pair=torch.full((len(batch),), 1 / len(batch)))

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        margin = ours.chosen_sum - theirs.chosen_sum - ours.rejected_sum + theirs.rejected_sum
        longer = ours.chosen_length - ours.rejected_length
        return LossOutput.of(-F.logsigmoid(self.beta * (margin - self.penalty * longer)), batch.weights["pair"])


def tried(algorithm, task=None):
    whole = subject(algorithm)
    whole = whole if task is None else replace(whole, task=task)
    return idle_keys(whole.with_algorithm(small(algorithm)))


def test_a_penalty_on_lengths_is_idle_where_lengths_are_equal(tmp_path):
    assert tried(LengthDpo()) == ["penalty"]  # right and wrong sums have as many digits
    file = tmp_path / "pairs.jsonl"
    rows = [f'{{"prompt": "{i}+1=", "chosen": "{i + 1}", "rejected": "{i + 1}0"}}\n' for i in range(60)]
    file.write_text("".join(rows))
    assert tried(LengthDpo(), rlx.load("task", "preference_file", path=str(file))) == []


@pytest.mark.parametrize("name", ["custom_dpo", "custom_grpo"])  # an untrained policy is given no reward: nothing can be said
def test_shipped_keys_are_not_accused(name):
    assert tried(rlx.load("algorithm", name)) == []


class NoPairIsMade(LengthDpo):
    """A draw without a row, as of an algorithm that makes pairs of rewards where all of them are equal."""

    def draw(self, lab):
        return super().draw(lab)[slice(0, 0)]

    def compute_loss(self, policy, reference, batch):
        assert len(batch)
        return super().compute_loss(policy, reference, batch)


def test_nothing_is_said_of_a_draw_without_a_row():
    assert tried(NoPairIsMade()) == []


def test_a_word_of_warning_on_the_command_line(capsys, monkeypatch):
    whole = subject(LengthDpo())
    (said,) = task_notes(whole)
    assert said.startswith("penalty changes nothing on the rows of task arithmetic")


def test_a_draw_that_was_met_is_answered_from_memory_and_keeps_what_it_said():
    class Counting:
        calls = 0

        def complete(self, policy, draw):
            self.calls += 1
            made = Completions.empty(2, 3)
            made.tokens[:] = self.calls
            return made

    def draw(**changes):
        keys = np.array([7, 8], dtype=np.uint64)
        usual = {"prompts": (np.array([1, 2]),), "group_size": 2, "limits": np.array([3]), "keys": keys, "temperature": 1.0}
        return Draw(**{**usual, "greedy": False, **changes})

    original = Counting()
    sampler = remembering(original)
    first = sampler.complete(None, draw())
    first.tokens[:] = 99  # whoever gets it may write to it
    assert sampler.complete(None, draw()).tokens.tolist() == [[1] * 3] * 2
    assert original.calls == 1
    others = [{"temperature": 0.5}, {"greedy": True}, {"keys": np.array([7, 9], dtype=np.uint64)}, {"limits": np.array([2])}]
    for calls, changes in enumerate(others, start=2):
        sampler.complete(None, draw(**changes))
        assert original.calls == calls


def test_laws_of_nothing_are_refused():
    assert invoke(["check", "laws=[nosuch]"])[0] == 2
