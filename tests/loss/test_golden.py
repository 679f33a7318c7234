"""Numbers worked out from the formula of each paper by hand, in plain Python, on the golden batches.

They were also what the code of TRL, verl, OpenRLHF, NeMo-Aligner, HALOs and slime gives, for every formula that these have.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.loss import PairLogprobs
from tests.loss.catalogue import NAMES, golden_pairs, golden_rollouts, load
from tests.loss.policy_gradient.test_token import GOLDEN as OLDER_ROLLOUTS
from tests.loss.preference.test_margin import GOLDEN as OLDER_PAIRS

Case = tuple[str, dict[str, Any], float]

PAIRS: list[Case] = [
    ("dpo_robust", {"label_smoothing": 0.1}, 0.6363600826),
    ("exo", {}, 2.6018937652),
    ("bco", {}, 1.3408960682),
    ("bco", {"reward_shift": 0.3}, 1.3670052675),
    ("sppo", {}, 41.6816666667),
    ("aot", {}, 0.6479892760),
    ("aot", {"label_smoothing": 0.1}, 0.6573226093),
    ("aot_unpaired", {}, 0.6478711281),
    ("apo_down", {}, 0.9821180066),
    ("discopop", {}, 0.8592871105),
    ("slic", {}, 0.1350000000),
    ("slic", {"nll_reduction": "sequence_mean"}, 0.0577777778),
    ("cpo", {}, 1.1831279638),
    ("cpo_token_mean", {}, 1.1839216145),
    ("orpo", {}, 0.6205658145),
    ("nll", {}, 0.5785714286),
    ("nll_sequence_mean", {}, 0.5777777778),
    ("nll_sequence_sum", {}, 1.3500000000),
    ("dpop", {}, 0.7010175689),
    ("r_dpo", {}, 0.6528062815),
    ("odpo", {}, 0.6580907919),
    ("cal_dpo", {"beta": 0.1}, 42.0488168003),
    ("simper", {}, -0.2013951608),
    ("alpha_po", {}, 0.5857530890),
    ("tdpo", {}, 0.6510809754),
    ("kto", {}, 0.4883452087),
    ("kto", {"desirable_weight": 1.2, "undesirable_weight": 0.7}, 0.4677780174),
    ("kto_pair", {}, 0.4856370130),
    ("rpo_squared", {}, 1.4680500000),
    ("rpo_backward_kl", {}, 0.1270295316),
    ("rpo_forward_kl", {}, 0.1606638108),
    ("dpo_forward_kl", {}, 0.6406294124),
    ("dpo_jensen_shannon", {}, 0.6697561849),
    ("dpo_alpha_divergence", {}, 0.6457456315),
    ("ld_dpo", {}, 0.6490081721),
    ("wpo", {}, 1.5329190844),
    ("dpo_reference_free", {}, 0.6053501860),
    ("humanline_dpo", {"modifiers": {"clamp": {"log_ratio_low": -0.2, "log_ratio_high": 0.15}}}, 0.6857086362),
    ("mixture", {}, 1.3651720416),
    ("dpo_normalized", {}, 0.3395393368),
    ("dpo_nll", {}, 1.2258045271),
    ("tr_dpo", {}, 0.6480267493),
    ("dpo_shift", {}, 0.6566201444),
    ("chi_po", {}, 0.6029253971),
    ("chi_po", {"reward_bound": 0.05}, 0.6533576181),
    ("focal_po", {}, 0.6273271173),
    ("focal_po", {"focus": 2.0}, 0.1771444105),
    ("dr_dpo", {}, 0.6476135253),
    ("dr_dpo", {"robustness": 0.2}, 0.6459336597),
    ("rebel", {}, 1.1250000000),
    ("rebel", {"step_size": 0.5}, 3.0966666667),
    ("repo", {}, 0.2555555556),
    ("repo", {"gamma": 1.0}, 0.5888888889),
    ("dft", {}, 0.2808006412),
]
ROLLOUTS: list[Case] = [
    ("reinforce", {}, 0.0857142857),
    ("rloo", {}, 0.3000000000),
    ("dapo", {}, 0.0233487663),
    ("dr_grpo", {}, 0.0002182045),
    ("dual_clip", {"dual_clip": 1.3}, -0.0063267782),
    ("capped", {"ratio_cap": 1.3}, -0.0063267782),
    ("gspo", {}, 0.0531047656),
    ("luspo", {}, -0.0190654687),
    ("gmpo", {"clip_low": 0.1, "clip_high": 0.1}, 0.0848760778),
    ("cispo", {}, 0.1205954522),
    ("cispo_cap", {"ratio_cap": 1.3}, 0.1103695222),
    ("sapo", {}, -0.0069217958),
    ("vespo", {}, -0.1051014650),
    ("dro", {}, 0.0886428571),
    ("dppo_tv", {"divergence_low": 0.1, "divergence_high": 0.1}, 0.0230818856),
    ("dppo_kl", {"divergence_low": 0.02, "divergence_high": 0.02}, 0.0230818856),
    ("topr", {"ratio_cap": 0.5}, 0.2678571429),
    ("aspo", {}, 0.8435991492),
    ("aspo", {"inverse_cap": 1.0}, 0.7990310467),
    (
        "dispo",
        {"positive_low": 0.1, "positive_high": 0.1, "negative_low": 0.2, "negative_high": 0.3},
        0.0642041052,
    ),
    ("ce_gppo", {}, 0.0212059092),
    ("dcpo", {}, -0.0188340304),
    ("dcpo", {"width_low": 0.02, "width_high": 0.02}, 0.0576363454),
    ("gspo_token", {}, 0.0531047656),
    ("opmd", {}, 0.3812500000),
    ("opmd", {"tau": 0.5}, 0.6937500000),
    ("kl_cov", {"share": 0.2}, 0.0247314143),
    ("clip_cov", {"share": 1.0, "covariance_low": 0.1, "covariance_high": 2.0}, 0.0022035564),
]


def tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def full_pairs() -> tuple[PairLogprobs, PairLogprobs]:
    """The golden pairs with every input that a loss may name."""
    policy, reference = golden_pairs()
    spread = {}
    for side, sums in (("chosen", [0.3, 0.1, 0.2]), ("rejected", [0.5, 0.45, 0.05])):
        mask = getattr(policy, f"{side}_mask")
        spread[f"{side}_vocabulary_kl"] = tensor([[value] for value in sums]) * mask / mask.sum(dim=1, keepdim=True)
        spread[f"{side}_sum_p_squared"] = torch.full(mask.shape, 0.3, dtype=torch.float64)
    scores, mismatched = tensor([[3, 1], [2, 1.5], [0.9, 0.1]]), tensor([[-3, -2.5], [-1, -4], [-2, -2.2]])
    policy = replace(policy, scores=scores, mismatched=mismatched, **spread)
    return policy, replace(reference, mismatched=tensor([[-3.6, -2.4], [-2, -4.5], [-1.5, -2.9]]))


@pytest.mark.parametrize(
    ("name", "overrides", "expected"), PAIRS, ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(PAIRS)]
)
def test_a_preference_loss_is_the_formula_of_its_paper(name, overrides, expected):
    loss, (policy, reference) = load(name, **overrides), full_pairs()
    values = loss(policy, reference if loss.needs_reference else None)
    masks = torch.stack([policy.chosen_mask, policy.rejected_mask], dim=1)
    for mask in (policy.chosen_mask, masks):
        assert (loss.weights(mask) * values).sum().item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "overrides", "expected"), ROLLOUTS, ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(ROLLOUTS)]
)
def test_a_policy_gradient_loss_is_the_formula_of_its_paper(name, overrides, expected):
    loss, rollouts = load(name, **overrides), golden_rollouts()
    rng = {"rng": torch.Generator().manual_seed(0)} if "rng" in loss.requires else {}
    total = (loss.weights(rollouts["completion_mask"]) * loss(**rollouts, **rng)).sum()
    assert total.item() == pytest.approx(expected, abs=1e-9)


def test_every_formula_has_a_golden_number():
    """A loss that is added brings its own, worked out by hand."""
    known = [name for name, _, _ in (*PAIRS, *ROLLOUTS, *OLDER_PAIRS, *OLDER_ROLLOUTS)]
    assert {type(load(name)) for name in NAMES} == {type(load(name)) for name in known}


@pytest.mark.parametrize("name", NAMES)
def test_an_option_with_the_name_of_its_formula_has_its_defaults(name):
    """A YAML gives other defaults a name; where it has the name of the function, both say the same."""
    loss = load(name)
    assert type(loss).__name__ != name or loss == type(loss)()
