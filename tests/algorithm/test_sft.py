import pytest
import torch

import rlx


def test_the_loss_is_the_mean_over_all_chosen_tokens(lab):
    algorithm = rlx.load("algorithm", "sft", pairs_per_step=6)
    batch = algorithm.draw(lab)
    assert batch.sequences.group_size == 1
    logprobs = lab.policy.token_logprobs(batch.sequences)
    tokens = batch.sequences.completion_lengths.sum()
    output = algorithm.compute_loss(lab.policy, lab.reference, batch)
    assert output.loss.item() == pytest.approx((-logprobs.sum() / tokens).item())


def test_it_learns_from_the_chosen_completions_alone(lab):
    batch = rlx.load("algorithm", "sft", pairs_per_step=6).draw(lab)
    pairs = lab.task.pairs()
    tokenized = lab.policy.pair_tokenizer(pairs)
    chosen = [pairs[tokenized.index[row]].chosen for row in batch.rows]
    assert [lab.policy.decode(group[0]) for group in batch.sequences.completions] == chosen
    assert torch.isfinite(lab.policy.token_logprobs(batch.sequences)).all()
