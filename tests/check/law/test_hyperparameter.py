"""The law of hyperparameters; and on random tensors, that every hyperparameter of every shipped loss matters."""

from dataclasses import dataclass, make_dataclass, replace

import pytest
import torch

import rlx
from rlx.algorithm import LossOutput, mean_of
from rlx.check.checker import LAWS, tried
from rlx.check.finding import PASSED, passed
from rlx.check.journey import LEARNING, NOTHING, journey
from rlx.check.law.hyperparameter import Known
from rlx.check.law.loss import case_of
from rlx.check.variant import variants
from rlx.fields import count
from rlx.loss import PolicyGradientLoss
from rlx.loss.weight import token_mean
from rlx.rollout.draw import sample_groups
from rlx.rollout.rollouts import RolloutBatch
from tests.check.checking import failed, subject
from tests.check.faulty import Preferences, Rewards
from tests.check.sound import SignsAlone
from tests.loss.catalogue import NAMES, load

pytestmark = pytest.mark.whole

# The likelihood term of this mixture's first part is switched off, for another part has it.
WITHOUT_LIKELIHOOD = {"cpo_token_mean": ["parts.cpo.loss.nll_reduction"]}


def test_an_error_of_the_algorithm_as_it_is_set_is_no_other_value_refused():
    class Refuses(Preferences):
        def draw(self, lab):
            raise RuntimeError("not here")

    assert "RuntimeError: not here" in failed(Refuses(), "hyperparameters")["hyperparameters"].wrong


def test_the_same_steps_do_not_differ_and_other_values_do():
    known = subject(SignsAlone())
    first = journey(known, 0.4)
    assert first.difference(journey(known, 0.4)) == NOTHING
    assert first.difference(journey(known.with_algorithm(SignsAlone(beta=0.3)), 0.4)) == LEARNING


@dataclass(frozen=True, kw_only=True)
class Replay(Rewards):
    """Learns from earlier groups too."""

    capacity: int = 128

    def draw(self, lab):
        fresh = super().draw(lab)
        buffer = lab.buffer(self.capacity)
        batch = RolloutBatch.join([fresh, buffer.sample(4)]) if len(buffer) else fresh
        buffer.add(fresh)
        mask = batch.loss_mask
        centred = batch.rewards - batch.rewards.mean(dim=1, keepdim=True)
        return batch.with_values(advantages=centred, weights=mask / mask.sum().clamp(min=1), metrics=fresh.metrics)


@dataclass(frozen=True, kw_only=True)
class LargeReplay(Replay):
    """No legal capacity is small enough for a check to fill."""

    capacity: int = count(at_least=100, default=128)


def found(algorithm):
    return LAWS["hyperparameters"](subject(algorithm))


def test_the_capacity_of_a_replay_buffer_is_tried_where_it_acts():
    assert found(Replay()) == passed("5 of 5")


def test_a_capacity_that_no_check_reaches_is_not_accused():
    assert found(LargeReplay()) == passed("4 of 5; not reached here: capacity")


def logs(name, value):
    """DPO that multiplies a logged figure by a hyperparameter of this name, and nothing that is learned."""

    def compute_loss(self, policy, reference, batch):
        output = super(kind, self).compute_loss(policy, reference, batch)
        figure = next(iter(output.terms.values())).values * getattr(self, name)
        return LossOutput(output.terms, {**output.metrics, "scaled": mean_of(figure)})

    own = {"compute_loss": compute_loss, "__doc__": "A figure alone."}
    kind = make_dataclass("Logs", [(name, type(value), value)], bases=(Preferences,), namespace=own, frozen=True, kw_only=True)
    return kind()


@pytest.mark.parametrize("name", ["log_barrier", "logit_scale", "symmetric_weight", "evaluated_beta"])
def test_a_word_within_a_name_does_not_make_it_an_option_of_figures(name):
    assert f"{name} changes figures that are logged" in found(logs(name, 0.5)).wrong


@pytest.mark.parametrize(("name", "value"), [("far_threshold", 0.5), ("log_size", 2), ("metric_quantile", 0.5)])
def test_an_option_of_figures_is_counted_as_one(name, value):
    assert found(logs(name, value)) == passed(f"4 of 5; only logged: {name}")


def test_a_journey_is_cut_where_it_departs_and_made_whole_where_it_is_held_against_another():
    whole, other = Known(subject(SignsAlone())), SignsAlone(beta=0.3)
    first = whole.journey(SignsAlone(), 0.4)
    cut = whole.journey(other, 0.4, against=first)
    assert cut.cut is first
    assert len(cut.policy) == 1 < len(first.policy)
    assert first.difference(cut) == LEARNING
    assert whole.journey(other, 0.4, against=first) is cut
    again = whole.journey(other, 0.4)
    assert again.cut is None
    assert len(again.policy) == len(first.policy)
    assert journey(subject(SignsAlone()), 0.4, against=first).cut is None  # it departs nowhere


def outcome(case):
    total, gradients = case.gradients()
    return (float(total), *(float(gradient.abs().sum()) for gradient in gradients.values()))


@pytest.mark.parametrize("name", NAMES)
def test_every_hyperparameter_of_every_loss_changes_the_loss_or_its_gradient(name):
    loss = load(name)
    if isinstance(loss, PolicyGradientLoss) and loss.beta == 0:
        loss = replace(loss, beta=0.1)  # the choices of the KL matter only where there is one
    alive = {}
    for path, changed in variants(loss):
        sizes = {"rows": 8, "spread": 0.5}, {"rows": 8, "spread": 2.0}, {"rows": 40, "spread": 2.0}
        alive[path] = alive.get(path, False) or any(
            outcome(case_of(loss, **size)) != outcome(case_of(changed, **size)) for size in sizes
        )
    assert [path for path, matters in alive.items() if not matters] == WITHOUT_LIKELIHOOD.get(name, [])


def test_variants_reach_modifiers_weighting_and_parts():
    assert {name for name, _ in variants(load("grpo"))} >= {"weighting.count_empty", "clip_low", "kl_estimator", "beta"}
    assert "modifiers.length.alpha" in {name for name, _ in variants(load("ld_dpo"))}
    assert {"parts.dpo.coefficient", "parts.dpo.loss.beta"} <= {name for name, _ in variants(load("mixture"))}


@pytest.mark.parametrize("seed", [6, 7])
def test_tries_that_matter_where_the_first_ones_fail_are_waited_for(seed):
    found, _ = tried(LAWS["hyperparameters"], replace(subject(rlx.load("algorithm", "dapo")), seed=seed))
    assert found.status == PASSED


@dataclass(frozen=True, kw_only=True)
class ChoosesByChance(Rewards):
    """Prompts by the chance of success so far; a floor of these chances seldom moves a choice within a few steps."""

    prompts_per_step: int = 16
    floor: float = 0.1

    def draw(self, lab):
        total = len(lab.task.prompts())
        success = lab.state.get("success", torch.full((total,), 0.5, dtype=torch.float64)).clone()
        chances = (success * (1 - success) + self.floor).numpy()
        rng = lab.rng.child("curriculum", lab.step).numpy()
        rows = rng.choice(total, size=self.prompts_per_step, replace=False, p=chances / chances.sum())
        batch = sample_groups(lab, rows, group_size=self.group_size)
        keys = torch.tensor(batch.prompt_keys)
        success[keys] = 0.999 * success[keys] + 0.001 * batch.rewards.mean(dim=1).double()
        lab.state["success"] = success
        return batch.with_values(advantages=self.advantages(batch.rewards), weights=token_mean.formula(batch.loss_mask))


def test_what_moves_chances_is_not_called_dead():
    assert failed(ChoosesByChance(), "hyperparameters") == {}


@dataclass(frozen=True, kw_only=True)
class LevelOfThePrompt(Rewards):
    """A running mean of the rewards of each prompt is its baseline; at its first visit that is the mean of the group."""

    decay: float = 0.7

    def draw(self, lab):
        batch = super().draw(lab)
        keys = torch.tensor(batch.prompt_keys)
        levels = lab.state.get("levels", torch.full((len(lab.task.prompts()),), float("nan"))).clone()
        now = batch.rewards.mean(dim=1).to(levels)
        levels[keys] = torch.where(levels[keys].isnan(), now, self.mixed(levels[keys], now))
        lab.state["levels"] = levels
        return batch.with_values(advantages=batch.rewards - levels[keys][:, None])

    def mixed(self, before, now):
        return self.decay * before + (1 - self.decay) * now


class LevelBefore(LevelOfThePrompt):
    """The level counts before it is moved on, from the second visit on, so that its decay does from the third on."""

    def draw(self, lab):
        keys = torch.tensor((batch := Rewards.draw(self, lab)).prompt_keys)
        start = torch.full((len(lab.task.prompts()),), float("nan"))
        levels = lab.state.get("levels", start).clone()
        now = batch.rewards.mean(dim=1).to(levels)
        before = torch.where(levels[keys].isnan(), now, levels[keys])
        levels[keys] = torch.where(levels[keys].isnan(), now, self.mixed(levels[keys], now))
        lab.state["levels"] = levels
        return batch.with_values(advantages=batch.rewards - before[:, None])


class LevelThatCancels(LevelOfThePrompt):
    def mixed(self, before, now):
        return self.decay * before + (1 - self.decay) * before


def test_what_lasts_of_a_prompt_is_tried_where_prompts_come_again():
    assert failed(LevelOfThePrompt(), "hyperparameters") == {}
    assert failed(LevelBefore(), "hyperparameters") == {}
    assert "changing decay changes nothing" in failed(LevelThatCancels(), "hyperparameters")["hyperparameters"].wrong


def test_a_term_of_weight_nothing_is_idle_on_purpose():
    mixture = rlx.load("algorithm", "mixture")
    off = replace(mixture, terms={**mixture.terms, "preference": replace(mixture.terms["preference"], weight=0.0)})
    finding = LAWS["hyperparameters"](subject(off))
    assert finding.status == PASSED
    assert "not read here: terms.preference.algorithm.max_grad_norm" in finding.number
    assert "preference.weight" not in finding.number
    assert "not read here: terms.likelihood" not in finding.number
