import dataclasses

import pytest
import torch

import rlx
from rlx.training.gradients import AccumulatedGradients, micro_batches
from tests.algorithm.conftest import lab, policy_and_reference  # noqa: F401

pytestmark = pytest.mark.whole

ALGORITHMS = {
    "sft": ("sft", {}),
    "dpo": ("dpo", {}),
    "custom_dpo": ("custom_dpo", {"regularization_weight": 0.3, "sft_loss_weight": 0.5}),
}
LOSSES = ["ipo", "simpo", "aot", "aot_unpaired", "kto_pair", "orpo", "bco"]


def algorithm(name, settings):
    return rlx.load("algorithm", name, pairs_per_step=10, **settings)


def gradients(made, lab, micro_batch, by=None):  # noqa: F811
    source = AccumulatedGradients(made, lab.policy, lab.reference, made.draw(lab), micro_batch=micro_batch)
    return source(by), source.metrics


def flat(gradient):
    return torch.cat([part.reshape(-1) for part in gradient if part is not None])


def with_loss(name):
    return dataclasses.replace(algorithm("custom_dpo", {"regularization_weight": 0.3}), loss=rlx.load("loss", name))


MADE = {name: lambda spec=spec: algorithm(*spec) for name, spec in ALGORITHMS.items()} | {
    f"custom_dpo {name}": lambda name=name: with_loss(name) for name in LOSSES
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("micro_batch", [1, 3, 7])
def test_a_cut_into_micro_batches_changes_no_gradient(lab, name, micro_batch):  # noqa: F811
    made = MADE[name]()
    whole, figures = gradients(made, lab, 10)
    parts, same = gradients(made, lab, micro_batch)
    torch.testing.assert_close(flat(parts["loss"]), flat(whole["loss"]), atol=1e-9, rtol=1e-9)
    assert same == pytest.approx(figures, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["custom_dpo", "custom_dpo aot"])
@pytest.mark.parametrize("micro_batch", [3, 10])
def test_the_gradients_of_the_terms_add_up_to_the_whole(lab, name, micro_batch):  # noqa: F811
    made = MADE[name]()
    whole, _ = gradients(made, lab, 10)
    terms, _ = gradients(made, lab, micro_batch, by=str)
    assert set(terms) == {"preference", "sft", "regularization"}
    # each term goes back through the norms of transformers on its own, and those compute in float32
    torch.testing.assert_close(sum(flat(term) for term in terms.values()), flat(whole["loss"]), atol=1e-7, rtol=1e-4)


def test_the_figures_are_those_of_the_loss(lab):  # noqa: F811
    made = MADE["custom_dpo"]()
    output = made.compute_loss(lab.policy, lab.reference, made.draw(lab))
    _, figures = gradients(made, lab, 4)
    assert figures["loss"] == pytest.approx(output.loss.item())
    assert figures["sft_loss"] == pytest.approx(output.terms["sft"].total.item())


def test_nothing_reaches_the_reference(lab):  # noqa: F811
    gradients(MADE["custom_dpo"](), lab, 4)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in lab.reference.model.parameters())


def test_terms_can_be_grouped(lab):  # noqa: F811
    made = MADE["custom_dpo"]()
    whole, _ = gradients(made, lab, 10)
    grouped, _ = gradients(made, lab, 10, by=lambda term: "likelihood" if term == "sft" else "rest")
    assert set(grouped) == {"likelihood", "rest"}
    torch.testing.assert_close(flat(grouped["likelihood"]) + flat(grouped["rest"]), flat(whole["loss"]), atol=1e-7, rtol=1e-4)


def test_micro_batches_cover_all_rows_once_and_hold_a_budget_of_tokens(lab, monkeypatch):  # noqa: F811
    batch = MADE["dpo"]().draw(lab)
    for micro_batch in (1, 3, 10, 99, None):
        rows = [row for piece in micro_batches(batch.row_tokens, micro_batch) for row in range(10)[piece]]
        assert rows == list(range(10))
    monkeypatch.setattr("rlx.training.gradients.TOKENS_AT_ONCE", 30)
    sizes = [batch[piece].sequences.num_tokens for piece in micro_batches(batch.row_tokens, None)]
    assert max(sizes) <= 30
    assert len(sizes) > 1
