"""Configs of records that were written before, in the form that is written now. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def up_to_date(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config in the form that is written now: classes have their current names, and a loss stands in one place.

    Records once held the run's loss a second time in the algorithm's node, and the loss of a mixture's term beside its algorithm.
    """
    config = with_current_targets(config)
    kept = {key: _with_one_loss(value) if key == "algorithm" else value for key, value in config.items()}
    algorithm = kept.get("algorithm")
    if isinstance(algorithm, dict) and kept.get("loss") is not None and "loss" in algorithm:
        kept["loss"] = algorithm.pop("loss")
    return kept


def _with_one_loss(node: Any) -> Any:
    """An algorithm's node, in which the terms of a mixture have their loss within their algorithm and not beside it."""
    if not isinstance(node, Mapping):
        return node
    within = node.get("algorithm")
    is_twice = isinstance(within, Mapping) and "loss" in within
    return {key: _with_one_loss(value) for key, value in node.items() if not (is_twice and key == "loss")}


# Where the classes that older records name lie now.


# The module of a class then -> the module now; names are the same.
_CLASSES = {
    "rlx.algorithm.hybrid": "rlx.algorithm.mixture",
    "rlx.algorithm.online_dpo": "rlx.algorithm.dpo",
    "rlx.loss.correction": "rlx.loss.policy_gradient.modifier",
    "rlx.loss.divergence": "rlx.loss.preference.modifier",
    "rlx.loss.entropy": "rlx.loss.policy_gradient.modifier",
    "rlx.loss.modifier": "rlx.loss.preference.modifier",
    "rlx.loss.moving_reference": "rlx.policy.reference",
    "rlx.task.labelled_file": "rlx.task.pair_file",
    "rlx.task.preference_file": "rlx.task.pair_file",
    "rlx.task.reward_math": "rlx.task.reward.math",
    "rlx.task.reward_model": "rlx.task.reward.model",
    "rlx.task.reward_text": "rlx.task.reward.text",
}
# The module of a class then -> the module of the function that it is now: KlCov -> kl_cov.
_FUNCTIONS = {
    "rlx.algorithm.regularizer": "rlx.algorithm.regularizer",
    "rlx.loss.advantage": "rlx.loss.advantage.completion",
    "rlx.loss.advantage_baseline": "rlx.loss.advantage.completion",
    "rlx.loss.policy_gradient": "rlx.loss.policy_gradient.token",
    "rlx.loss.policy_gradient_covariance": "rlx.loss.policy_gradient.covariance",
    "rlx.loss.policy_gradient_detached": "rlx.loss.policy_gradient.token",
    "rlx.loss.policy_gradient_sequence": "rlx.loss.policy_gradient.sequence",
    "rlx.loss.policy_gradient_soft": "rlx.loss.policy_gradient.token",
    "rlx.loss.preference": "rlx.loss.preference.margin",
    "rlx.loss.preference_absolute": "rlx.loss.preference.completion",
    "rlx.loss.preference_batch": "rlx.loss.preference.batch",
    "rlx.loss.preference_curve": "rlx.loss.preference.margin",
    "rlx.loss.preference_likelihood": "rlx.loss.preference.reference_free",
    "rlx.loss.preference_margin": "rlx.loss.preference.margin",
    "rlx.loss.preference_reference_free": "rlx.loss.preference.reference_free",
    "rlx.loss.preference_scored": "rlx.loss.preference.scored",
    "rlx.loss.preference_target": "rlx.loss.preference.margin",
    "rlx.loss.token_advantage": "rlx.loss.advantage.token",
    "rlx.loss.value": "rlx.loss.value",
    "rlx.loss.weight": "rlx.loss.weight",
}
_OTHERS = {
    "rlx.loss.advantage_baseline.PassAtK": "rlx.loss.advantage.completion.best_of_group",
    "rlx.loss.advantage_baseline.ReMax": "rlx.loss.advantage.completion.remax",
    "rlx.loss.mixture.Mixture": "rlx.loss.preference.mixture.LossMixture",
    "rlx.loss.mixture.Part": "rlx.loss.preference.mixture.LossPart",
    "rlx.loss.token_advantage.Gae": "rlx.loss.advantage.token.Gae",
}
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def current_target(target: str) -> str:
    """The dotted name under which a class or function is found now; a name that is current, or not of rlx, stays."""
    module, _, name = target.rpartition(".")
    if target in _OTHERS:
        return _OTHERS[target]
    if module in _FUNCTIONS and name[:1].isupper():
        return f"{_FUNCTIONS[module]}.{_WORD.sub('_', name).lower()}"
    return f"{_CLASSES[module]}.{name}" if module in _CLASSES else target


def with_current_targets(node: Any) -> Any:
    """A config in which every `_target_` has the name that is current."""
    if isinstance(node, Mapping):
        return {
            key: current_target(value) if key == "_target_" and isinstance(value, str) else with_current_targets(value)
            for key, value in node.items()
        }
    return [with_current_targets(item) for item in node] if isinstance(node, (list, tuple)) else node
