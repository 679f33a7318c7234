"""The result of comparing two functions, and the measure of difference of two outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlx.check.subject import losses_of
from rlx.check.variant import children, is_node, plain_fields
from rlx.errors import RlxError
from rlx.loss.policy_gradient.base import PolicyGradientLoss

EXACT = 1e-9  # relative difference of equal formulas in float64, at most
DRAWN = 1e-5  # the same for algorithms, whose draws hold rewards and advantages in float32
ENDS = (0.8, 1.2)  # bounds of a clip, if neither side names its own


@dataclass(frozen=True)
class Agreement:
    """The result of comparing two functions.

    same: whether they are equal in all that was tried. tried: what that was. off: the largest relative difference.
    first: the first difference, in what and by how much. where: its term, token, sign of the advantage and side of the clip.
    example: the smallest input that shows it. then: a later, much larger difference. equal: where they agree.
    matched: hyperparameter of the other one -> (the value of `mine` that it was given, its own value before).
    """

    same: bool
    tried: str
    off: float
    first: str = ""
    where: str = ""
    example: str = ""
    then: str = ""
    equal: str = ""
    matched: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the agreement as a JSON object."""
        found = asdict(self)
        return {**found, "matched": {name: list(values) for name, values in self.matched.items()}}


def matched(mine: Any, other: Any) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """Return (`other` with the hyperparameters of `mine`, those that were changed).

    They are matched by dotted names, else by the last part of the name if only one hyperparameter on either side has it.
    """
    values, owns = dict(plain_fields(mine)), dict(plain_fields(other))
    last = [Counter(name.rpartition(".")[2] for name in side) for side in (values, owns)]
    changed: dict[str, tuple[Any, Any]] = {}
    for name, own in owns.items():
        leaf = name.rpartition(".")[2]
        alone = last[0][leaf] == last[1][leaf] == 1
        source = name if name in values else next((each for each in values if alone and each.rpartition(".")[2] == leaf), None)
        if source is None or values[source] == own or isinstance(values[source], bool) is not isinstance(own, bool):
            continue
        try:
            other = _with(other, name.split("."), values[source])
        except (RlxError, ValueError, TypeError):  # the other refuses this value
            continue
        changed[name] = (values[source], own)
    return other, changed


def _with(owner: Any, path: Sequence[str], value: Any) -> Any:
    """Return a copy of a tree of dataclasses with one field changed."""
    head, *rest = path
    if not rest:
        return replace(owner, **{head: value})
    child = getattr(owner, head)
    if is_node(child):
        return replace(owner, **{head: _with(child, rest, value)})
    key, *below = rest
    nodes = dict(children(child))
    whole = {name.lstrip("."): node for name, node in nodes.items()}
    whole[key] = _with(whole[key], below, value)
    return replace(owner, **{head: whole if isinstance(child, Mapping) else type(child)(whole.values())})


def relative_gap(mine: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest entry; infinite if shapes differ or only one side is finite."""
    if mine.shape != other.shape or not torch.equal(torch.isfinite(mine), torch.isfinite(other)):
        return float("inf")
    if not mine.numel():
        return 0.0
    scale = max(1e-12, float(other.abs().nan_to_num().max()), float(mine.abs().nan_to_num().max()))
    return float((mine - other).abs().nan_to_num().max()) / scale


def common_factor(sides: tuple[Tensor, Tensor], tolerance: float) -> float | None:
    """Return the factor by which all numbers of one side exceed those of the other; None if there is no common one."""
    mine, other = sides
    there = other.abs() > 1e-12
    if not bool(there.any()) or bool((mine[~there].abs() > 1e-12).any()):
        return None
    ratios = mine[there] / other[there]
    return float(ratios.mean()) if float((ratios - ratios.mean()).abs().max()) <= tolerance * float(ratios.abs().max()) else None


def side_of_clip(advantage: float, ratio: float, ends: tuple[float, float]) -> str:
    """Describe the sign of an advantage and the side of the clip."""
    sign = "0" if advantage == 0 else "positive" if advantage > 0 else "negative"
    side = (
        f"below the clip's {ends[0]:g}"
        if ratio < ends[0]
        else f"above the clip's {ends[1]:g}"
        if ratio > ends[1]
        else "within the clip"
    )
    return f"{sign} advantage, ratio {side}"


def ends_of_clip(*owners: Any) -> tuple[float, float]:
    """Return the bounds of the first loss that names its bounds, else ENDS."""
    for owner in owners:
        for _, loss in losses_of(owner):
            if isinstance(loss, PolicyGradientLoss) and loss.clip_ends() is not None:
                return loss.clip_ends() or ENDS
    return ENDS


def numbers(values: Tensor) -> str:
    """Return numbers rounded to four places, as text; each row of a matrix is a list."""
    return str([[round(value, 4) for value in row] for row in values.reshape(len(values), -1).tolist()])
