"""Losses: pure functions of tensors, and the frozen dataclasses of their hyperparameters.

Where a formula stands:

    preference                  dpo and its relatives          preference_target          ipo, hinge
    preference_curve            exo, discopop                  preference_margin          dpop, r_dpo, cal_dpo, tdpo
    preference_absolute         nca, bco, sppo, apo            preference_scored          odpo, rpo
    preference_reference_free   simpo, alpha_po, simper        preference_likelihood      cpo, orpo, slic, nll
    preference_batch            aot, kto                       mixture                    any weighted sum of these
    modifier, divergence        what changes the inputs of a preference loss or weighs its pairs

    policy_gradient             reinforce, clipped, dual_clip, capped      policy_gradient_sequence     gspo, gmpo, vespo
    policy_gradient_detached    cispo, dppo                                policy_gradient_soft         sapo, dro
    policy_gradient_covariance  kl_cov, clip_cov                           correction, entropy          what scales a surrogate
    weight, kl, advantage, token_advantage, value                          what goes with them

To write the next one: a function of tensors with the formula, `Paper:` and `Shapes:` in its docstring; a frozen dataclass
derived from ScoreLoss, PreferenceLoss or PolicyGradientLoss that names it as `formula` and documents each hyperparameter
(`within` gives its range) and each `Convention:`; a YAML in conf/loss with every hyperparameter. The laws, the card and the
checks of ranges then hold for it without another line; `stop_gradient` marks what is constant.
"""

from rlx.loss.advantage.completion import Advantage
from rlx.loss.advantage.token import TokenAdvantage
from rlx.loss.policy_gradient.base import PolicyGradientLoss, PolicyGradientModifier, RolloutLogprobs
from rlx.loss.preference.base import Loss, PairLogprobs, PreferenceLoss, PreferenceModifier, ScoreLoss, Scores
from rlx.loss.ratio import stop_gradient
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
