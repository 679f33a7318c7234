"""Compares two algorithms, on the draws of stand-in laboratories and of the real policy, or two objects of one kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm
from rlx.check.batch import group_keys, key_of, parts_of
from rlx.check.same_as.comparison import (
    DRAWN,
    Agreement,
    common_factor,
    ends_of_clip,
    matched,
    numbers,
    relative_gap,
    side_of_clip,
)
from rlx.check.same_as.formula import compare_advantages, compare_losses
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject, completion_gradients, row_shown
from rlx.errors import ConfigError
from rlx.loss.advantage.completion import Advantage
from rlx.loss.advantage.token import TokenAdvantage
from rlx.loss.base import Loss
from rlx.seeding import Stream

MOVED = 1e-3  # learning rate of the update that is compared
LARGER = 10.0  # factor by which a later difference exceeds the first one to be reported
# (name, arguments of `Subject.stand_in`)
LABORATORIES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("policy, sampler and reference agree", {"spread": 0.0}),
    ("a policy 0.05 nats a token away", {"spread": 0.05}),
    ("a policy 0.4 nats a token away", {"spread": 0.4}),
    ("a policy 2 nats a token away", {"spread": 2.0}),
    ("completions of 64 tokens", {"spread": 0.4, "shape": "long"}),
    ("completions of one token", {"spread": 0.4, "shape": "one token"}),
    ("all rewards equal", {"spread": 0.4, "rewards": {"equal_rewards": True}}),
    ("rewards 0.25 higher", {"spread": 0.4, "rewards": {"bonus": 0.25}}),
)


@dataclass(frozen=True)
class _Token:
    """One token: the sign of its advantage and side of the clip; its row and numbers as text; its place in the completion."""

    region: str
    shown: str
    place: str


def compare_algorithms(subject: Subject, other: Algorithm[Any], *, name: str) -> Agreement:
    """Return the first difference over all laboratories and the first much larger one. name: of the other algorithm."""
    twin = subject.with_algorithm(other)
    found: list[Agreement] = []
    equal: list[str] = []
    tokens, worst = 0, 0.0
    for place, settings in LABORATORIES:
        differences, off, count = _in_laboratory(subject, twin, place, settings, name)
        tokens, worst = tokens + count, max(worst, off)
        found += differences
        equal += [] if differences else [place]
        if any(each.off == float("inf") for each in differences):  # other rows cannot be compared
            break
    tried = f"{len(LABORATORIES)} laboratories, {tokens} tokens: draw, loss, gradient, update"
    if found:
        first, later = found[0], [each for each in found[1:] if each.off > LARGER * found[0].off]
        then = f"{later[0].first.partition(';')[0]}; {later[0].where}" if later else ""
        return replace(first, off=max(worst, first.off), tried=tried, then=then, equal="; ".join(equal))
    if (off := _real(subject, twin)) > DRAWN:
        wrong = f"on the real policy the gradients differ by {off:.1e} of the largest entry, on stand-ins they are equal"
        return Agreement(False, "the real policy", off, wrong, "what is read of the policy beside its token statistics")
    return Agreement(True, f"{tried}; and the real policy", max(worst, off))


def _in_laboratory(
    subject: Subject, twin: Subject, place: str, settings: Mapping[str, Any], name: str
) -> tuple[list[Agreement], float, int]:
    """Return (the first difference in a laboratory, the largest one, the number of tokens)."""
    laboratories = subject.stand_in(**settings), twin.stand_in(**settings)
    one, two = subject.draw(laboratories[0]), twin.draw(laboratories[1])
    if rows := _rows_differ(subject, one, two, other=name):
        return [Agreement(False, place, float("inf"), *rows)], float("inf"), 0
    first, second = (
        list(each.algorithm.updates(batch, Stream(subject.seed, ("updates", 0)))) for each, batch in ((subject, one), (twin, two))
    )
    if len(first) != len(second):
        counts = f"a draw makes {len(first)} updates, one of {name} {len(second)}"
        return [Agreement(False, place, float("inf"), counts, "updates")], float("inf"), 0
    tokens, worst = 0, 0.0
    for number, pair in enumerate(zip(first, second, strict=True)):
        found, off, count = _updates(subject, twin, laboratories, pair, name=name, place=f"{place}, update {number + 1}")
        tokens, worst = tokens + count, max(worst, off)
        if found is not None:
            return [found], worst, tokens
    return [], worst, tokens


def _rows_differ(subject: Subject, one: Any, two: Any, *, other: str) -> tuple[str, str, str] | None:
    """Return (difference, place, example) if the two algorithms draw different prompts or completions, else None."""
    parts = [parts_of(batch) for batch in (one, two)]
    shapes = [[(len(part), part.sequences.group_size) for part in each] for each in parts]
    if shapes[0] != shapes[1]:
        listed = [", ".join(f"{rows} rows of {size}" for rows, size in shape) for shape in shapes]
        return f"a draw is {listed[0]} completions, one of {other} {listed[1]}", "draw", "set the sizes of both alike"
    for ours, theirs in zip(*parts, strict=True):
        for row, keys in enumerate(zip(group_keys(ours.sequences), group_keys(theirs.sequences), strict=True)):
            if keys[0] != keys[1]:
                return (
                    f"other rows are drawn than by {other}",
                    f"draw, row {row}",
                    f"{row_shown(subject, ours, row)}; {row_shown(subject, theirs, row)}",
                )
    return None


def _updates(
    subject: Subject,
    twin: Subject,
    laboratories: tuple[Laboratory, Laboratory],
    batches: tuple[Any, Any],
    *,
    name: str,
    place: str,
) -> tuple[Agreement | None, float, int]:
    """Return (the first difference of one update, the largest difference, the number of tokens)."""
    sides = list(zip((subject, twin), laboratories, batches, strict=True))
    if not len(batches[0]):
        return None, 0.0, 0
    found = [each.gradient(laboratory, batch) for each, laboratory, batch in sides]
    slopes = [_at_tokens(*side[1:], gradient) for side, (gradient, _) in zip(sides, found, strict=True)]
    off, count = relative_gap(*slopes), len(slopes[0])
    if off > DRAWN:
        return _token_difference(subject, twin, laboratories, batches, slopes, name=name, place=place), off, count
    values = [_at_tokens(*side[1:], gradient, of="values") for side, (gradient, _) in zip(sides, found, strict=True)]
    if (critic := relative_gap(*values)) > DRAWN:
        return Agreement(False, place, critic, "the gradient at the critic's values differs", f"{place}; values"), critic, count
    losses = [figures["loss"] for _, figures in found]
    if abs(losses[0] - losses[1]) > DRAWN * max(1e-3, *map(abs, losses)):
        first = f"the loss is {losses[0]:.6g}, that of {name} {losses[1]:.6g}, with the same gradient"
        return Agreement(False, place, abs(losses[0] - losses[1]), first, f"{place}; a constant in the loss"), off, count
    moved = [_at_tokens(*side[1:], _moved(*side)) for side in sides]
    if relative_gap(*moved) > DRAWN:
        lengths = [float(each.norm()) for each in moved]
        first = f"with the same gradient an update moves the policy by {lengths[0]:.4g}, one of {name} by {lengths[1]:.4g}"
        where = f"{place}; update_policy: clip, scale or number of steps"
        return Agreement(False, place, relative_gap(*moved), first, where), off, count
    return None, off, count


def _at_tokens(laboratory: Laboratory, batch: Any, gradient: Tensor, *, of: str = "token_logprobs") -> Tensor:
    """Return [N] a gradient, or a step, at a batch's tokens in their order; all of it if the model itself is read."""
    if not isinstance(laboratory.policy, StandInPolicy):
        return gradient
    names, places = laboratory.policy.leaf_names, laboratory.policy.places.get(of, {})
    if of not in names:
        return torch.zeros(0)
    sizes = [len(laboratory.policy.leaves[name]) for name in names]
    part = dict(zip(names, torch.split(gradient, sizes), strict=True))[of]
    rows = (row for each in parts_of(batch) for row in zip(each.sequences.prompts, each.sequences.completions, strict=True))
    keys = [key_of(prompt, tokens) for prompt, group in rows for tokens in group]
    return torch.cat([torch.zeros(0), *(part[places[key]] for key in keys if key in places)])


def _moved(subject: Subject, laboratory: Laboratory, batch: Any) -> Tensor:
    """Return [all parameters] the policy's change by one update, which is undone."""
    leaves = laboratory.policy.parameters()
    before = [leaf.detach().clone() for leaf in leaves]
    source = subject.accumulate(subject.algorithm, laboratory.policy, laboratory.reference, batch, micro_batch=max(1, len(batch)))
    subject.algorithm.update_policy(source, subject.optimizer(laboratory, rate=MOVED))
    moved = torch.cat([(leaf.detach() - old).reshape(-1) for leaf, old in zip(leaves, before, strict=True)])
    with torch.no_grad():
        for leaf, old in zip(leaves, before, strict=True):
            leaf.copy_(old)
    return moved


def _token_difference(
    subject: Subject,
    twin: Subject,
    laboratories: tuple[Laboratory, Laboratory],
    batches: tuple[Any, Any],
    slopes: list[Tensor],
    *,
    name: str,
    place: str,
) -> Agreement:
    """Describe different gradients at tokens: at which tokens, in which term, from which advantage on."""
    scale = max(float(each.abs().max()) for each in slopes if each.numel())
    tokens = list(_tokens(subject, twin, laboratories[0], batches[0]))
    if len(slopes[0]) != len(slopes[1]) or len(tokens) != len(slopes[0]):
        return Agreement(False, place, relative_gap(*slopes), "the gradients differ", place)
    differs = ((slopes[0] - slopes[1]).abs() > DRAWN * scale).tolist()
    number = differs.index(True)
    first = f"the gradient at a token is {float(slopes[0][number]):.6g}, that of {name} {float(slopes[1][number]):.6g}"
    factor = common_factor((slopes[0], slopes[1]), 1e3 * DRAWN)
    first += "" if factor is None else f": {factor:.6g} times as much everywhere"
    first += _advantage_difference(batches, name) + _term_difference(subject, twin, laboratories, batches)
    here = sorted({token.region for token, off in zip(tokens, differs, strict=True) if off})
    alike = sorted({token.region for token in tokens} - set(here))
    where = f"{place}; {tokens[number].place}; {tokens[number].region}; {sum(differs)} of {len(tokens)} tokens differ"
    if alike:
        where += f", none with {' or '.join(alike)}"
    return Agreement(False, place, relative_gap(*slopes), first, where, tokens[number].shown)


def _tokens(subject: Subject, twin: Subject, laboratory: Laboratory, batch: Any) -> Iterator[_Token]:
    """Yield every token of a batch, in the order of `_at_tokens`."""
    if not isinstance(laboratory.policy, StandInPolicy) or "token_logprobs" not in laboratory.policy.leaves:
        return
    leaf, ends = laboratory.policy.leaves["token_logprobs"].detach(), ends_of_clip(subject.algorithm, twin.algorithm)
    for part in parts_of(batch):
        advantages, sampled = getattr(part, "advantages", None), getattr(part, "sampling_logprobs", None)
        for row, group in enumerate(completion_gradients(laboratory, part, leaf)):
            shown = row_shown(subject, part, row)
            for column, own in enumerate(group):
                for token in range(len(own)):
                    region, more = f"completion {column + 1} of {len(group)}", ""
                    if isinstance(advantages, Tensor) and sampled is not None:
                        each = float(advantages[row, column] if advantages.ndim == 2 else advantages[row, column, token])
                        before = float(sampled[row, column, token])
                        region = side_of_clip(each, math.exp(float(own[token]) - before), ends)
                        more = f"; log-probability {float(own[token]):.4g}, when sampled {before:.4g}, advantage {each:.4g}"
                    yield _Token(region, shown + more, f"token {token + 1} of {len(own)} of completion {column + 1}")


def _advantage_difference(batches: tuple[Any, Any], other: str) -> str:
    for ours, theirs in zip(*(parts_of(batch) for batch in batches), strict=True):
        mine, its = (getattr(part, "advantages", None) for part in (ours, theirs))
        if (
            not isinstance(mine, Tensor)
            or not isinstance(its, Tensor)
            or mine.shape != its.shape
            or relative_gap(mine, its) <= DRAWN
        ):
            continue
        row = int((mine - its).abs().flatten(1).amax(dim=1).argmax())
        rewards = getattr(ours, "rewards", mine)
        return (
            f"; the advantages of rewards {numbers(rewards[row : row + 1])} are {numbers(mine[row : row + 1])}, "
            f"those of {other} {numbers(its[row : row + 1])}"
        )
    return ""


def _term_difference(
    subject: Subject, twin: Subject, laboratories: tuple[Laboratory, Laboratory], batches: tuple[Any, Any]
) -> str:
    """Return the terms whose totals differ, as text; empty if there are none."""
    terms = [
        each.loss(laboratory, batch).terms for each, laboratory, batch in zip((subject, twin), laboratories, batches, strict=True)
    ]
    if set(terms[0]) != set(terms[1]):
        return f"; the terms are {', '.join(terms[0])}, those of the other {', '.join(terms[1])}"
    off = [key for key in terms[0] if abs(float((terms[0][key].total - terms[1][key].total).detach())) > DRAWN]
    return f"; term {', '.join(off)}" if off and len(terms[0]) > 1 else ""


def _real(subject: Subject, twin: Subject) -> float:
    """Return the difference of the gradients on the real policy."""
    found = []
    for each in (subject, twin):
        laboratory = each.real(moved=True)
        batch = each.first_update(laboratory)
        found.append(each.gradient(laboratory, batch[slice(0, 6)])[0] if len(batch) else torch.zeros(0))
    return relative_gap(*found)


# Compares two objects of one kind: algorithms, losses or advantages.


def compare(subject: Subject, mine: Any, other: Any, *, name: str) -> Agreement:
    """Compare two algorithms, two losses or two advantages. Raises ConfigError for objects of different kinds.

    subject: with which `mine` is tried. name: of the other one, for the report.
    """
    other, changed = matched(mine, other)
    if isinstance(mine, Algorithm) and isinstance(other, Algorithm):
        found = compare_algorithms(subject, other, name=name)
    elif isinstance(mine, Loss) and isinstance(other, Loss):
        found = compare_losses(mine, other, name=name)
    elif isinstance(mine, (Advantage, TokenAdvantage)) and isinstance(other, (Advantage, TokenAdvantage)):
        found = compare_advantages(mine, other, name=name)
    else:
        raise ConfigError(f"same_as: a {type(mine).__name__} is held against a {type(other).__name__}; name one of its own kind")
    return replace(found, matched=changed)
