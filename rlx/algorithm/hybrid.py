"""The mixture of two: preferences and rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlx.algorithm.base import Algorithm
from rlx.algorithm.mixture import Mixture, MixtureTerm


@dataclass(frozen=True, kw_only=True)
class Hybrid(Mixture):
    """dpo_weight · (a preference algorithm's loss) + grpo_weight · (a policy-gradient algorithm's loss).

    dpo, grpo: the two algorithms, custom_dpo and custom_grpo by default (algorithm@algorithm.dpo=dpo); their losses are chosen by
    loss@algorithm.dpo.loss=ipo and set by algorithm.dpo.loss.beta=0.2.
    final_dpo_weight, final_grpo_weight: reached in a straight line after schedule_steps; null = constant.
    """

    terms: Mapping[str, MixtureTerm] = field(init=False, repr=False)  # made of the fields below
    dpo: Algorithm[Any]
    grpo: Algorithm[Any]
    dpo_weight: float
    grpo_weight: float
    final_dpo_weight: float | None
    final_grpo_weight: float | None

    def __post_init__(self) -> None:
        dpo = MixtureTerm(algorithm=self.dpo, weight=self.dpo_weight, final_weight=self.final_dpo_weight)
        grpo = MixtureTerm(algorithm=self.grpo, weight=self.grpo_weight, final_weight=self.final_grpo_weight)
        object.__setattr__(self, "terms", {"dpo": dpo, "grpo": grpo})
        super().__post_init__()
