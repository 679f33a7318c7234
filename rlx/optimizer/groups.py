"""Parameter groups: parts of the weights that have a learning rate or a weight decay of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rlx.errors import ConfigError

# What a parameter is: a weight matrix of a layer, a norm or bias or other vector, the embeddings or the head, the critic.
Part = Literal["matrix", "vector", "embedding", "value_head"]


@dataclass(frozen=True, kw_only=True)
class ParameterGroups:
    """What the parts of the weights have of their own.

    decay_norms_and_biases: False spares vectors the optimiser's weight decay. embedding_rate, value_head_rate: factors on the
    learning rate of the embeddings (and the head over the vocabulary), and of the value head.
    """

    decay_norms_and_biases: bool = True
    embedding_rate: float = 1.0
    value_head_rate: float = 1.0

    def of(self, parameters: Sequence[torch.nn.Parameter], parts: Sequence[Part], *, by_part: bool) -> list[dict[str, Any]]:
        """The groups of torch, those that learn at the full rate first.

        A group has params, rate (a factor on the learning rate), part, and weight_decay where it has none. by_part: parameters of
        different parts are in different groups, whether these differ or not.
        """
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        rates = {"embedding": self.embedding_rate, "value_head": self.value_head_rate}
        for parameter, part in zip(parameters, parts, strict=True):
            rate = rates.get(part, 1.0)
            spared = not self.decay_norms_and_biases and parameter.ndim < 2
            key = (rate, spared, part if by_part else None)
            group = found.setdefault(key, {"params": [], "rate": rate, "part": part})
            group["params"].append(parameter)
            if spared:
                group["weight_decay"] = 0.0
        return sorted(found.values(), key=lambda group: group["rate"] != 1.0)


def made_with_groups(make: Any, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """The torch optimiser of these groups; a single group without settings of its own is given as a list of parameters.

    make: the optimiser's class with its values. An optimiser with `reads_parts` is told the part of each group.
    Raises ConfigError where weight decay is to be spared and the optimiser has none, or where torch refuses the values.
    """
    tells_parts = reads_parts(make)
    rates = [group["rate"] for group in groups]
    kept = [{key: value for key, value in group.items() if key != "rate" and (key != "part" or tells_parts)} for group in groups]
    try:
        if len(kept) == 1 and kept[0].keys() == {"params"}:
            made: torch.optim.Optimizer = make(kept[0]["params"])
        else:
            made = make(kept)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer: torch refuses these values: {error}") from error
    if any("weight_decay" in group for group in kept) and "weight_decay" not in made.defaults:
        raise ConfigError(
            f"parameter_groups.decay_norms_and_biases=false: {type(made).__name__} has no weight decay; leave the key out"
        )
    for group, rate in zip(made.param_groups, rates, strict=True):
        if rate != 1.0:
            group["lr"] = group["lr"] * rate
    return made


def reads_parts(make: Any) -> bool:
    """Whether an optimiser's class, or what binds its values, is told the part of each group."""
    return bool(getattr(getattr(make, "func", make), "reads_parts", False))
