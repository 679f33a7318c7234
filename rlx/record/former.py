"""Configs of records that were written before, in the form that is written now. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlx.record.renamed import with_current_targets


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
