"""What the laws are tried on."""

from dataclasses import replace

import rlx
from rlx.check.subject import completion_gradients, losses_of, row_shown
from tests.check.checking import subject
from tests.check.faulty import Preferences
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


def test_losses_are_found_by_their_path():
    paths = [path for path, _ in losses_of(rlx.load("algorithm", "hybrid"))]
    assert paths
    assert all(path.startswith("algorithm.") for path in paths)
