"""Part of the law of draws, on completions that a replay buffer repeats in a later draw."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import at, parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import Key, ScriptedSampler, StandInPolicy, key_of, keys_of
from rlx.check.subject import Laboratory, Subject, completion_gradients, reads_logprobs, row_shown
from rlx.policy.base import Policy
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Draw
from rlx.seeding import Stream

DRAWS = 4  # in which what was sampled may come again
MOST_UPDATES = 8  # of a draw
MOVED = 1.0  # nats a token, by which the policy moves from one draw to the next
FURTHER = 1.5  # times the policy's log-probabilities, where it has moved otherwise
APART = 1e-3  # nats: no rounding
ROUNDED = 1e-9  # relative: what a difference of two gradients is off by


@dataclass(frozen=True, kw_only=True)
class _Witness(ScriptedSampler):
    """A scripted sampler that remembers the completions it made."""

    made: set[Key] = field(default_factory=set)

    def complete(self, policy: Policy, draw: Draw) -> Completions:
        found = super().complete(policy, draw)
        size = len(found.lengths) // max(1, len(draw.prompts))
        for row, length in enumerate(found.lengths):
            self.made.add(key_of(draw.prompts[row // size], found.tokens[row, :length]))
        return found


def replayed(subject: Subject) -> Finding | None:
    """Completions that come again are weighed by what the policy said of them when they were sampled."""
    laboratory = subject.stand_in()
    if Need.REWARDS not in subject.needs or subject.task.interaction is not None:
        return None
    if not isinstance(laboratory.policy, StandInPolicy):
        return None
    given = {item.name: getattr(laboratory.sampler, item.name) for item in fields(laboratory.sampler)}
    witness = laboratory.sampler = _Witness(**given)
    known: dict[Key, Tensor] = {}
    for step in range(DRAWS):
        state = copy.deepcopy(laboratory.state)
        batch = subject.draw(laboratory, step=step)
        if not laboratory.state:
            return None
        known = {key: said for key, said in known.items() if key not in witness.made}  # what is sampled again is new
        witness.made.clear()
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
    """A later update of a draw, on rows that an earlier one has learned from, weighs them by what was said at the draw."""
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
    """The draw of a step, from the state before it, of a policy that has moved further. Nothing is changed by it."""
    leaf = laboratory.policy.leaves["token_logprobs"]
    witness = laboratory.sampler
    assert isinstance(witness, _Witness)
    twin = replace(laboratory, state=copy.deepcopy(state), sampler=replace(witness, made=set()))
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
    """Old completions are pushed up and down, whatever the policy that sampled them said, and whatever it says now.

    A pull that acts on each token by itself does not make up for it. What is only imitated may be old; so may what a regression
    of log-ratios is made of, whose slope moves with the policy.
    redrawn: gives the same draw of a policy that has moved further, whose weights draw itself may have made.
    """
    if not known or not hasattr(batch, "sampling_logprobs"):
        return None
    try:
        gradient, _ = subject.gradient(laboratory, batch)
    except Exception as error:  # updates may give what a draw lacks
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
        """What the signs of advantages decide; without advantages, everything."""
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
        return None  # nothing is pushed down, though what has a low advantage may be imitated less
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
    """The batch as draw would make it of the policy as it is: what the policy said before its updates is what it says now."""
    if getattr(batch, "proximal_logprobs", None) is None:
        return batch
    now = laboratory.policy.token_logprobs(batch.sequences, temperature=batch.temperature)
    return batch.with_values(proximal_logprobs=now.detach())


def _acts_across_tokens(
    laboratory: Laboratory, batch: Any, slopes: Callable[[Any], Tensor], of_tokens: Callable[[Tensor], Tensor]
) -> bool:
    """Whether another log-probability of the first token of every completion changes slopes at the tokens after it."""
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
    """Whether a draw of a policy that has moved further has other weights or advantages for the same completions."""
    if keys_of(other.sequences) != keys_of(batch.sequences):
        return False
    return any(
        isinstance(getattr(batch, name, None), Tensor) and not torch.equal(getattr(batch, name), getattr(other, name))
        for name in ("weights", "advantages")
    )
