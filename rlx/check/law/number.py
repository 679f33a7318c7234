"""Laws of numbers: a loss is finite at extremes, equal when computed twice, and its metrics mean what their names say."""

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
from rlx.check.batch import draw_of, signature, tensors_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.place import becomes_infinite, clock_read, drops_out, first_change, first_result
from rlx.check.subject import Laboratory, Subject, flat, losses_of
from rlx.errors import NonFiniteError, RlxError, users_place
from rlx.seeding import Stream

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*(/[a-z][a-z0-9]*(_[a-z0-9]+)*)*")
# a metric's name in other tools -> its name in rlx
FOREIGN = {
    "chosen_rewards": "rewards_chosen", "rejected_rewards": "rewards_rejected", "margins": "margin", "accuracies": "accuracy",
    "rewards_margin": "margin", "reward_margin": "margin",
    "logps_chosen": "logprobs_chosen", "logps_rejected": "logprobs_rejected",
    "chosen_logps": "logprobs_chosen", "rejected_logps": "logprobs_rejected", "kl_divergence": "kl", "approx_kl": "kl",
    "clipfrac": "clip_fraction_low or clip_fraction_high", "clip_frac": "clip_fraction_low or clip_fraction_high",
    "mean_reward": "reward_mean", "response_length": "completion_length", "lr": "learning_rate", "grad_norms": "grad_norm",
}  # fmt: skip
EMPTY = "every completion empty"  # no sampler makes such a batch, so an error for it is not a fault; a non-finite number is
RAREST = -60.0  # log-probability of a sampled token, at least
SOME_EMPTY = "some completions empty"  # left out, truncated ones say; losses of pairs meet none, unless they read labels
OWN_WORDS = {"logps": "logprobs", "logp": "logprobs", "response": "completion", "responses": "completions", "ref": "reference"}
_TAKEN = {"loss", "learning_rate", "grad_norm", "grad_norm_clipped"}


def repeats(subject: Subject) -> Finding:
    """The same random stream gives the same batch and the same loss; no global generator, clock or hidden state is used."""
    seen: list[tuple[str, Tensor]] = []
    records: list[Any] = []
    before = repr(subject.algorithm)
    subject.stand_in()  # computes cached properties, such as warm_up
    with global_generators() as used:
        for seed in (None, 1):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
                subject.draw(subject.stand_in(shape="alike"))  # changes hidden state, if there is any
            laboratory = subject.stand_in()
            drawn = subject.draw(laboratory)
            if seed is None and used():
                return _global_generator(subject, used(), "draw")
            batch = subject.first_update(laboratory)
            if seed is None and used():
                return _global_generator(subject, used(), "updates")
            as_drawn = _held(batch)
            source = subject.source(laboratory, batch)
            gradient = flat(source, laboratory)
            if seed is None and used():
                return _global_generator(subject, used(), "compute_loss")
            if changed := [name for name, value in _held(batch).items() if as_drawn.get(name, value) != value]:
                return _batch_changed(subject, changed[0])
            seen.append((signature(drawn), gradient))
            records.append(source.record)
            again, _ = subject.gradient(laboratory, batch)
            if not torch.equal(again, gradient):
                return _differs_from_call_to_call(
                    subject, "compute_loss", "the same batch gives another gradient the second time"
                )
    if seen[0][0] != seen[1][0]:
        return _differs_from_call_to_call(subject, "draw", "the same stream gives another batch the second time")
    if not torch.equal(seen[0][1], seen[1][1]):
        return _differs_from_call_to_call(subject, "compute_loss", "the same draw gives another loss the second time")
    if records[0] != records[1]:
        return _differs_from_call_to_call(
            subject, "state of the loss", "the same draw gives its running mean another value to add"
        )
    if repr(subject.algorithm) != before:
        return broken("the algorithm's own fields changed", where="draw or compute_loss", mend="keep what must last in lab.state")
    return passed("equal to the last bit")


def _calls(subject: Subject, method: str) -> Callable[[], object]:
    """Return a function that draws a batch (draw), or draws one and computes its loss, in a new laboratory."""
    laboratory = subject.stand_in()
    if method == "draw":
        return lambda: subject.draw(laboratory)
    return lambda: subject.loss(laboratory, subject.first_update(laboratory))


def _global_generator(subject: Subject, names: list[str], method: str) -> Finding:
    run = _calls(subject, method)
    if dropout := first_result(run, drops_out):
        wrong, mend = "dropout is applied to the loss", "take it out: a policy's own dropout is 0 too, and runs would not repeat"
        return broken(wrong, where=dropout, mend=mend)
    with global_generators() as used:
        place = first_change(run, lambda: bool(used()))
    return broken(
        f"the global generator of {' and '.join(names)} is used",
        where=place or method,
        mend="take random numbers from lab.rng (draw) or rng (updates): rng.child('noise').torch(), .numpy()",
    )


def _batch_changed(subject: Subject, name: str) -> Finding:
    laboratory, batch = subject.stand_in_batch()
    as_drawn = _held(batch)
    place = first_change(lambda: subject.loss(laboratory, batch), lambda: _held(batch) != as_drawn)
    return broken(
        f"compute_loss changes {name}",
        where=place or "compute_loss",
        mend="no in-place methods (add_, mul_, clamp_, x[...] = y) on what a batch holds: the next update sees them",
    )


def _differs_from_call_to_call(subject: Subject, method: str, wrong: str) -> Finding:
    if clock := clock_read(_calls(subject, method)):
        return broken(f"{wrong}: a clock is read", where=clock, mend="count steps, lab.step, where time shall matter")
    if method == "draw":
        why = "a generator without a seed, or a variable of a module or class that draws change"
        mend = "derive every random number from lab.rng, and keep what must last in lab.state"
    else:
        why = "a variable of a module, class or object that calls change, or a generator of its own"
        mend = "compute_loss is a pure function of policy and batch: no counters, no random numbers of its own"
    return broken(f"{wrong}: it depends on {why}", where=method, mend=mend)


def _held(batch: Any) -> dict[str, str]:
    """Return path -> hash of every tensor in a batch."""
    return {where: signature(tensor) for where, tensor in tensors_of(batch)}


@contextmanager
def global_generators() -> Iterator[Callable[[], list[str]]]:
    """Yield a function that names the global generators used since then; restore their states afterwards."""

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
    """Loss, metrics and gradient are finite for log-probabilities of -1e4 to 0, of -60 if sampled, and on odd batches."""
    cases: dict[str, dict[str, Any]] = {}
    losses = list(losses_of(subject.algorithm))
    if Need.REWARDS in subject.needs:
        cases["groups without signal (all rewards equal)"] = {"rewards": {"equal_rewards": True}}
    if not subject.goes_past:
        cases |= {
            "log-probabilities of -1e4": {"constant": -1e4},
            "log-probabilities of -1e4 under the reference": {"constant": -1e4, "constant_of": "reference"},
            f"log-probabilities of {RAREST:g} under the sampler": {"constant": RAREST, "constant_of": "sampler"},
            "log-probabilities of -1e4 on about half of the completions": {"constant": -1e4, "mixed": True},
            "log-probabilities of 0": {"constant": 0.0},
            "completions of one token": {"shape": "one token"},
        }
    if not subject.goes_past and (
        Need.REWARDS in subject.needs or not losses or any("label" in each.requires for _, each in losses)
    ):
        cases |= {SOME_EMPTY: {"shape": "some empty"}, EMPTY: {"shape": "empty"}}
    if not cases:
        return skipped("the loss reads the model itself, whose numbers cannot be set")
    for name, settings in cases.items():
        if (found := _finite_in(subject, subject.stand_in(dtype=torch.float32, **settings), name)) is not None:
            return found
    return passed(f"{len(cases)} cases")


def _finite_in(subject: Subject, laboratory: Laboratory, name: str) -> Finding | None:
    drawn: list[Any] = []

    def run() -> str:
        drawn.append(batch := draw_of(subject.algorithm, laboratory.lab(seed=subject.seed)))
        bad = [where for where, tensor in tensors_of(batch) if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
        if bad and name in (SOME_EMPTY, EMPTY) and not any("weights" in where for where in bad):
            subject.untried.append(f"{name}, for which {bad[0]} is not finite")  # what is sampled has a token, and a length
            return ""
        if bad or len(batch) == 0:
            return bad[0] if bad else ""
        drawn.append(batch)
        if (updated := next(iter(subject.algorithm.updates(batch, Stream(subject.seed, ("updates", 0)))), None)) is None:
            return ""
        gradient, figures = subject.gradient(laboratory, updated)
        if not bool(torch.isfinite(gradient).all()):
            return "the gradient"
        return next((f"the figure {key}" for key, value in figures.items() if not math.isfinite(value)), "")

    place = ""
    try:
        what = run()
        said = f"{what} is not finite for {name}" if what else ""
    except NonFiniteError as error:
        said = f"{error}".partition(";")[0]
    except RlxError:
        return None  # the algorithm refuses such numbers
    except Exception as error:
        if name == EMPTY:
            subject.untried.append(f"{name}, for which it raises ({type(error).__name__}: {error})")
            return None
        said, place = f"{type(error).__name__}: {error}, for {name}", users_place(error)
    if not said:
        return None
    method = "draw" if len(drawn) < 2 else "compute_loss"
    return broken(
        said,
        where=place or first_result(run, becomes_infinite) or method,
        example=name,
        mend="clamp what goes into exp, log, sqrt or a division: counts to 1, log-ratios to +-20; add an epsilon to deviations",
    )


def metrics(subject: Subject) -> Finding:
    """Metrics carry no gradient, are finite (sum, count) pairs, and follow rlx's naming."""
    laboratory, batch = subject.stand_in_batch()
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
    drawn = {name for name in getattr(batch, "metrics", {}) if not name.startswith("reward/")}  # reward/: the task's names
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
