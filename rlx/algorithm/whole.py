"""Is a class an algorithm, with all that the loop calls? Said before anything is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from rlx.algorithm.base import Algorithm, AlgorithmType, LossOutput, Need
from rlx.errors import ConfigError, TrainingError

# method -> what the loop gives it
CALLED_WITH = {
    "draw": ("lab",),
    "updates": ("batch", "rng"),
    "compute_loss": ("policy", "reference", "batch"),
    "update_policy": ("gradients", "optimizer"),
    "validate": ("lab",),
}
DUTIES = {"draw": "what to learn from", "compute_loss": "how wrong the policy is"}
OF_BATCH = ("metrics", "row_tokens", "__len__", "__getitem__")


def require_whole(algorithm: Algorithm[Any]) -> None:
    """Refuse an algorithm that lacks its kind, its needs or a method, or has one that cannot be called as the loop calls it."""
    kind = type(algorithm)
    name = kind.__name__
    needs = getattr(algorithm, "needs", None)
    for said, example, holds in (
        ("kind", "AlgorithmType.PREFERENCE_LEARNING", isinstance(getattr(algorithm, "kind", None), AlgorithmType)),
        ("needs", "frozenset({Need.PAIRS})", isinstance(needs, Iterable) and all(isinstance(need, Need) for need in needs)),
    ):
        if not holds and said == "needs" and isinstance(needs, Iterable):
            raise ConfigError(f"{name} has needs = {needs!r}; they are members of Need: needs = {example}")
        if not holds:
            raise ConfigError(f"{name} does not say its {said}; write, in the class: {said} = {example}")
    for method, arguments in CALLED_WITH.items():
        mine = getattr(kind, method)
        if method in DUTIES and mine is getattr(Algorithm, method):
            raise ConfigError(
                f"algorithm {name} does not say {DUTIES[method]}: define {method}(self, {', '.join(arguments)}); "
                "rlx new algorithm my_idea writes a file to begin with"
            )
        try:
            inspect.signature(getattr(algorithm, method)).bind(*arguments)
        except TypeError as error:
            taken = ", ".join(inspect.signature(mine).parameters)
            raise ConfigError(
                f"algorithm {name}: {method}({taken}) cannot be called with {', '.join(arguments)} ({error}); "
                f"define {method}(self, {', '.join(arguments)})"
            ) from error


def require_batch(batch: Any, *, by: Algorithm[Any]) -> None:
    """Refuse what a draw or an update gives if it is no batch."""
    lacking = [name for name in OF_BATCH if not hasattr(batch, name)]
    if lacking:
        raise TrainingError(
            f"draw or updates of {type(by).__name__} gives {_article(batch)}, which has no {lacking[0]}; it gives a batch: "
            "lab.pairs(...), roll_out(lab, ...), or a class with metrics, row_tokens, len and slices"
        )


def require_output(output: Any, *, by: Algorithm[Any]) -> None:
    """Refuse what compute_loss gives if it is no LossOutput with a term."""
    if not isinstance(output, LossOutput):
        raise TrainingError(
            f"compute_loss of {type(by).__name__} gives {_article(output)}, not a LossOutput: "
            "return LossOutput.of(values, weights), values [B] or [B, T] not reduced"
        )
    if not output.terms:
        raise TrainingError(f"compute_loss of {type(by).__name__} gives a LossOutput without terms; a loss is a sum of terms")


def require_figures(figures: Any, *, by: Algorithm[Any]) -> None:
    """Refuse what update_policy gives if it is no mapping of names to numbers."""
    said = _article(figures) if not isinstance(figures, Mapping) else ""
    for name, value in figures.items() if not said else ():
        if not isinstance(value, (int, float)):
            said = f"{_article(value)} as {name}"
    if said:
        raise TrainingError(
            f"update_policy of {type(by).__name__} gives {said}; it gives names and plain numbers: "
            "return optimizer.step(gradients()['loss'], self.clipping)"
        )


def _article(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
