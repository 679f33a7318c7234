"""Losses: pure functions of tensors, and the frozen dataclasses of their hyperparameters."""

from rlx.loss.advantage import Advantage
from rlx.loss.base import Loss, PreferenceLoss, PreferenceModifier, ScoreLoss
from rlx.loss.pairs import PairLogprobs, Scores
from rlx.loss.policy_gradient_base import PolicyGradientLoss, PolicyGradientModifier
from rlx.loss.rollout_logprobs import RolloutLogprobs
from rlx.loss.stop_gradient import stop_gradient
from rlx.loss.token_advantage import TokenAdvantage
from rlx.loss.value import ValueLoss
from rlx.loss.weight import Weighting

__all__ = [
    "Advantage",
    "Loss",
    "PairLogprobs",
    "PolicyGradientLoss",
    "PolicyGradientModifier",
    "PreferenceLoss",
    "PreferenceModifier",
    "RolloutLogprobs",
    "ScoreLoss",
    "Scores",
    "TokenAdvantage",
    "ValueLoss",
    "Weighting",
    "stop_gradient",
]
