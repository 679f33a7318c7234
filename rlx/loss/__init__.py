"""Losses: pure functions of tensors, and the frozen dataclasses of their hyperparameters."""

from rlx.loss.base import Loss, PreferenceLoss, PreferenceModifier, ScoreLoss
from rlx.loss.pairs import PairLogprobs, Scores
from rlx.loss.stop_gradient import stop_gradient

__all__ = ["Loss", "PairLogprobs", "PreferenceLoss", "PreferenceModifier", "ScoreLoss", "Scores", "stop_gradient"]
