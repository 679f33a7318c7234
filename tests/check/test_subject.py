"""What the laws are tried on."""

from dataclasses import replace

import torch

import rlx
from rlx.algorithm import LossOutput
from rlx.check.subject import completion_gradients, losses_of, row_shown
from rlx.loss.weight import token_mean
from tests.check.checking import failed, subject
from tests.check.faulty import Preferences, Rewards
from tests.check.sound import FromLogits


def test_a_loss_of_logits_goes_past_the_stand_in():
    assert subject(FromLogits()).goes_past
    assert not subject(Preferences()).goes_past
    assert subject(FromLogits()).stand_in().policy.parameters()


def test_gradients_are_found_by_completion():
    checked = subject(Preferences())
    setting = checked.stand_in()
    batch = checked.first_update(setting)
    gradient, _ = checked.gradient(setting, batch)
    rows = completion_gradients(setting, batch, gradient)
    assert [[len(part) for part in row] for row in rows] == batch.sequences.completion_lengths.tolist()
    assert repr(checked.policy.decode(batch.sequences.prompts[1])) in row_shown(checked, batch, 1)


def test_scores_that_the_pairs_lack_are_made_up_where_a_loss_reads_them():
    reads, plain = (subject(replace(rlx.load("algorithm", "dpo"), loss=rlx.load("loss", name))) for name in ("odpo", "dpo"))
    assert reads.makes_scores_up
    assert not plain.makes_scores_up
    assert all(pair.scores[0] > pair.scores[1] for pair in reads.small_task.pairs())
    assert plain.small_task.pairs()[0].scores is None


class WarmsUpPastAnError(Preferences):
    """A weight that begins at 0, and a draw that fails at step 1."""

    def draw(self, lab):
        if lab.step == 1:
            raise IndexError("no such row")
        batch = super().draw(lab)
        return batch.with_weights(preference=batch.weights["preference"] * min(1.0, lab.step / 10))


def test_a_step_that_fails_before_all_is_learned_is_named():
    assert [finding.wrong for finding in failed(WarmsUpPastAnError()).values()] == ["IndexError: no such row"]


def test_losses_are_found_by_their_path():
    paths = [path for path, _ in losses_of(rlx.load("algorithm", "hybrid"))]
    assert paths
    assert all(path.startswith("algorithm.") for path in paths)


class OneGroupAtATime(Rewards):
    """An update for each group of a draw, of which the first one teaches nothing, as one of equal rewards does."""

    def advantages(self, rewards):
        return super().advantages(rewards) * (torch.arange(len(rewards)) > 0)[:, None]

    def updates(self, batch, rng):
        for row in range(len(batch)):
            part = batch.take([row])
            yield part.with_values(weights=token_mean.formula(part.loss_mask))


class OneSilentGroupAtATime(OneGroupAtATime):
    def compute_loss(self, policy, reference, batch):
        term = super().compute_loss(policy, reference, batch).terms["policy"]
        return LossOutput.of(term.values * 0, term.weights)


def test_the_first_part_of_a_draw_that_teaches_is_looked_at():
    checked = subject(OneGroupAtATime())
    setting = checked.stand_in()
    batch = checked.first_update(setting)
    assert len(batch) == 1
    assert batch.advantages.any()
    assert failed(OneGroupAtATime(), "reached", "tokens", "direction") == {}
    assert set(failed(OneSilentGroupAtATime(), "reached", "tokens")) == {"reached", "tokens"}
