"""The law that a gradient is the slope of the loss, constants held fixed."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rlx.algorithm.base import Need
from rlx.check.batch import parts_of, signature, tensors_of
from rlx.check.finding import Finding, broken, holds, skipped
from rlx.check.laboratory import StandInPolicy
from rlx.check.subject import Setting, Subject, completion_gradients, row_shown
from rlx.errors import NonFiniteError, RlxError

STEP, TOLERANCE = 1e-6, 1e-5


class HeldConstants(TorchFunctionMode):
    """Keeps what stop_gradient, detach and torch.no_grad make in one call of a function, and gives it back in later calls."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.position = 0
        self.replaying = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        is_constant = name in ("detach", "detach_") or not torch.is_grad_enabled()
        if not is_constant or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if not self.replaying:
            self.kept.append(result.detach().clone())
            return result
        self.position += 1
        kept = self.kept[self.position - 1] if self.position <= len(self.kept) else result
        return kept if kept.shape == result.shape else result

    def replay(self) -> HeldConstants:
        """From now on, and from the first, what was kept is given back."""
        self.position, self.replaying = 0, True
        return self


def finite_differences(subject: Subject) -> Finding:
    """In float64 the gradient with respect to log-probabilities is the slope of the loss, declared constants held fixed."""
    worst = 0.0
    for step, spread in ((0, 0.3), (1, 0.8)):
        setting = subject.stand_in(spread=spread)
        batch = subject.first_update(setting, step=step)
        subject.loss(setting, batch)
        if subject.goes_past or not setting.policy.leaves:
            return skipped("the loss does not read the policy through token_statistics")
        held = HeldConstants()
        with held:
            output = subject.loss(setting, batch)
        loss = output.loss
        for name, term in output.terms.items():
            if term.values.dtype != setting.policy.dtype:
                return _cast(name, term.values.dtype, setting.policy.dtype)
        if not loss.requires_grad:
            return skipped("the loss has no gradient here; see reached")
        gradients = torch.autograd.grad(loss, setting.policy.parameters(), allow_unused=True)
        for name, gradient in zip(setting.policy.leaf_names, gradients, strict=True):
            leaf = setting.policy.leaves[name]
            gradient = torch.zeros_like(leaf) if gradient is None else gradient
            for number in range(3):
                direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(number), dtype=leaf.dtype)
                slope, expected = _slope(subject, setting, batch, held, leaf, direction), float((gradient * direction).sum())
                off = abs(slope - expected) / max(1e-3, abs(expected), float(gradient.abs().max()))
                worst = max(worst, off)
                if off > TOLERANCE:
                    return _differs(subject, setting, batch, held, name, gradient, slope, expected)
    return holds(f"{worst:.0e}")


def _cast(name: str, found: torch.dtype, given: torch.dtype) -> Finding:
    return broken(
        f"term {name} is {found} though the log-probabilities that it is made of are {given}: digits are lost on the way",
        number=str(found).removeprefix("torch."),
        where=f"terms[{name!r}].values",
        mend="keep the dtype of the log-probabilities: no .float(), .half(), .bfloat16(); a constant follows by .to(logprobs)",
    )


def _slope(subject: Subject, setting: Setting, batch: Any, held: HeldConstants, leaf: Tensor, direction: Tensor) -> float:
    ends = []
    kept = leaf.detach().clone()
    for sign in (STEP, -STEP):
        with torch.no_grad():
            leaf.copy_(kept + sign * direction)
        with held.replay():
            ends.append(float(subject.loss(setting, batch).loss.detach()))
    with torch.no_grad():
        leaf.copy_(kept)
    return (ends[0] - ends[1]) / (2 * STEP)


def _differs(
    subject: Subject,
    setting: Setting,
    batch: Any,
    held: HeldConstants,
    name: str,
    gradient: Tensor,
    slope: float,
    expected: float,
) -> Finding:
    example = ""
    assert isinstance(setting.policy, StandInPolicy)
    if name == "token_logprobs":
        leaf = setting.policy.leaves[name]
        for part in parts_of(batch)[:1]:
            for row in range(min(len(part), 16)):
                mine = completion_gradients(setting, part, torch.arange(len(leaf)))[row]
                direction = torch.zeros_like(leaf)
                direction[torch.cat(mine).long()] = 1.0
                there, here = _slope(subject, setting, batch, held, leaf, direction), float((gradient * direction).sum())
                if abs(there - here) > TOLERANCE * max(1.0, abs(here)):
                    example = f"{row_shown(subject, batch, row)}: slope {there:.6g}, gradient {here:.6g}"
                    break
            if example:
                break
    return broken(
        f"along a random direction of {name} the loss has slope {slope:.6g}, but the gradient says {expected:.6g}",
        number=f"{abs(slope - expected):.0e}",
        where="compute_loss",
        example=example,
        mend="look for numbers taken out of the graph (.item(), float(), torch.tensor(...)), casts to a smaller dtype, in-place "
        "changes and backward functions of your own; a constant on purpose is written rlx.loss.stop_gradient(x)",
    )


# Laws of values: finite at extremes, equal when asked twice, metrics that mean what they are called.

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*(/[a-z][a-z0-9]*(_[a-z0-9]+)*)*")
# what other tools call a figure -> what rlx calls it
FOREIGN = {
    "chosen_rewards": "rewards_chosen", "rejected_rewards": "rewards_rejected", "margins": "margin", "accuracies": "accuracy",
    "rewards_margin": "margin", "reward_margin": "margin",
    "logps_chosen": "logprobs_chosen", "logps_rejected": "logprobs_rejected",
    "chosen_logps": "logprobs_chosen", "rejected_logps": "logprobs_rejected", "kl_divergence": "kl", "approx_kl": "kl",
    "clipfrac": "clip_fraction_low or clip_fraction_high", "clip_frac": "clip_fraction_low or clip_fraction_high",
    "mean_reward": "reward_mean", "response_length": "completion_length", "lr": "learning_rate", "grad_norms": "grad_norm",
}  # fmt: skip
OWN_WORDS = {"logps": "logprobs", "logp": "logprobs", "response": "completion", "responses": "completions", "ref": "reference"}
_TAKEN = {"loss", "learning_rate", "grad_norm", "grad_norm_clipped"}


def finite(subject: Subject) -> Finding:
    """Loss, figures and gradient are finite for log-probabilities from -1e4 to 0 and on degenerate batches."""
    cases: dict[str, Callable[[], Setting]] = {}
    if Need.REWARDS in subject.needs:
        cases["groups without signal (all rewards equal)"] = lambda: subject.stand_in(equal_rewards=True, dtype=torch.float32)
    if not subject.goes_past:
        cases |= {
            "log-probabilities of -1e4": lambda: subject.stand_in(constant=-1e4, dtype=torch.float32),
            "log-probabilities of -1e4 under the reference": lambda: subject.stand_in(
                constant=-1e4, constant_of="reference", dtype=torch.float32
            ),
            "log-probabilities of -1e4 under the sampler": lambda: subject.stand_in(
                constant=-1e4, constant_of="sampler", dtype=torch.float32
            ),
            "log-probabilities of 0": lambda: subject.stand_in(constant=0.0, dtype=torch.float32),
            "completions of one token": lambda: subject.stand_in(shape="one token", dtype=torch.float32),
            "some completions empty": lambda: subject.stand_in(shape="some empty", dtype=torch.float32),
            "every completion empty": lambda: subject.stand_in(shape="empty", dtype=torch.float32),
        }
    if not cases:
        return skipped("the loss reads the model itself, whose numbers cannot be set")
    for name, make in cases.items():
        found = _finite_in(subject, make(), name)
        if found is not None:
            return found
    return holds(f"{len(cases)} cases")


def _finite_in(subject: Subject, setting: Setting, name: str) -> Finding | None:
    mend = "clamp what goes into exp, log, sqrt or a division: counts to at least 1, deviations by an epsilon, log-ratios to +-20"
    try:
        with torch.no_grad():
            batch = subject.algorithm.draw(setting.lab(seed=subject.seed))
        bad = [where for where, tensor in tensors_of(batch) if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
        if bad:
            return broken(f"{bad[0]} is not finite for {name}", where="draw", example=name, mend=mend)
        if len(batch) == 0:
            return None
        gradient, figures = subject.gradient(setting, batch)
    except NonFiniteError as error:
        return broken(f"{error}".partition(";")[0], where="compute_loss", example=name, mend=mend)
    except RlxError:
        return None  # refused, with a message
    except Exception as error:
        return broken(f"{type(error).__name__}: {error}, for {name}", where="draw or compute_loss", example=name, mend=mend)
    wrong = [f"the figure {key}" for key, value in figures.items() if not math.isfinite(value)]
    if not bool(torch.isfinite(gradient).all()):
        wrong.insert(0, "the gradient")
    return broken(f"{wrong[0]} is not finite for {name}", where="compute_loss", example=name, mend=mend) if wrong else None


def repeats(subject: Subject) -> Finding:
    """The same stream gives the same batch, the same batch the same loss, whatever the global generators say; none is used."""
    seen: list[tuple[str, float, Tensor]] = []
    before = repr(subject.algorithm)
    with global_generators() as used:
        for round_ in range(2):
            if round_:
                random.seed(1)
                np.random.seed(1)
                torch.manual_seed(1)
            setting = subject.stand_in()
            drawn = subject.draw(setting)
            batch = subject.first_update(setting)
            as_drawn = _held(batch)
            gradient, figures = subject.gradient(setting, batch)
            if round_ == 0 and (names := used()):
                return broken(
                    f"the global generator of {' and '.join(names)} is used",
                    where="draw, updates or compute_loss",
                    mend="take random numbers from lab.rng (draw) or rng (updates): rng.child('noise').torch(), .numpy()",
                )
            if changed := [name for name, value in _held(batch).items() if as_drawn.get(name, value) != value]:
                return broken(
                    f"compute_loss changes {changed[0]}",
                    where="compute_loss",
                    mend="no in-place methods (add_, mul_, clamp_, x[...] = y) on what a batch holds: the next update sees them",
                )
            seen.append((signature(drawn), figures["loss"], gradient))
            again, _ = subject.gradient(setting, batch)
            if not torch.equal(again, gradient):
                return broken(
                    "the same batch gives another gradient the second time",
                    where="compute_loss",
                    mend="compute_loss is a pure function of policy and batch: no counters, no random numbers of its own",
                )
    first, second = seen
    if first[0] != second[0]:
        return broken(
            "the same stream gives another batch the second time", where="draw", mend="derive every random number from lab.rng"
        )
    if not torch.equal(first[2], second[2]):
        return broken("the same draw gives another loss", where="compute_loss", mend="derive every random number from the batch")
    if repr(subject.algorithm) != before:
        return broken("the algorithm's own fields changed", where="draw or compute_loss", mend="keep what must last in lab.state")
    return holds("equal to the last bit")


def _held(batch: Any) -> dict[str, str]:
    """Where -> content of every tensor of a batch."""
    return {where: signature(tensor) for where, tensor in tensors_of(batch)}


@contextmanager
def global_generators() -> Iterator[Callable[[], list[str]]]:
    """Gives a function that names the global generators that were used since; puts them back afterwards."""

    def states() -> dict[str, Any]:
        numpy_state = np.random.get_state()
        return {
            "random": random.getstate(),
            "numpy.random": repr((numpy_state[1], numpy_state[2:])) if isinstance(numpy_state, tuple) else repr(numpy_state),
            "torch": torch.get_rng_state().numpy().tobytes(),
        }

    before, kept = states(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    try:
        yield lambda: [name for name, state in states().items() if state != before[name]]
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def metrics(subject: Subject) -> Finding:
    """Figures carry no gradient, are (sum, count), finite, and named as rlx names them."""
    setting = subject.stand_in()
    batch = subject.first_update(setting)
    output = subject.loss(setting, batch)
    for name, given in output.metrics.items():
        if not (isinstance(given, tuple) and len(given) == 2 and all(isinstance(item, Tensor) for item in given)):
            return broken(f"the figure {name} is no (sum, count)", where=f"metrics[{name!r}]", mend="use mean_of(values, mask)")
        if any(item.requires_grad for item in given):
            return broken(
                f"the figure {name} carries a gradient", where=f"metrics[{name!r}]", mend="detach it; mean_of(...) does"
            )
        if given[0].numel() != 1 or given[1].numel() != 1:
            return broken(
                f"the figure {name} has {given[0].numel()} numbers", where=f"metrics[{name!r}]", mend="use mean_of(values, mask)"
            )
    drawn = {name for name in getattr(batch, "metrics", {}) if not name.startswith("reward/")}  # those are the task's own names
    names = {*output.metrics, *drawn}
    for name in sorted(names):
        found = _named(name, {*_TAKEN, *(f"{term}_loss" for term in output.terms)})
        if found is not None:
            return found
    for name in output.terms:
        if not _NAME.fullmatch(name):
            return broken(f"the term {name!r} is not named in snake_case", where="terms", mend="use lower-case words joined by _")
    return holds(f"{len(names)} figures")


def _named(name: str, taken: set[str]) -> Finding | None:
    leaf = name.rpartition("/")[2]
    if not _NAME.fullmatch(name):
        return broken(f"the figure {name!r} is not named in snake_case", where="metrics", mend="use lower-case words joined by _")
    if name in taken:
        return broken(f"the figure {name} would hide one that rlx logs", where="metrics", mend="give it another name")
    words = {word: OWN_WORDS[word] for word in re.split("[/_]", name) if word in OWN_WORDS}
    whole = name.replace("/", "_")
    own = FOREIGN.get(leaf) or FOREIGN.get(whole) or "_".join(words.get(word, word) for word in whole.split("_"))
    if leaf in FOREIGN or whole in FOREIGN or words:
        return broken(f"rlx calls the figure {name} {own}", where=f"metrics[{name!r}]", mend=f"rename it to {own}")
    return None
