"""Part of the law of draws, on completions that a replay buffer repeats in a later draw."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import Key, at, key_of, keys_of, parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import StandInPolicy, recording
from rlx.check.subject import Laboratory, Subject, completion_gradients, reads_logprobs, row_shown
from rlx.seeding import Stream

DRAWS = 4  # draws in which completions may be repeated
MOST_UPDATES = 8  # updates of one draw that are made
MOVED = 1.0  # nats a token by which the policy changes between draws
FURTHER = 1.5  # factor of the policy's log-probabilities, for a second change
APART = 1e-3  # nats, more than rounding
ROUNDED = 1e-9  # relative rounding error of a difference of two gradients


def replayed(subject: Subject) -> Finding | None:
    """Return a finding if repeated completions are not weighted by the log-probabilities with which they were sampled."""
    laboratory = subject.stand_in()
    if Need.REWARDS not in subject.needs or subject.task.interaction is not None:
        return None
    if not isinstance(laboratory.policy, StandInPolicy):
        return None
    laboratory.sampler = sampler = recording(laboratory.sampler)
    known: dict[Key, Tensor] = {}
    for step in range(DRAWS):
        state = copy.deepcopy(laboratory.state)
        batch = subject.draw(laboratory, step=step)
        if not laboratory.state:
            return None
        fresh = {key_of(*each) for each in sampler.sampled()}
        known = {key: said for key, said in known.items() if key not in fresh}
        laboratory.sampler = sampler = recording(sampler)
        made: dict[Key, Tensor] = {}
        for part in parts_of(batch):
            sampled, mask = getattr(part, "sampling_logprobs", None), part.sequences.completion_mask
            if not isinstance(sampled, Tensor) or sampled.shape != mask.shape:
                continue
            rows = zip(keys_of(part.sequences), sampled.flatten(0, 1), mask.flatten(0, 1), strict=True)
            for place, (key, said, inside) in enumerate(rows):
                made[key] = said[inside].double()
                off = float((made[key] - known.get(key, made[key])).abs().max()) if len(made[key]) else 0.0
                if off > APART:
                    return _said_anew(subject, part, place // mask.shape[1], off, step)
        if found := _weighed_as_new(subject, laboratory, batch, known, partial(_redrawn, subject, laboratory, step, state)):
            return found
        known = made | known
        if "token_logprobs" in laboratory.policy.leaves:
            with torch.no_grad():
                laboratory.policy.leaves["token_logprobs"].sub_(MOVED)
    return None


def updated_again(subject: Subject) -> Finding | None:
    """Return a finding if later updates of a draw ignore sampling log-probabilities on rows of earlier updates."""
    if Need.REWARDS not in subject.needs or subject.task.interaction is not None or subject.goes_past or subject.warm_up:
        return None
    laboratory = subject.stand_in()
    parts = list(islice(subject.algorithm.updates(subject.draw(laboratory), Stream(subject.seed, ("updates", 0))), MOST_UPDATES))
    if len(parts) < 2 or not hasattr(parts[-1], "sampling_logprobs"):
        return None
    last, seen = parts[-1], {key for part in parts[:-1] for key in keys_of(part.sequences)}
    known = {key: torch.zeros(0) for key in keys_of(last.sequences) if key in seen}
    if not known:
        return None
    gradient, _ = subject.gradient(laboratory, last)
    if not reads_logprobs(laboratory):
        return None
    if (held := last.proximal_logprobs) is not None:
        moved = last.with_values(proximal_logprobs=torch.where(last.completion_mask, held - MOVED, 0.0))
        if not torch.equal(subject.gradient(laboratory, moved)[0], gradient):
            return None
    with torch.no_grad():
        laboratory.policy.leaves["token_logprobs"].sub_(MOVED)
    found = _weighed_as_new(subject, laboratory, last, known, lambda: last)
    if found is None:
        return None
    return replace(
        found,
        wrong=f"update {len(parts)} of a draw learns from rows of earlier updates as if the policy, which these have moved (by "
        f"{MOVED:g} nats a token here), had sampled them now: sampling_logprobs do not matter",
        where="compute_loss",
        number=f"{len(parts)} updates",
        mend="weigh them by the ratio exp(policy - batch.sampling_logprobs), clipped or truncated, or make one update a draw",
    )


def _redrawn(subject: Subject, laboratory: Laboratory, step: int, state: dict[str, Tensor]) -> Any:
    """Return the draw of a step for a policy that has changed further, from the former state; the laboratory does not change."""
    leaf = laboratory.policy.leaves["token_logprobs"]
    twin = replace(laboratory, state=copy.deepcopy(state), sampler=recording(laboratory.sampler))
    with at(leaf, FURTHER * leaf.detach()):
        return subject.draw(twin, step=step)


def _said_anew(subject: Subject, part: Any, row: int, off: float, step: int) -> Finding:
    return broken(
        f"the sampling log-probabilities of a completion that comes again at step {step} are not those of when it was sampled "
        f"(up to {off:.2g} nats apart): its ratio is 1 however far the policy has moved since",
        number=f"{off:.2g}",
        where="draw",
        example=row_shown(subject, part, row),
        mend="a replay buffer keeps sampling_logprobs: leave them as buffer.sample(...) gives them; what the policy says before "
        "its updates is proximal_logprobs",
    )


def _weighed_as_new(
    subject: Subject, laboratory: Laboratory, batch: Any, known: dict[Key, Tensor], redrawn: Callable[[], Any]
) -> Finding | None:
    """Return a finding if repeated completions are learned regardless of the sampler's and the policy's log-probabilities.

    A regulariser on single tokens does not compensate for it. Old completions may be imitated, or used in a regression on
    log-ratios, whose slope changes with the policy.
    redrawn: returns the same draw of a policy that has changed further, since draw itself may have computed weights.
    """
    if not known or not hasattr(batch, "sampling_logprobs"):
        return None
    try:
        gradient, _ = subject.gradient(laboratory, batch)
    except Exception as error:  # updates may add fields that a draw lacks
        subject.untried.append(f"completions of earlier draws: no loss of a whole draw ({type(error).__name__}: {error})")
        return None
    if not reads_logprobs(laboratory):
        return None
    keys, size = keys_of(batch.sequences), batch.sequences.group_size
    old = [row for row in range(len(batch)) if keys[row * size] in known]
    leaf = laboratory.policy.leaves["token_logprobs"]

    def of_tokens(values: Tensor) -> Tensor:
        groups = completion_gradients(laboratory, batch, values)
        return torch.cat([values[:0], *(each for row in old for each in groups[row])])

    def slopes(each: Any) -> Tensor:
        return of_tokens(subject.gradient(laboratory, each)[0])

    def taught() -> Tensor:
        """Return the part of the slopes that depends on the signs of advantages; without advantages, all slopes."""
        here = slopes(batch)
        return here if against is None else here - slopes(against)

    elsewhere = torch.where(batch.completion_mask, batch.sampling_logprobs - MOVED, 0.0)
    if not torch.equal(subject.gradient(laboratory, batch.with_values(sampling_logprobs=elsewhere))[0], gradient):
        return None
    advantages = getattr(batch, "advantages", None)
    against = batch.with_values(advantages=-advantages) if isinstance(advantages, Tensor) else None
    if against is not None and _acts_across_tokens(laboratory, batch, slopes, of_tokens):
        against = None
    learned, pushed = taught(), slopes(batch)
    if not all(bool(((way * learned > 0) & (way * pushed > 0)).any()) for way in (1, -1)):
        return None  # no log-probability is lowered
    with at(leaf, FURTHER * leaf.detach()):
        batch = _as_said_now(laboratory, batch)
        against = batch.with_values(advantages=-advantages) if against is not None and advantages is not None else None
        further = taught()
    if float((further - learned).abs().max()) > ROUNDED * float(learned.abs().max()) or _draw_weighs(batch, redrawn()):
        return None
    return broken(
        f"{len(old)} groups of earlier draws are learned as if the policy had sampled them now, though it has moved by "
        f"{MOVED:g} nats a token: their sampling log-probabilities do not matter",
        number=f"{len(old)} of {len(batch)} groups",
        where="compute_loss",
        example=row_shown(subject, batch, old[0]),
        mend="weigh them by exp(policy - batch.sampling_logprobs), truncated: rlx guide rollouts has an example",
    )


def _as_said_now(laboratory: Laboratory, batch: Any) -> Any:
    """Return the batch with proximal log-probabilities of the current policy, as draw would compute them."""
    if getattr(batch, "proximal_logprobs", None) is None:
        return batch
    now = laboratory.policy.token_logprobs(batch.sequences, temperature=batch.temperature)
    return batch.with_values(proximal_logprobs=now.detach())


def _acts_across_tokens(
    laboratory: Laboratory, batch: Any, slopes: Callable[[Any], Tensor], of_tokens: Callable[[Tensor], Tensor]
) -> bool:
    """Whether a change of the first token's log-probability in every completion changes slopes at later tokens."""
    leaf = laboratory.policy.leaves["token_logprobs"]
    firsts = torch.zeros(len(leaf), dtype=torch.bool)
    for key in keys_of(batch.sequences):
        place = laboratory.policy.places["token_logprobs"][key]
        firsts[place.start : min(place.stop, place.start + 1)] = True
    usual = slopes(batch)
    by = torch.rand(int(firsts.sum()), generator=torch.Generator().manual_seed(0), dtype=leaf.dtype)
    with at(leaf, leaf.detach()[firsts] - by, firsts):
        changed = slopes(batch) != usual
    return bool(changed[~of_tokens(firsts)].any())


def _draw_weighs(batch: Any, other: Any) -> bool:
    """Whether the draw of a changed policy has other weights or advantages for the same completions."""
    if keys_of(other.sequences) != keys_of(batch.sequences):
        return False
    return any(
        isinstance(getattr(batch, name, None), Tensor) and not torch.equal(getattr(batch, name), getattr(other, name))
        for name in ("weights", "advantages")
    )
