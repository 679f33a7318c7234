from dataclasses import dataclass

import pytest
from torch import Tensor

from rlx.check.law.loss import hyperparameters_matter, variants
from rlx.fields import within
from rlx.loss import ScoreLoss, Scores
from tests.loss.catalogue import NAMES, load

# The likelihood term of this mixture's first part is switched off, for another part has it.
WITHOUT_LIKELIHOOD = {"cpo_token_mean": "changing parts.cpo.loss.nll_reduction changes"}


@pytest.mark.parametrize("name", NAMES)
def test_every_hyperparameter_of_every_loss_matters(name):
    broken = hyperparameters_matter(load(name))
    assert broken is None if name not in WITHOUT_LIKELIHOOD else str(broken).startswith(WITHOUT_LIKELIHOOD[name])


@dataclass(frozen=True, kw_only=True)
class Ignores(ScoreLoss):
    beta: float = within(above=0)
    ornament: float = within()

    def of_scores(self, scores: Scores) -> Tensor:
        return -self.beta * scores.margin


def test_a_hyperparameter_without_effect_is_named():
    broken = hyperparameters_matter(Ignores(beta=0.1, ornament=1.0))
    assert broken is not None
    assert "ornament" in broken
    assert "beta" not in broken


def test_variants_reach_modifiers_weighting_and_parts():
    assert {name for name, _ in variants(load("grpo"))} >= {"weighting.count_empty", "clip_low", "kl_estimator", "beta"}
    assert "modifiers.length.alpha" in {name for name, _ in variants(load("ld_dpo"))}
    assert {"parts.dpo.coefficient", "parts.dpo.loss.beta"} <= {name for name, _ in variants(load("mixture"))}
