import pytest

import rlx
from rlx.errors import ConfigError


def test_its_terms_are_custom_dpo_and_custom_grpo():
    hybrid = rlx.load("algorithm", "hybrid", dpo_weight=0.2, **{"dpo.loss.beta": 0.3, "grpo.group_size": 4})
    assert {name: (type(term.algorithm).__name__, term.weight) for name, term in hybrid.terms.items()} == {
        "dpo": ("CustomDpo", 0.2),
        "grpo": ("CustomGrpo", 0.5),
    }
    assert hybrid.dpo.loss.beta == 0.3
    assert hybrid.grpo.group_size == 4


def test_needs_are_those_of_the_terms_that_are_drawn():
    names = {
        weights: {
            need.value for need in rlx.load("algorithm", "hybrid", dpo_weight=weights[0], grpo_weight=weights[1]).active_needs
        }
        for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))
    }
    assert names == {(1.0, 0.0): {"pairs", "reference"}, (0.0, 1.0): {"rewards"}, (0.5, 0.5): {"pairs", "reference", "rewards"}}


def test_weights_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.dpo_weight=-0\.5"):
        rlx.load("algorithm", "hybrid", dpo_weight=-0.5)
    with pytest.raises(ConfigError, match="weight 0"):
        rlx.load("algorithm", "hybrid", dpo_weight=0.0, grpo_weight=0.0)
