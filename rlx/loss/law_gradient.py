"""The laws of a loss's gradient: it is the slope, it goes the right way, and only the policy gets one.

Dimensions: B rows, T tokens.
"""

from __future__ import annotations

import torch

from rlx.loss.base import Loss, PreferenceLoss
from rlx.loss.law_case import TOLERANCE, case_of, differs
from rlx.loss.pairs import masked
from rlx.loss.stop_gradient import FrozenStopGradients


def finite_differences(loss: Loss) -> str | None:
    """Central differences along random directions agree with the gradient, constants of `stop_gradient` held fixed."""
    case = case_of(loss, seed=1)
    frozen = FrozenStopGradients()
    with frozen.record():
        case.total()
    _, gradients = case.gradients()
    rng, step = torch.Generator().manual_seed(0), 1e-6
    for name in case.leaves:
        for _ in range(3):
            direction = torch.randn(case.tensors[name].shape, generator=rng, dtype=torch.float64)
            ends = []
            for sign in (step, -step):
                with frozen.replay():
                    ends.append(case.with_tensors(**{name: case.tensors[name] + sign * direction}).total())
            slope, expected = (ends[0] - ends[1]) / (2 * step), (gradients[name] * direction).sum()
            message = differs(f"the slope along {name}", slope, expected, 1e-5)
            if message is not None:
                return f"{message}; write rlx.loss.stop_gradient(x) for a constant, not x.detach()"
    return None


def direction(loss: Loss) -> str | None:
    """Learning goes the right way.

    Preference: the loss is lower where the policy leans to the chosen completions than where it leans to the rejected ones.
    Policy gradient: on policy the gradient of a token has the sign of minus its advantage, or is 0.
    """
    if isinstance(loss, PreferenceLoss):
        case, totals = case_of(loss, labelled=False), []
        for chosen, rejected in ((0.3, 6.3), (6.3, 0.3)):  # by how much the policy's token log-probabilities are lower
            leant = {}
            for side, lower in (("chosen", chosen), ("rejected", rejected)):
                leant[f"policy.{side}"] = masked(case.tensors[f"reference.{side}"] - lower, case.tensors[f"policy.{side}_mask"])
            totals.append(case.with_tensors(**leant).total())
        return None if totals[0] < totals[1] else "the loss is lower where the policy prefers the rejected completions"
    case = case_of(loss)
    on_policy = dict.fromkeys(("sampling_logprobs", "reference_logprobs", "proximal_logprobs"), case.tensors["token_logprobs"])
    _, gradients = case.with_tensors(**on_policy).gradients()
    pushed = gradients["token_logprobs"] * case.tensors["advantages"][:, None]
    return (
        None if float(pushed.max()) <= TOLERANCE else "the gradient lowers the probability of a token with a positive advantage"
    )


def constants(loss: Loss) -> str | None:
    """Only the policy gets a gradient: not the reference, the sampler, the advantages or a weight made of probabilities."""
    case = case_of(loss)
    names = [name for name, tensor in case.tensors.items() if tensor.is_floating_point() and name not in case.leaves]
    fixed = {name: case.tensors[name].clone().requires_grad_() for name in names if name != "policy.scores"}
    leaves = {name: case.tensors[name].clone().requires_grad_() for name in case.leaves}
    total = case.with_tensors(**fixed, **leaves).total()
    if not total.requires_grad:
        return None
    found = torch.autograd.grad(total, list(fixed.values()), allow_unused=True)
    reached = [name for name, gradient in zip(fixed, found, strict=True) if gradient is not None and bool(gradient.any())]
    return f"a gradient reaches {', '.join(reached)}; hold it constant with rlx.loss.stop_gradient" if reached else None
