"""Laws of numbers: a loss is finite at extremes, equal when it is computed twice, and its figures mean what they are called."""

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

from rlx.algorithm.base import Need
from rlx.check.batch import signature, tensors_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.subject import Laboratory, Subject
from rlx.errors import NonFiniteError, RlxError

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*(/[a-z][a-z0-9]*(_[a-z0-9]+)*)*")
# what other tools call a figure -> what rlx calls it
FOREIGN = {
    "chosen_rewards": "rewards_chosen", "rejected_rewards": "rewards_rejected", "margins": "margin", "accuracies": "accuracy",
    "rewards_margin": "margin", "reward_margin": "margin",
    "logps_chosen": "logprobs_chosen", "logps_rejected": "logprobs_rejected",
    "chosen_logps": "logprobs_chosen", "rejected_logps": "logprobs_rejected", "kl_divergence": "kl", "approx_kl": "kl",
    "clipfrac": "clip_fraction_low or clip_fraction_high", "clip_frac": "clip_fraction_low or clip_fraction_high",
    "mean_reward": "reward_mean", "response_length": "completion_length", "lr": "learning_rate", "grad_norms": "grad_norm",
}  # fmt: skip  # fmt: skip
OWN_WORDS = {"logps": "logprobs", "logp": "logprobs", "response": "completion", "responses": "completions", "ref": "reference"}
_TAKEN = {"loss", "learning_rate", "grad_norm", "grad_norm_clipped"}


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
            laboratory = subject.stand_in()
            drawn = subject.draw(laboratory)
            batch = subject.first_update(laboratory)
            as_drawn = _held(batch)
            gradient, figures = subject.gradient(laboratory, batch)
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
            again, _ = subject.gradient(laboratory, batch)
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
    return passed("equal to the last bit")


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


def stays_finite(subject: Subject) -> Finding:
    """Loss, figures and gradient are finite for log-probabilities from -1e4 to 0 and on degenerate batches."""
    cases: dict[str, Callable[[], Laboratory]] = {}
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
    return passed(f"{len(cases)} cases")


def _finite_in(subject: Subject, laboratory: Laboratory, name: str) -> Finding | None:
    mend = "clamp what goes into exp, log, sqrt or a division: counts to at least 1, deviations by an epsilon, log-ratios to +-20"
    try:
        with torch.no_grad():
            batch = subject.algorithm.draw(laboratory.lab(seed=subject.seed))
        bad = [where for where, tensor in tensors_of(batch) if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
        if bad:
            return broken(f"{bad[0]} is not finite for {name}", where="draw", example=name, mend=mend)
        if len(batch) == 0:
            return None
        gradient, figures = subject.gradient(laboratory, batch)
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


def metrics(subject: Subject) -> Finding:
    """Figures carry no gradient, are (sum, count), finite, and named as rlx names them."""
    laboratory = subject.stand_in()
    batch = subject.first_update(laboratory)
    output = subject.loss(laboratory, batch)
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
    return passed(f"{len(names)} figures")


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
