"""The law of hyperparameters; and on random tensors, that every hyperparameter of every shipped loss matters."""

from dataclasses import replace

import pytest

from rlx.check.law.hyperparameter import LEARNING, NOTHING, journey
from rlx.check.law.loss import case_of
from rlx.check.variant import variants
from rlx.loss import PolicyGradientLoss
from tests.check.checking import failed, subject
from tests.check.faulty import Preferences
from tests.check.sound import SignsAlone
from tests.loss.catalogue import NAMES, load

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
