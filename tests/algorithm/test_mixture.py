import dataclasses
from functools import partial

import pytest
import torch

import rlx
from rlx.algorithm import Algorithm
from rlx.algorithm.combine import Sum
from rlx.algorithm.mixture import Mixture, MixtureBatch, MixtureTerm
from rlx.errors import ConfigError
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Optimizer
from rlx.seeding import Stream
from rlx.training.gradients import AccumulatedGradients

pytestmark = pytest.mark.whole


def dpo(**changes):
    return rlx.load("algorithm", "custom_dpo", **{"pairs_per_step": 6, **changes})


def sft(**changes):
    return rlx.load("algorithm", "sft", **{"pairs_per_step": 4, **changes})


def mixture(**terms):
    made = {
        name: term if isinstance(term, MixtureTerm) else MixtureTerm(algorithm=term[0], weight=term[1])
        for name, term in terms.items()
    }
    return Mixture(terms=made, combine=Sum(), schedule_steps=None, adaptive_gradient_clipping=None, max_grad_norm=None)


def gradient(algorithm, lab, micro_batch=None):
    source = AccumulatedGradients(algorithm, lab.policy, lab.reference, algorithm.draw(lab), micro_batch=micro_batch)
    return torch.cat([part.reshape(-1) for part in source()["loss"] if part is not None]), source.metrics


def test_the_loss_is_the_weighted_sum_of_the_terms_alone(lab):
    both, figures = gradient(mixture(a=(dpo(), 0.25), b=(sft(), 2.0)), lab)
    alone = [gradient(algorithm, lab) for algorithm in (dpo(), sft())]
    torch.testing.assert_close(both, 0.25 * alone[0][0] + 2.0 * alone[1][0], atol=1e-7, rtol=1e-4)
    assert figures["loss"] == pytest.approx(0.25 * alone[0][1]["loss"] + 2.0 * alone[1][1]["loss"])
    assert figures["a/margin"] == pytest.approx(alone[0][1]["margin"])
    for micro_batch in (99, 3):  # rows of the two terms lie in one slice, and in several
        _, figures = gradient(mixture(a=(dpo(), 0.25), b=(sft(), 2.0)), lab, micro_batch)
        assert [figures["a/loss"], figures["b/loss"]] == pytest.approx([part["loss"] for _, part in alone])


@pytest.mark.parametrize("micro_batch", [1, 4, 5])
def test_a_cut_may_go_through_a_term(lab, micro_batch):
    algorithm = mixture(a=(dpo(), 0.5), b=(sft(), 0.5))
    whole, parts = gradient(algorithm, lab, 99)[0], gradient(algorithm, lab, micro_batch)[0]
    torch.testing.assert_close(parts, whole, atol=1e-9, rtol=1e-9)


def test_a_term_of_weight_zero_is_not_drawn(lab):
    class Never(Algorithm):
        kind, needs = Algorithm, frozenset()

        def draw(self, lab):
            raise AssertionError("drawn")

    assert set(mixture(a=(dpo(), 1.0), b=(Never(), 0.0)).draw(lab).parts) == {"a"}


def moved(algorithm, lab):
    """The parameters after two steps, and the figures of their updates."""
    figures = []
    policy = lab.policy.frozen_copy()
    policy.model.requires_grad_(True)
    lab = dataclasses.replace(lab, policy=policy)
    optimizer = Optimizer(
        partial(torch.optim.AdamW, lr=0.01), policy.parameters(), schedule=Constant(warmup_steps=0), num_steps=2
    )
    for step in range(2):
        batch = algorithm.draw(dataclasses.replace(lab, step=step))
        for part in algorithm.updates(batch, Stream(0)):
            source = AccumulatedGradients(algorithm, policy, lab.reference, part, micro_batch=4)
            figures.append(algorithm.update_policy(source, optimizer))
    return [parameter.detach().clone() for parameter in policy.parameters()], figures


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.01}, {"adaptive_gradient_clipping": 0.001}])
def test_with_one_term_of_weight_one_it_is_that_algorithm_to_the_last_bit(lab, settings):
    both = (dpo(**settings), mixture(a=(dpo(**settings), 1.0), b=(sft(), 0.0)))
    (alone, figures), (mixed, of_mixture) = (moved(algorithm, lab) for algorithm in both)
    assert all(torch.equal(a, b) for a, b in zip(alone, mixed, strict=True))
    assert [{name: line[name] for name in figures[0]} for line in of_mixture] == figures
    assert any(line["grad_norm"] > line["grad_norm_clipped"] for line in figures) == bool(settings)


def test_weights_move_in_a_straight_line(lab):
    term = MixtureTerm(algorithm=dpo(), weight=1.0, final_weight=0.0)
    algorithm = dataclasses.replace(mixture(a=term, b=(sft(), 0.5)), schedule_steps=10)
    weights = [algorithm.draw(dataclasses.replace(lab, step=step)).weights for step in (0, 5, 10, 20)]
    assert [weight.get("a") for weight in weights] == [1.0, 0.5, None, None]
    assert {weight["b"] for weight in weights} == {0.5}


def test_norms_and_angles_of_the_terms_are_logged(lab):
    algorithm = mixture(a=(dpo(), 0.5), b=(sft(), 0.5))
    policy = lab.policy.frozen_copy()
    policy.model.requires_grad_(True)
    optimizer = Optimizer(partial(torch.optim.SGD, lr=0.0), policy.parameters(), schedule=Constant(warmup_steps=0), num_steps=2)
    figures = algorithm.update_policy(
        AccumulatedGradients(algorithm, policy, lab.reference, algorithm.draw(lab), micro_batch=None), optimizer
    )
    assert -1 <= figures["grad_cosine/a_b"] <= 1
    assert figures["a/grad_norm"] > 0


def test_each_terms_state_is_its_own(lab):
    class Counting(Algorithm):
        kind, needs = Algorithm, frozenset()

        def draw(self, lab):
            lab.state["n"] = lab.state.get("n", torch.zeros(())) + 1
            return lab.pairs(2)

    state = {}
    for _ in range(2):
        mixture(a=(Counting(), 1.0), b=(Counting(), 1.0)).draw(dataclasses.replace(lab, state=state))
    assert {name: value.item() for name, value in state.items()} == {"a/n": 2.0, "b/n": 2.0}


def test_slices_of_a_batch_add_up_to_it(lab):
    batch = mixture(a=(dpo(), 1.0), b=(sft(), 1.0)).draw(lab)
    assert len(batch) == 10
    assert [len(batch[rows]) for rows in (slice(0, 3), slice(3, 8), slice(8, 99))] == [3, 5, 2]
    assert set(batch[7:9].parts) == {"b"}
    assert batch.row_tokens == [*batch.parts["a"].row_tokens, *batch.parts["b"].row_tokens]
    assert isinstance(batch[2:8], MixtureBatch)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"a": (0.0,)}, "every term of the mixture has weight 0"),
        ({"a": (-1.0,)}, "weight of MixtureTerm is -1.0"),
        ({"a/b": (1.0,)}, "slash"),
    ],
)
def test_terms_that_cannot_be_are_refused(terms, message):
    with pytest.raises(ConfigError, match=message):
        mixture(**{name: (dpo(), weight) for name, (weight,) in terms.items()})


def test_a_term_with_its_own_update_is_refused():
    class Own(Algorithm):
        kind, needs = Algorithm, frozenset()

        def update_policy(self, gradients, optimizer):
            return {}

    with pytest.raises(ConfigError, match="update_policy of its own"):
        mixture(a=(Own(), 1.0))
