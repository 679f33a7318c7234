"""The law that every hyperparameter of a loss matters: on some batch, changing it changes the loss or its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from rlx.errors import ConfigError
from rlx.loss.base import Loss
from rlx.loss.hyperparameter import Choice, Range
from rlx.loss.law_case import Case, case_of
from rlx.loss.moving_reference import MovingReference
from rlx.loss.policy_gradient_base import PolicyGradientLoss


def hyperparameters_matter(loss: Loss) -> str | None:
    """Changing any hyperparameter, those of modifiers, weighting and parts included, changes the loss or its gradient."""
    if isinstance(loss, PolicyGradientLoss) and loss.beta == 0:
        loss = replace(loss, beta=0.1)  # the choices of the KL matter only where there is one
    alive: dict[str, bool] = {}
    for name, changed in variants(loss):
        alive[name] = alive.get(name, False) or any(
            _outcome(case_of(loss, rows=rows, spread=spread)) != _outcome(case_of(changed, rows=rows, spread=spread))
            for rows, spread in ((8, 0.5), (8, 2.0), (40, 2.0))
        )
    dead = sorted(name for name, matters in alive.items() if not matters)
    return f"changing {', '.join(dead)} changes neither the loss nor its gradient; use it, or take it out" if dead else None


def _outcome(case: Case) -> tuple[float, ...]:
    total, gradients = case.gradients()
    return (float(total), *(float(gradient.abs().sum()) for gradient in gradients.values()))


def variants(owner: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name of a hyperparameter, a copy of `owner` with another legal value of it), several for each.

    Those of a moving reference are left out: they change the reference as training goes on, not the loss of a batch.
    """
    for item in fields(owner):
        value = getattr(owner, item.name)
        if isinstance(value, Mapping):
            for key, node in value.items():
                for name, changed in () if isinstance(node, MovingReference) else variants(node):
                    yield f"{item.name}.{key}.{name}", replace(owner, **{item.name: {**value, key: changed}})
        elif is_dataclass(value):
            for name, changed in variants(value):
                yield f"{item.name}.{name}", replace(owner, **{item.name: changed})
        else:
            for other in _others(value, item.metadata.get("range")):
                try:
                    yield item.name, replace(owner, **{item.name: other})
                except ConfigError:  # legal by itself, not beside the other hyperparameters
                    continue


def _others(value: Any, allowed: Range | Choice | None) -> list[Any]:
    """Other values that the range allows, near and far."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(allowed, Choice):
        return [name for name in allowed.names if name != value]
    if isinstance(value, int | float) and allowed is not None:
        near = [value + 1, value - 1] if isinstance(value, int) else [2 * value, value / 2, value + 0.1, value - 0.1, 0.5, 1.5]
        return [other for other in near if other != value and other in allowed]
    return []
