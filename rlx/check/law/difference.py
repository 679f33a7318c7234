"""The law that the gradient of a loss is its slope, with declared constants held fixed."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rlx.check.batch import at, parts_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.place import first_result, leaves_the_graph, loses_digits, place_of_frame
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject, completion_gradients, row_shown
from rlx.loss.base import stop_gradient

STEP, TOLERANCE = 1e-6, 1e-5


class HeldConstants(TorchFunctionMode):
    """Stores the results of stop_gradient, detach and torch.no_grad in one call of a function, and returns them in later calls.

    undeclared: index of each result of detach outside stop_gradient -> the line of the user's file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.undeclared: dict[int, str] = {}
        self.position = 0
        self.replaying = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        is_constant = name in ("detach", "detach_") or not torch.is_grad_enabled()
        if not is_constant or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if not self.replaying:
            caller = sys._getframe(1)
            if name == "detach" and caller.f_code is not stop_gradient.__code__:
                self.undeclared[len(self.kept)] = place_of_frame(caller)
            self.kept.append(result.detach().clone())
            return result
        self.position += 1
        kept = self.kept[self.position - 1] if self.position <= len(self.kept) else result
        return kept if kept.shape == result.shape else result

    def replay(self) -> HeldConstants:
        """Return the stored results from now on, from the first one."""
        self.position, self.replaying = 0, True
        return self


def finite_differences(subject: Subject) -> Finding:
    """In float64 the gradient with respect to log-probabilities is the slope of the loss, with declared constants fixed."""
    worst = 0.0
    for step, spread in ((0, 0.3), (1, 0.8)):
        laboratory, batch = subject.stand_in_batch(step=step, spread=spread)
        subject.loss(laboratory, batch)
        if subject.goes_past or not laboratory.policy.leaves:
            return skipped("the loss does not read the policy through token_statistics")
        held = HeldConstants()
        with held:
            output = subject.loss(laboratory, batch)
        loss = output.loss
        for name, term in output.terms.items():
            if term.values.dtype != laboratory.policy.dtype:
                return _cast(subject, laboratory, batch, name, term.values.dtype)
        if not loss.requires_grad:
            return skipped("the loss has no gradient here; see reached")
        gradients = torch.autograd.grad(loss, laboratory.policy.parameters(), allow_unused=True)
        for name, gradient in zip(laboratory.policy.leaf_names, gradients, strict=True):
            leaf = laboratory.policy.leaves[name]
            gradient = torch.zeros_like(leaf) if gradient is None else gradient
            for number in range(3):
                direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(number), dtype=leaf.dtype)
                expected, largest = float((gradient * direction).sum()), float(gradient.abs().max())
                slope = _slope(subject, laboratory, batch, held, leaf, direction)
                off = abs(slope - expected) / max(1e-3, abs(expected), largest)
                if off > TOLERANCE:  # a threshold (of the worst half of values, say) moves with the values
                    live = _slope(subject, laboratory, batch, None, leaf, direction)
                    off = min(off, abs(live - expected) / max(1e-3, abs(expected), largest))
                worst = max(worst, off)
                if off > TOLERANCE:
                    return _differs(subject, laboratory, batch, held, name, gradient, slope, expected)
    return passed(f"{worst:.0e}")


def _cast(subject: Subject, laboratory: Laboratory, batch: Any, name: str, found: torch.dtype) -> Finding:
    place = first_result(lambda: subject.loss(laboratory, batch), loses_digits)
    return broken(
        f"term {name} is {found} though the log-probabilities that it is made of are {laboratory.policy.dtype}: digits are lost",
        number=str(found).removeprefix("torch."),
        where=place or f"terms[{name!r}].values in compute_loss",
        mend="keep the dtype of the log-probabilities: no .float(), .half(), .bfloat16(); a constant follows by .to(logprobs)",
    )


def _slope(
    subject: Subject, laboratory: Laboratory, batch: Any, held: HeldConstants | None, leaf: Tensor, direction: Tensor
) -> float:
    """Return the slope of the loss along a direction. held: constants to hold fixed; None: none."""
    ends = []
    for sign in (STEP, -STEP):
        with at(leaf, leaf.detach() + sign * direction), nullcontext() if held is None else held.replay():
            ends.append(float(subject.loss(laboratory, batch).loss.detach()))
    return (ends[0] - ends[1]) / (2 * STEP)


def _differs(
    subject: Subject,
    laboratory: Laboratory,
    batch: Any,
    held: HeldConstants,
    name: str,
    gradient: Tensor,
    slope: float,
    expected: float,
) -> Finding:
    example = ""
    assert isinstance(laboratory.policy, StandInPolicy)
    if name == "token_logprobs":
        leaf = laboratory.policy.leaves[name]
        for part in parts_of(batch)[:1]:
            for row in range(min(len(part), 16)):
                mine = completion_gradients(laboratory, part, torch.arange(len(leaf)))[row]
                direction = torch.zeros_like(leaf)
                direction[torch.cat(mine).long()] = 1.0
                there, here = _slope(subject, laboratory, batch, held, leaf, direction), float((gradient * direction).sum())
                if abs(there - here) > TOLERANCE * max(1.0, abs(here)):
                    example = f"{row_shown(subject, batch, row)}: slope {there:.6g}, gradient {here:.6g}"
                    break
            if example:
                break
    return broken(
        f"along a random direction of {name} the loss has slope {slope:.6g}, but the gradient says {expected:.6g}",
        number=f"{abs(slope - expected):.0e}",
        where=first_result(lambda: subject.loss(laboratory, batch), leaves_the_graph) or "compute_loss",
        example=example,
        mend="look for numbers taken out of the graph (.item(), float(), torch.tensor(...)), casts to a smaller dtype, in-place "
        "changes and backward functions of your own; a constant on purpose is written rlx.loss.stop_gradient(x)",
    )
