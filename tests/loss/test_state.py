import math

import pytest
import torch
import torch.nn.functional as F

from rlx.errors import ConfigError, DataError, NonFiniteError, ShapeError
from rlx.loss import PairLogprobs, completion_advantage, policy_gradient_loss, preference_loss, running_mean
from rlx.loss.state import LossStates, losses_with_state, without_state
from rlx.report.card import card_of


@preference_loss(state={"usual": running_mean("margin", decay="decay", start=0.5)})
def with_usual(margin, usual, *, beta=0.1, decay=0.8):
    return -F.logsigmoid(beta * (margin - usual))


@preference_loss(state={"mean": running_mean("margin"), "spread": running_mean(lambda margin, mean: (margin - mean) ** 2)})
def with_spread(margin, mean, spread):
    return -F.logsigmoid((margin - mean) / (1 + spread))


def pairs(*margins):
    """Pairs of completions of one token with these margins, and a reference that has none."""
    chosen, rejected = torch.tensor(margins)[:, None] - 5.0, torch.full((len(margins), 1), -5.0)
    mask = torch.ones_like(chosen, dtype=torch.bool)
    return PairLogprobs(chosen, rejected, mask, mask), PairLogprobs(rejected, rejected, mask, mask)


def once(states, loss, *batches):
    """One update whose rows come in these micro-batches; the values of the loss."""
    record, values = {}, []
    for batch in batches:
        with states.recording() as found:
            values += loss(*batch).tolist()
        for name, (total, count) in found.items():
            before = record.get(name, (0.0, 0.0))
            record[name] = (before[0] + total, before[1] + count)
    states.learn(record)
    return values


def test_outside_of_a_run_a_state_is_at_its_start():
    assert with_usual()(*pairs(2.0)).tolist() == pytest.approx([-math.log(1 / (1 + math.exp(-0.1 * 1.5)))])
    assert with_usual.formula(torch.tensor(2.0), torch.tensor(2.0)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("cut", [[[1.0, 2.0, 6.0]], [[1.0], [2.0], [6.0]], [[1.0, 2.0], [6.0]]])
def test_it_moves_once_an_update_by_the_mean_over_all_rows_however_they_are_cut(cut):
    loss = with_usual()
    states = LossStates.of({"loss": loss})
    values = once(states, loss, *(pairs(*rows) for rows in cut))
    assert values == pytest.approx([-math.log(1 / (1 + math.exp(-0.1 * (margin - 0.5)))) for margin in (1.0, 2.0, 6.0)])
    assert states.values == pytest.approx({"loss/usual": 0.8 * 0.5 + 0.2 * 3.0})
    once(states, loss, pairs(1.0))
    assert states.values["loss/usual"] == pytest.approx(0.8 * 1.0 + 0.2 * 1.0)
    assert states.figures() == {"state/usual": states.values["loss/usual"]}


def test_a_state_can_be_made_of_another_as_that_was_before_the_update():
    loss = with_spread()
    states = LossStates.of({"loss": loss})
    once(states, loss, pairs(2.0, 4.0))
    assert states.values == pytest.approx({"loss/mean": 0.3, "loss/spread": 1.0})
    once(states, loss, pairs(0.3, 2.3))
    assert states.values == pytest.approx({"loss/mean": 0.9 * 0.3 + 0.1 * 1.3, "loss/spread": 0.9 + 0.1 * 2.0})


def test_it_is_a_constant_and_what_it_is_made_of_takes_no_gradient_away():
    loss, (policy, reference) = with_usual(), pairs(1.0, 3.0)
    policy.chosen.requires_grad_()
    with LossStates.of([loss]).recording() as record:
        total = loss(policy, reference).sum()
    (slope,) = torch.autograd.grad(total, policy.chosen)
    expected = [-0.1 * torch.sigmoid(torch.tensor(-0.1 * (margin - 0.5))).item() for margin in (1.0, 3.0)]
    assert slope[:, 0].tolist() == pytest.approx(expected)
    assert record == {"0/usual": (pytest.approx(4.0), 2.0)}


def test_an_update_without_a_row_leaves_it_where_it_was():
    loss = with_usual()
    states = LossStates.of([loss])
    states.learn({"0/usual": (0.0, 0.0)})
    assert states.values == {"0/usual": 0.5}


def test_in_a_policy_gradient_a_value_a_token_is_averaged_over_tokens_and_a_value_a_row_over_rows():
    @policy_gradient_loss(
        state={
            "by_token": running_mean("advantages", decay=0.0),
            "by_row": running_mean(lambda advantages: advantages[:, 0], decay=0.0),
        }
    )
    def baseline(ratio, advantages, by_token, by_row):
        return -ratio * (advantages - by_token - by_row)

    loss, mask = baseline(), torch.tensor([[True, True, True], [True, False, False]])
    states, logprobs = LossStates.of([loss]), torch.full((2, 3), -1.0)
    with states.recording() as record:
        loss(logprobs, logprobs, torch.tensor([1.0, 5.0]), mask)
    states.learn(record)
    assert states.values == pytest.approx({"0/by_token": 8 / 4, "0/by_row": 6 / 2})
    with states.bound():
        values = loss(logprobs, logprobs, torch.tensor([1.0, 5.0]), mask)
    assert values.tolist() == [[4.0, 4.0, 4.0], [0.0, 0.0, 0.0]]


def test_two_losses_have_states_of_their_own_and_one_at_two_places_has_one():
    one, other = with_usual(), with_usual()
    assert set(losses_with_state({"a": {"loss": one}, "b": [other, one]})) == {"a.loss", "b.0"}
    states = LossStates.of({"terms": {"a": {"loss": one}, "b": {"loss": other}}})
    once(states, one, pairs(10.5))
    assert states.values == pytest.approx({"terms.a.loss/usual": 0.4 + 2.1, "terms.b.loss/usual": 0.5})
    assert set(states.figures()) == {"a/state/usual", "b/state/usual"}


def test_a_loss_that_no_field_holds_is_refused_in_a_run():
    with LossStates.of({}).bound(), pytest.raises(ConfigError, match="keeps usual over updates, but no field of the algorithm"):
        with_usual()(*pairs(1.0))


def test_where_no_state_can_be_it_is_refused_with_the_reason():
    with without_state("for a reason"), pytest.raises(ConfigError, match="with_usual keeps usual over updates: for a reason"):
        with_usual()(*pairs(1.0))


def test_a_checkpoint_of_other_losses_is_refused():
    states = LossStates.of({"loss": with_usual()})
    states.restore({"loss/usual": 7.0})
    assert states.values == {"loss/usual": 7.0}
    for values, said in (
        ({}, "no value of loss/usual"),
        ({"loss/usual": 1.0, "loss/other": 1.0}, "loss/other, which no loss of this run keeps"),
        ({"loss/usual": math.nan}, "not a finite number"),
        ({"loss/usual": "1"}, "not a finite number"),
    ):
        with pytest.raises(DataError, match=said):
            states.restore(values)


def test_a_mean_that_is_not_finite_ends_the_run_and_names_the_state():
    loss = with_usual()
    states = LossStates.of({"loss": loss})
    with pytest.raises(NonFiniteError, match=r"the state usual of loss \(with_usual\) is not finite"):
        once(states, loss, pairs(1.0, math.inf))


def test_a_mean_that_is_reduced_already_is_refused():
    @preference_loss(state={"usual": running_mean(lambda margin: margin.mean())})
    def reduced(margin, usual):
        return margin - usual

    loss = reduced()
    with LossStates.of([loss]).recording(), pytest.raises(ShapeError, match=r"shape \(\); it must be \(2,\): one value a row"):
        loss(*pairs(1.0, 2.0))


def test_what_a_state_reads_is_asked_of_the_policy_too():
    @preference_loss(state={"usual": running_mean("score_gap")})
    def scored(policy_margin, usual):
        return policy_margin - usual

    assert scored.requires == {"scores"}
    assert not scored.needs_reference
    assert with_usual.needs_reference

    @policy_gradient_loss(state={"usual": running_mean(lambda entropy, reference_logprobs: entropy + reference_logprobs)})
    def surprised(ratio, usual):
        return -ratio * usual

    assert surprised().requires == {"entropy"}
    assert surprised().needs_reference


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, True, "soon"])
def test_a_decay_is_below_one_or_the_name_of_a_hyperparameter(decay):
    with pytest.raises(ConfigError, match="decay"):

        @preference_loss(state={"usual": running_mean("margin", decay=decay)})
        def loss(margin, usual):
            return margin - usual


def test_a_hyperparameter_that_is_a_decay_is_held_to_the_range_of_one():
    with pytest.raises(ConfigError, match=r"decay of with_usual is 1\.0, and it is the decay of its state usual"):
        with_usual(decay=1.0)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"usual": 0.0}, "write running_mean"),
        ({"margin": running_mean("chosen")}, "the name of an input"),
        ({"beta": running_mean("chosen")}, "the name of a hyperparameter"),
        ({"usual": running_mean("margins")}, "made of margins, which is not an input"),
        ({"usual": running_mean("margin"), "unused": running_mean("margin")}, "never reads its state unused"),
    ],
)
def test_states_that_make_no_sense_are_refused(state, said):
    def loss(margin, usual, *, beta=0.1):
        return margin - usual

    with pytest.raises(ConfigError, match=said):
        preference_loss(state=state)(loss)


@pytest.mark.parametrize("given", [{"start": math.inf}, {"start": True}])
def test_a_start_is_a_finite_number(given):
    with pytest.raises(ConfigError, match="start"):
        running_mean("margin", **given)


def test_what_is_no_loss_of_pairs_or_samples_takes_no_state():
    with pytest.raises(ConfigError, match="@completion_advantage takes no state"):
        completion_advantage(state={"usual": running_mean("margin")})


def test_the_card_shows_it():
    assert "  state     usual, running mean of margin over updates, decay=decay, from 0.5" in card_of(with_usual()).lines()
