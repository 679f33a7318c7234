"""The laws that every loss keeps, as functions that tests and `rlx check` call: each returns None, or says what is broken.

Dimensions: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.loss.base import Loss, PreferenceLoss
from rlx.loss.law_case import Case, case_of, differs, first
from rlx.loss.law_clip import clip
from rlx.loss.law_gradient import constants, direction, finite_differences
from rlx.loss.pairs import masked
from rlx.loss.policy_gradient_base import PolicyGradientLoss

GARBAGE = float("nan")


def weights_follow_masks(loss: Loss) -> str | None:
    """Weights have the shape of the values and no gradient, and are neither negative nor, outside of the mask, anything but 0."""
    case = case_of(loss)
    weights, values = case.weights, case.evaluate(case.tensors)
    if weights.shape != values.shape:
        return f"weights are {tuple(weights.shape)}, but values {tuple(values.shape)}; weights(completion_mask) must fit them"
    if weights.requires_grad or bool((weights < 0).any()):
        return "weights carry a gradient or are negative; they must depend on masks and lengths alone"
    mask = case.tensors[case.weight_mask]
    if weights.shape == mask.shape and bool((weights[~mask] != 0).any()):
        return "weights outside of the mask are not 0"
    return None


def split(loss: Loss) -> str | None:
    """Any cut into micro-batches gives the loss and gradient of the whole batch: weights are computed once, over all rows.

    The log-probabilities are a function of one parameter that all rows share. A loss that couples rows is called once on all
    of them, as leaves, and the gradients of the leaves are taken back piece by piece.
    """
    return first(*(_split(case_of(loss, spread=spread)) for spread in (0.5, 3.0)))  # near, every sort has the same order


def _split(case: Case) -> str | None:
    whole, gradients = case.gradients()
    shared = _shared_gradient(case, gradients, slice(None))
    for size in (1, 2, 3, 5):
        cuts = [slice(start, start + size) for start in range(0, len(case), size)]
        if case.loss.couples_rows:
            pieces = torch.stack([_shared_gradient(case, gradients, cut) for cut in cuts])
            found = differs("the shared gradient", pieces.sum(), shared)
        else:
            found = _split_separately(case, cuts, whole, shared)
        if found is not None:
            return f"{found} when cut into pieces of {size} rows; if the formula mixes rows, set couples_rows = True"
    return None


def _shared_gradient(case: Case, gradients: dict[str, Tensor], rows: slice) -> Tensor:
    """[] the gradient of a factor, at 1, that multiplies all leaves."""
    return torch.stack([(gradients[name][rows] * case.tensors[name][rows]).sum() for name in case.leaves]).sum()


def _split_separately(case: Case, cuts: list[slice], whole: Tensor, shared: Tensor) -> str | None:
    parameter = torch.ones((), dtype=torch.float64, requires_grad=True)
    total, gradient = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for cut in cuts:
        piece = case.at(cut)
        piece = piece.with_tensors(**{name: parameter * piece.tensors[name] for name in case.leaves})
        part = (case.weights[cut] * piece.evaluate(piece.tensors)).sum()
        total = total + part.detach()
        if part.requires_grad:
            (found,) = torch.autograd.grad(part, parameter, allow_unused=True)
            gradient = gradient if found is None else gradient + found
    return first(differs("the loss", total, whole), differs("the shared gradient", gradient, shared))


def padding(loss: Loss) -> str | None:
    """More padding, with NaN in it, changes neither the loss nor the gradient, and the gradient of the padding is 0."""
    case = case_of(loss)
    whole, gradients = case.gradients()
    wider: dict[str, Tensor] = {}
    for name in case.tokenwise:
        tensor = case.tensors[name]
        fill = torch.full((len(tensor), 3), False if tensor.dtype == torch.bool else GARBAGE, dtype=tensor.dtype)
        wider[name] = torch.cat([tensor, fill], dim=1)
        if tensor.dtype != torch.bool:
            mask = case.tensors[_mask_of(case, name)]
            wider[name] = torch.cat([torch.where(mask, tensor, GARBAGE), fill], dim=1)
    found, wider_gradients = case.with_tensors(**wider).gradients()
    for name in case.leaves:
        mask = case.tensors[_mask_of(case, name)]
        expected = torch.zeros_like(wider_gradients[name])
        expected[:, : mask.shape[1]] = masked(gradients[name], mask)
        message = differs(f"the gradient of {name}", wider_gradients[name].nan_to_num(nan=1e300), expected)
        if message is not None:
            return f"{message} with NaN in the padding; mask values before any arithmetic (rlx.loss.pairs.masked)"
    return differs("the loss with NaN in the padding", found.nan_to_num(nan=1e300), whole)


def _mask_of(case: Case, name: str) -> str:
    side = next((side for side in ("chosen", "rejected") if f".{side}" in name), None)
    return case.weight_mask if side is None else f"policy.{side}_mask"


def order(loss: Loss) -> str | None:
    """Permuting the rows permutes the gradient and leaves the loss (not where a formula draws random rows)."""
    if "rng" in loss.requires:
        return None
    case = case_of(loss)
    shuffled = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    whole, gradients = case.gradients()
    found, moved = case.at(shuffled).gradients()
    messages = (differs(f"the gradient of {name}", moved[name], gradients[name][shuffled]) for name in case.leaves)
    return first(differs("the loss of permuted rows", found, whole), *messages)


def finite(loss: Loss) -> str | None:
    """Loss and gradient are finite in float32, for log-probabilities down to -1e4 on any side, and for empty completions."""
    base = case_of(loss)
    as_float = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in base.tensors.items()}
    base = base.with_tensors(**as_float)
    logprobs = [name for name in base.tokenwise if name.split(".")[-1] in ("chosen", "rejected") or name.endswith("_logprobs")]
    cases = {f"{name} = -1e4": base.with_tensors(**{name: torch.full_like(base.tensors[name], -1e4)}) for name in logprobs}
    cases |= {f"{name} = 0": base.with_tensors(**{name: torch.zeros_like(base.tensors[name])}) for name in logprobs}
    cases["all -1e4"] = base.with_tensors(**{name: torch.full_like(base.tensors[name], -1e4) for name in logprobs})
    masks = [name for name in base.tokenwise if name.endswith("mask")]
    cases["empty completions"] = base.with_tensors(**{name: torch.zeros_like(base.tensors[name]) for name in masks})
    one = {name: torch.arange(base.tensors[name].shape[1]).expand(base.tensors[name].shape) < 1 for name in masks}
    cases["completions of one token"] = base.with_tensors(**one)
    cases["one row"] = base.at(slice(0, 1))
    for name, case in cases.items():
        total, gradients = case.gradients()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (total, *gradients.values())):
            return f"loss or gradient is not finite at {name}; clamp what goes into an exp, a log or a division"
    return None


LAWS: dict[str, Callable[[Loss], str | None]] = {
    "weights": weights_follow_masks,
    "split": split,
    "padding": padding,
    "order": order,
    "finite": finite,
    "constants": constants,
    "finite_differences": finite_differences,
    "direction": direction,
    "clip": clip,
}


@dataclass(frozen=True)
class Verdict:
    """What a law says of a loss: `broken` is None where it holds."""

    law: str
    promise: str
    broken: str | None


def check_loss(loss: PreferenceLoss | PolicyGradientLoss) -> list[Verdict]:
    """Every law on this loss, in the order of LAWS; an error that the loss raises is a broken law."""
    verdicts = []
    for name, law in LAWS.items():
        try:
            broken = law(loss)
        except Exception as error:  # whatever a loss under test raises is its verdict
            broken = f"{type(error).__name__}: {error}"
        verdicts.append(Verdict(name, (law.__doc__ or "").partition("\n")[0], broken))
    return verdicts
