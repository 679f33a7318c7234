import pytest
import torch

from rlx.algorithm import Algorithm, AlgorithmType, LossOutput, Need, Term, mean_of
from rlx.errors import ConfigError, ShapeError
from rlx.seeding import Stream


class Bare(Algorithm):
    kind = AlgorithmType.SUPERVISED
    needs = frozenset()


def test_a_loss_is_the_sum_of_its_terms():
    terms = {
        "a": Term(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5])),
        "b": Term(torch.tensor([[2.0]]), torch.tensor([[1.0]], dtype=torch.float64), coefficient=0.25),
    }
    assert LossOutput(terms).loss.item() == 2.5


def test_a_term_refuses_weights_of_another_shape():
    with pytest.raises(ShapeError, match=r"values \(2,\) but weights \(3,\)"):
        Term(torch.zeros(2), torch.zeros(3))


def test_metrics_add_over_pieces():
    values, mask = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, False])
    total, count = mean_of(values, mask)
    assert (total / count).item() == 1.5
    output = LossOutput.of(values.requires_grad_(), torch.ones(3), figure=values)
    assert output.metrics["figure"][0].item() == 9.0
    assert not output.metrics["figure"][0].requires_grad


def test_an_algorithm_updates_with_the_whole_batch_as_often_as_it_says():
    assert list(Bare(updates_per_batch=3).updates("batch", Stream(0))) == ["batch"] * 3


def test_what_an_algorithm_lacks_is_named(lab):
    with pytest.raises(ConfigError, match="define draw"):
        Bare().draw(lab)
    with pytest.raises(ConfigError, match="define compute_loss"):
        Bare().compute_loss(lab.policy, lab.reference, None)
    assert Bare().validate(lab) == {}


def test_pairs_come_once_an_epoch_and_belong_to_the_step(lab):
    from dataclasses import replace

    size = len(lab.task.pairs())
    steps = [replace(lab, step=step).pairs(32).rows for step in range(-(-size // 32))]
    seen = torch.from_numpy(__import__("numpy").concatenate(steps)[:size])
    assert len(set(seen.tolist()) | set(steps[-1].tolist())) == size
    assert replace(lab, step=3).pairs(32).rows.tolist() == steps[3].tolist()
    assert replace(lab, step=3, rng=Stream(1)).pairs(32).rows.tolist() != steps[3].tolist()


def test_needs_are_words_that_tasks_offer():
    assert {need.value for need in Need} == {"pairs", "demonstrations", "rewards", "reference", "values"}
