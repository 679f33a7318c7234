"""The law of clips: what they stop, and on which side."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.check.batch import at, parts_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.place import first_result
from rlx.check.subject import Laboratory, Subject, completion_gradients, reads_logprobs, row_shown

MOVES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)  # nats a token between the policy and its sampler: ratios of 1/20 to 20
MOST = 10.0  # nats of a whole completion, below usual guards of exp against overflow
NEARBY = (-0.25, 0.25)  # nats a token between the policy and its sampler
WITHIN = 0.15  # nats, within usual clip ranges
CLOSE = 0.05  # nats, within them even for the square of a ratio
FAR = 0.9  # nats, beyond usual clip ranges
DEPTH = 3.5  # nats by which all log-probabilities are lower, so that they can rise and stay below 0
LARGE = 4.0  # the smallest positive advantage when advantages are scaled up
MOST_FACTOR = 64.0  # largest factor of that scaling: beyond it, exponentials may become 0
FADED = 1e-6  # share of a slope that remains shortly before it rounds to 0
ONE = 1e-9  # largest difference of a ratio from 1 that counts as none
CLIP_MEND = "the clipped objective is the smaller of the two: -torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A)"


@dataclass(frozen=True)
class _Lost:
    """Tokens that moved in the wrong direction and have no gradient there, though they have one at policy = sampler.

    tokens: bool [N], in the order of the stand-in policy's leaves; move: nats, negative if the tokens became less likely.
    """

    tokens: Tensor
    move: float
    what: str


def clip(subject: Subject) -> Finding:
    """A clip may stop tokens that moved with their advantage, but not sooner those that moved against it."""
    if Need.REWARDS not in subject.needs or subject.algorithm.kind is AlgorithmType.PREFERENCE_LEARNING:
        return skipped("no rewarded completions are given up")
    if (found := _ratio_is_one(subject)) is not None:
        return found
    laboratory, batch = subject.stand_in_batch(spread=0.0, depth=DEPTH)
    if len(batch):
        subject.loss(laboratory, batch)  # creates the leaves of every token
    if not reads_logprobs(laboratory):
        return skipped("the loss does not read token log-probabilities through the policy")
    start = _slopes(subject, laboratory, batch, 0.0)
    slopes = {way * move: _slopes(subject, laboratory, batch, way * move) for move in MOVES for way in (1, -1)}
    near = {move: _slopes(subject, laboratory, batch, move) for move in (-WITHIN, WITHIN, -CLOSE, CLOSE)}
    if (found := _idle_on_policy(subject, laboratory, batch, start, [*near.values(), *slopes.values()])) is not None:
        return found
    if (product := _clips_the_product(subject, laboratory, batch, start)) is not None:
        return product
    if (awry := _weighed_awry(subject, laboratory, batch, start, near, slopes)) is not None:
        return awry
    if (away := _drifts(subject, laboratory, batch, start, slopes)) is not None:
        return away
    if (lost := _lost(subject, laboratory, batch, start, near | slopes)) is not None:
        return broken(
            f"tokens that went {abs(lost.move):g} nats the wrong way {lost.what}",
            number=f"{int(lost.tokens.sum())} tokens",
            where="compute_loss",
            example=_token_shown(subject, laboratory, batch, lost, start),
            mend=CLIP_MEND,
        )
    clipped, learning = torch.where(start < 0, slopes[MOVES[-1]], slopes[-MOVES[-1]]) == 0, start != 0
    return passed(f"{int((learning & clipped).sum())} of {int(learning.sum())} tokens given up")


def _lost(subject: Subject, laboratory: Laboratory, batch: Any, start: Tensor, slopes: dict[float, Tensor]) -> _Lost | None:
    """Return the first tokens that a clip stops on the wrong side, from the smallest move on; None if there are none.

    A token whose value is part of the loss must not be stopped at a smaller move on the wrong side than on the right one (the
    second bound of a dual clip is further out). A token whose value is 0 is left out of the loss, by its ratio alone or on the
    right side.
    """
    rises, learning = start < 0, start != 0  # rises: making these tokens likelier lowers the loss
    lengths = torch.ones(len(start))
    for part in parts_of(batch):
        for group in completion_gradients(laboratory, part, torch.arange(len(start))):
            for places in group:
                lengths[places] = float(len(places))
    gone_before = torch.zeros(len(start), dtype=torch.bool)  # stopped on the right side at a smaller move
    faded = {way: torch.zeros(len(start), dtype=torch.bool) for way in (1, -1)}  # 0 only by rounding: a smooth gate
    for move in (WITHIN, *MOVES):
        reached = learning & (move * lengths <= MOST)
        gone = {way: reached & (slopes[way * move] == 0) for way in (1, -1)}
        right = torch.where(rises, gone[1], gone[-1])
        for way in (1, -1):
            mine = rises if way < 0 else ~rises  # tokens that move in the wrong direction
            wrong = gone[way] & mine & ~gone_before & ~faded[way]
            here = slopes[way * move].abs()
            faded[way] |= (here > 0) & (here < FADED * start.abs())
            if not bool(wrong.any()):
                continue
            counted = _counted(subject, laboratory, batch, way * move, len(start))
            others = reached & ~mine
            for_a_sign = bool(others.any()) and not bool((gone[way] & others).any())
            for tokens, what in (
                (wrong & counted & right, "count in the loss, but nothing draws them back"),
                (
                    wrong & ~right & (counted | for_a_sign),
                    "are given up, while those that went as far the right way go on learning",
                ),
            ):
                if bool(tokens.any()):
                    return _Lost(tokens, way * move, what)
        gone_before |= right
    return None


def _ratio_is_one(subject: Subject) -> Finding | None:
    """Return a finding if the ratio that is clipped is 1 at every token although the policy is far from its sampler."""
    laboratory, batch = subject.stand_in_batch()
    if len(batch):
        subject.loss(laboratory, batch)  # creates the leaves of every token
    if not reads_logprobs(laboratory):
        return None
    leaf = laboratory.policy.leaves["token_logprobs"]
    with torch.no_grad():  # after the draw, which may read the policy
        leaf.sub_(torch.rand(leaf.shape, generator=torch.Generator().manual_seed(0), dtype=leaf.dtype))

    def is_one(name: str, args: tuple[Any, ...], _: Any) -> bool:
        given = args[0] if name in ("clamp", "clip", "clamp_max", "clamp_min") and args else None
        return isinstance(given, Tensor) and given.requires_grad and given.numel() > 1 and bool((given - 1).abs().lt(ONE).all())

    place = first_result(lambda: subject.loss(laboratory, batch), is_one) if len(batch) else ""
    if not place:
        return None
    return broken(
        "the ratio that is clipped is 1 at every token, though the policy has moved by up to 1 nat a token since the draw: no "
        "clip ever acts",
        number="1",
        where=place,
        example=row_shown(subject, batch, 0),
        mend="a ratio is to the log-probabilities when the batch was drawn: batch.sampling_logprobs, not those of the policy now",
    )


def _idle_on_policy(
    subject: Subject, laboratory: Laboratory, batch: Any, start: Tensor, moved: Sequence[Tensor]
) -> Finding | None:
    """Return a finding if tokens of one sign of the advantage have no gradient at policy = sampler, but elsewhere."""
    signs = _signs(laboratory, batch, len(start))
    elsewhere = torch.stack([slopes != 0 for slopes in moved]).any(dim=0)
    for sign, name in ((1, "positive"), (-1, "negative")):
        mine = signs == sign
        if bool((mine & elsewhere).any()) and not bool((mine & (start != 0)).any()) and bool((start != 0).any()):
            return broken(
                f"where the policy is its sampler, no completion with a {name} advantage learns anything; some would, had "
                "the policy moved away",
                number=f"0/{int(mine.sum())} tokens",
                where="compute_loss",
                example=_token_shown(subject, laboratory, batch, _Lost(mine, 0.0, ""), start),
                mend="the ratio is 1 there, its logarithm 0: a ratio is clipped to [1 - low, 1 + high], a log-ratio to "
                "[log(1 - low), log(1 + high)]",
            )
        if bool(mine.any()) and not bool((mine & (elsewhere | (start != 0))).any()) and bool((start != 0).any()):
            if not all(bool(_counted(subject, laboratory, batch, move, len(start))[mine].all()) for move in (0.0, *NEARBY)):
                continue  # left out of the loss on purpose
            return broken(
                f"completions with a {name} advantage count in the loss, but none of them learns anything, wherever the policy "
                "has moved",
                number=f"0/{int(mine.sum())} tokens",
                where="compute_loss",
                example=_token_shown(subject, laboratory, batch, _Lost(mine, 0.0, ""), start),
                mend="a second clip (dual clip) is for negative advantages alone: where A > 0 it stops every token. To leave "
                "them out on purpose, let their value be 0",
            )
    return None


def _clips_the_product(subject: Subject, laboratory: Laboratory, batch: Any, start: Tensor) -> Finding | None:
    """Return a finding if, at policy = sampler, larger advantages remove the gradient of positive ones, not of negative ones."""
    advantages = getattr(batch, "advantages", None)
    signs = _signs(laboratory, batch, len(start))
    good, bad = (signs > 0) & (start != 0), (signs < 0) & (start != 0)
    if not isinstance(advantages, Tensor) or not bool(good.any()) or not bool(bad.any()):
        return None
    factor = LARGE / float(advantages[advantages > 0].min())
    if not 1 < factor <= MOST_FACTOR:
        return None
    larger = batch.with_values(advantages=factor * advantages)
    slopes = _slopes(subject, laboratory, larger, 0.0)
    if bool((slopes[good] != 0).any()) or bool((slopes[bad] == 0).any()) or not bool(torch.isfinite(slopes).all()):
        return None
    if not bool(_counted(subject, laboratory, larger, 0.0, len(start))[good].all()):
        return None  # left out of the loss, as outliers may be left out
    return broken(
        f"where the policy is its sampler and advantages are {factor:.3g} times as large, no completion with a positive one "
        "learns anything, those with a negative one do: where a clip sets in depends on the size of the advantage",
        number=f"0/{int(good.sum())} tokens",
        where="compute_loss",
        example=_token_shown(subject, laboratory, batch, _Lost(good, 0.0, ""), start),
        mend=f"clip the ratio, not its product with the advantage: {CLIP_MEND}",
    )


def _weighed_awry(
    subject: Subject, laboratory: Laboratory, batch: Any, start: Tensor, near: dict[float, Tensor], slopes: dict[float, Tensor]
) -> Finding | None:
    """Return a finding if a token's weight is the square of its ratio, or is bounded from below but not from above."""
    learning = start != 0
    if not bool(learning.any()):
        return None
    weights = {move: (slope / start)[learning] for move, slope in slopes.items()}
    within = {move: (near[move] / start)[learning] for move in (-CLOSE, CLOSE)}  # no cap is active
    squares = all(bool((weight * math.exp(-2 * move) - 1).abs().lt(ONE).all()) for move, weight in within.items())
    if squares and bool((_slopes_of_ratios(subject, laboratory, batch, MOVES[0]) / start - 1)[learning].abs().lt(ONE).all()):
        return broken(
            f"the gradient of a token goes with the square of its ratio ({math.exp(2 * MOVES[0]):.3g} times as much at a ratio "
            f"of {math.exp(MOVES[0]):.3g}): it is weighed by the ratio twice",
            number="2",
            where="compute_loss",
            example=_token_shown(subject, laboratory, batch, _Lost(learning, MOVES[0], ""), start),
            mend="a ratio with a gradient is its own weight, -ratio * A; a constant one weighs the log-probability, "
            "-stop_gradient(ratio) * logprobs * A",
        )
    of = "ratios"
    if not _has_a_floor(weights):
        proximal = getattr(batch, "proximal_logprobs", None)
        if not isinstance(proximal, Tensor):
            return None
        for move in (*(-move for move in MOVES), *MOVES[-2:]):  # changes the ratio of trainer and sampler
            there = batch.with_values(sampling_logprobs=torch.where(batch.completion_mask, proximal - move, 0.0))
            weights[move] = (_slopes(subject, laboratory, there, 0.0) / start)[learning]
        of = "ratios of proximal_logprobs to sampling_logprobs"
        if not _has_a_floor(weights):
            return None
    largest = float(weights[MOVES[-1]].max())
    return broken(
        f"the weight of a token is the same for {of} from 1/20 to 1 and goes with the ratio above ({largest:.3g} times as much "
        f"{MOVES[-1]:g} nats up): it is bounded from below, where it need not be, and not from above",
        number=f"{largest:.3g}",
        where="compute_loss",
        example=_token_shown(subject, laboratory, batch, _Lost(learning, MOVES[-1], ""), start),
        mend="a truncated importance weight is min(ratio, cap): ratio.clamp(max=cap), not clamp(min=cap)",
    )


def _has_a_floor(weights: dict[float, Tensor]) -> bool:
    """Whether weights (move -> weights) are 1 for all moves down and proportional to the ratio at large moves up."""
    rising = weights[MOVES[-1]] / weights[MOVES[-2]] / math.exp(MOVES[-1] - MOVES[-2])
    return all(bool((weight - 1).abs().lt(ONE).all()) for weight in (*(weights[-move] for move in MOVES), rising))


def _drifts(subject: Subject, laboratory: Laboratory, batch: Any, start: Tensor, slopes: dict[float, Tensor]) -> Finding | None:
    """Return a finding if each token is driven on wherever it went, so that some that went the wrong way go further."""
    if any(bool((move * (slope - start)[start != 0] > 0).any()) for move, slope in slopes.items()):
        return None
    for move, slope in slopes.items():
        astray = (slope * start < 0) & (move * start > 0)
        if bool(astray.any()):
            return broken(
                f"{abs(move):g} nats from the sampler every token is driven further away than where the policy is its sampler, "
                "some of them against their advantage: distance is rewarded",
                number=f"{int(astray.sum())} tokens",
                where="compute_loss",
                example=_token_shown(subject, laboratory, batch, _Lost(astray, move, ""), start),
                mend="a penalty on the distance from the sampler enters the loss with a plus: + tau / 2 * log_ratio ** 2",
            )
    return None


def _signs(laboratory: Laboratory, batch: Any, size: int) -> Tensor:
    """Return [N] the sign of each token's advantage; 0 if the batch has none."""
    signs = torch.zeros(size)
    for part in parts_of(batch):
        advantages = getattr(part, "advantages", None)
        if not isinstance(advantages, Tensor) or advantages.shape[:2] != part.sequences.completion_mask.shape[:2]:
            continue
        each = advantages[..., None].expand(part.sequences.completion_mask.shape) if advantages.ndim == 2 else advantages
        for row, group in enumerate(completion_gradients(laboratory, part, torch.arange(size))):
            for column, place in enumerate(group):
                signs[place] = torch.sign(each[row, column, : len(place)]).to(signs)
    return signs


@contextmanager
def _moved(laboratory: Laboratory, batch: Any, distance: float) -> Iterator[tuple[Laboratory, Any]]:
    """Yield laboratory and batch with each token `distance` nats likelier than when sampled, under the reference too."""
    leaf = laboratory.policy.leaves["token_logprobs"]
    reference = copy.copy(laboratory.reference)
    reference.numbers = replace(reference.numbers, drift=-distance)
    laboratory = replace(laboratory, reference=reference)
    if (kept := getattr(batch, "reference_logprobs", None)) is not None:
        batch = batch.with_values(reference_logprobs=torch.where(batch.completion_mask, kept + distance, 0.0))
    with at(leaf, leaf.detach() + distance):
        yield laboratory, batch


def _slopes(subject: Subject, laboratory: Laboratory, batch: Any, distance: float) -> Tensor:
    """Return float64 [N] the slope of the loss at each token's log-probability, after all have moved by this many nats."""
    with _moved(laboratory, batch, distance) as (there, moved):
        return subject.gradient(there, moved)[0][: len(laboratory.policy.leaves["token_logprobs"])]


def _slopes_of_ratios(subject: Subject, laboratory: Laboratory, batch: Any, distance: float) -> Tensor:
    """Return `_slopes` with all log-probabilities moved equally, so that every ratio stays the same, but no probability."""
    names = ("sampling_logprobs", "proximal_logprobs")
    held = {name: tensor for name in names if isinstance(tensor := getattr(batch, name, None), Tensor)}
    there = {name: torch.where(batch.completion_mask, tensor + distance, 0.0) for name, tensor in held.items()}
    return _slopes(subject, laboratory, batch.with_values(**there) if there else batch, distance)


def _counted(subject: Subject, laboratory: Laboratory, batch: Any, distance: float, size: int) -> Tensor:
    """Return bool [N] tokens where a term that reads log-probabilities has a non-zero weighted value, by token or completion."""
    found = torch.zeros(size, dtype=torch.bool)
    leaf = laboratory.policy.leaves["token_logprobs"]
    with _moved(laboratory, batch, distance) as (there, moved):
        terms = [term for term in subject.loss(there, moved).terms.values() if reads(term.values, leaf)]
    for part in parts_of(batch):
        mask = part.sequences.completion_mask
        places = completion_gradients(laboratory, part, torch.arange(size))
        for values in ((term.values * term.weights).detach() for term in terms):
            each = values[..., None].expand(mask.shape) if values.shape == mask.shape[:-1] else values
            if each.shape != mask.shape:
                continue
            for row, group in enumerate(places):
                for column, place in enumerate(group):
                    found[place] |= each[row, column, : len(place)] != 0
    return found


def reads(values: Tensor, leaf: Tensor) -> bool:
    """Whether the values are computed from the leaf."""
    return values.requires_grad and torch.autograd.grad(values.sum(), leaf, allow_unused=True, retain_graph=True)[0] is not None


def _token_shown(subject: Subject, laboratory: Laboratory, batch: Any, lost: _Lost, start: Tensor) -> str:
    """Return the text, the ratio, the sign of the advantage and the row of the first of these tokens."""
    signs = _signs(laboratory, batch, len(start))
    signs = torch.where(signs == 0, -torch.sign(start).to(signs), signs)  # a user's batch may have no advantages
    for part in parts_of(batch):
        places = completion_gradients(laboratory, part, torch.arange(len(start)))
        for row, group in enumerate(places):
            for column, place in enumerate(group):
                if not bool(lost.tokens[place].any()):
                    continue
                first = int(lost.tokens[place].nonzero()[0])
                token = subject.policy.decode(part.sequences.completions[row][column][first : first + 1])
                sign = "positive" if float(signs[place[first]]) > 0 else "negative"
                return (
                    f"token {first + 1} ({token!r}) of completion {column + 1}: ratio {math.exp(lost.move):.3g}, "
                    f"advantage {sign}; {row_shown(subject, part, row)}"
                )
    return ""
