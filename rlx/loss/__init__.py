"""Losses: each is one function of tensors whose keyword arguments are its hyperparameters.

Where each formula is defined:

    preference/margin            dpo, dpo_conservative, dpo_robust, dpo_normalized, exo, discopop, focal_po, ipo,
                                 ipo_normalized, hinge, dpop, r_dpo, cal_dpo, tdpo
    preference/completion        nca, bco, sppo, dpo_shift, chi_po, apo_zero, apo_down
    preference/scored            odpo, rpo_squared, rebel, rpo_backward_kl, rpo_forward_kl
    preference/reference_free    simpo, alpha_po, simper, cpo, orpo, slic, repo, nll, nll_sequence_mean,
                                 nll_sequence_sum, dft
    preference/batch             dr_dpo, aot, aot_unpaired, kto, kto_pair
    preference/mixture           any weighted sum of these
    preference/modifier          changes the inputs of a preference loss or weights its pairs
    policy_gradient/token        reinforce, clipped, dual_clip, capped, cispo_band, cispo_cap, dcpo, dppo_tv, dppo_kl, sapo, dro
    policy_gradient/signed       topr, aspo, dispo, ce_gppo
    policy_gradient/sequence     gspo, gspo_token, opmd, gmpo, vespo
    policy_gradient/covariance   kl_cov, clip_cov
    policy_gradient/kl           estimators of the KL to the reference, and their gradients
    policy_gradient/modifier     scales a surrogate or adds to it
    advantage/completion, token  advantages of completions and of tokens
    weight, value                weights of tokens; losses of a value head
    state                        running means over updates that a loss reads

To add a loss, decorate a function with `preference_loss` or `policy_gradient_loss`. Its docstring has the formula, `Paper:`,
`Shapes:`, a line `name: what it does` for each hyperparameter, and a `Convention:` where other systems choose differently.
`Exact:` in a policy-gradient loss is measured (`rlx guide check`): bias and variance of its expected gradient on a small problem.
The names of its parameters say which inputs it reads: rlx/loss/preference/pairs.py (`PairInputs`: margin, chosen, rejected,
policy, reference, chosen_length, scores, ...) and rlx/loss/policy_gradient/base.py (`RolloutLogprobs`: ratio, log_ratio,
advantages, completion_mask, entropy, ...) list them; `rlx guide loss` shows both. The laws, the card and the range checks then
apply to it without further code; `stop_gradient` marks constants.
"""

from rlx.loss.advantage.completion import Advantage, completion_advantage
from rlx.loss.advantage.token import TokenAdvantage, token_advantage
from rlx.loss.base import Loss, stop_gradient
from rlx.loss.policy_gradient.base import PolicyGradientLoss, PolicyGradientModifier, RolloutLogprobs, policy_gradient_loss
from rlx.loss.preference.base import PreferenceLoss, PreferenceModifier, preference_loss
from rlx.loss.preference.pairs import PairInputs, PairLogprobs
from rlx.loss.state import running_mean
from rlx.loss.value import ValueLoss, value_loss
from rlx.loss.weight import Weighting, weighting

__all__ = [
    "Advantage",
    "Loss",
    "PairInputs",
    "PairLogprobs",
    "PolicyGradientLoss",
    "PolicyGradientModifier",
    "PreferenceLoss",
    "PreferenceModifier",
    "RolloutLogprobs",
    "TokenAdvantage",
    "ValueLoss",
    "Weighting",
    "completion_advantage",
    "policy_gradient_loss",
    "preference_loss",
    "running_mean",
    "stop_gradient",
    "token_advantage",
    "value_loss",
    "weighting",
]
