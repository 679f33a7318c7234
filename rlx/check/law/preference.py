"""Part of the law of directions, on pairs: each term of the loss pushes chosen completions up and rejected ones down."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import Key, at, keys_of, parts_of
from rlx.check.finding import Finding, broken
from rlx.check.law.sampled import pairs_of_other_rewards
from rlx.check.law.target import of_targets
from rlx.check.law.token import SIDES
from rlx.check.place import throws_dice
from rlx.check.stand_in import StandInPolicy
from rlx.check.subject import Laboratory, Subject, completion_gradients, losses_of, reads_logprobs, row_shown

FLAT = 1e-6  # a smaller slope or difference of losses counts as 0
MOST_PAIRS = 6  # pairs whose rejected completion gets a higher reward
EQUALLY = -1.1  # log-probability of every token when all are equally likely
LIKELY = -0.1  # log-probability of every token when all are likely
LEANING = 6.0  # nats a token by which a policy prefers one side of its pairs
BEHIND = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # the same, short of it
TURNED = 0.1  # of a slope, against its sign
SETTLED, DEEP = 1e4, 200.0  # the same after a pair is fully learned; nats a token by which both sides are below the reference
# side, sign of its correct slope, effect of a slope of the other sign, and words of the message about it
ASTRAY = (
    (1, 1, "rejected completions are made likelier", "negative", "chosen", "a likelihood term: it is of chosen ones alone"),
    (0, -1, "chosen completions are made less likely", "positive", "rejected", "a live weight of the policy's own likelihood"),
)


def preferred(
    subject: Subject, laboratory: Laboratory, batch: Any, part: Any, slopes: list[Tensor], *, begins: bool
) -> Finding | str:
    """Test that the loss falls when chosen completions become more and rejected ones less likely, at least far in that direction.

    begins: whether completions are as likely as when a run begins; if they are less likely, a term may keep one side from
    collapsing.
    """
    each = [float(slope[0] - slope[1]) for slope in slopes]
    labelled = any("label" in loss.requires for _, loss in losses_of(subject.algorithm))
    for side, sign, what, must, other, why in ASTRAY:
        astray = [row for row, slope in enumerate(slopes) if sign * float(slope[side]) < -FLAT]
        if 2 * len(astray) > len(slopes) and sum(each) < 0 and not labelled:
            return broken(
                f"{what} in {len(astray)} of {len(slopes)} pairs where the policy is its reference (slope "
                f"{float(slopes[astray[0]][side]):+.2e}, it must not be {must}), though {other} ones more so",
                number=f"{len(astray)} of {len(slopes)} pairs",
                where="compute_loss",
                example=row_shown(subject, part, astray[0]),
                mend=f"look for the sign of the {SIDES[side]} side, and for {why}",
            )
    if not any(bool(slope.any()) for slope in slopes) and len(slopes) and Need.REFERENCE in subject.needs:
        return broken(
            "where the policy is its reference, as when a run begins, no completion of a pair gets a gradient: learning "
            "starts by rounding errors or not at all",
            number="0",
            where="compute_loss",
            example=row_shown(subject, part, 0),
            mend="a hinge needs a margin that is asked for: relu(margin_wanted - beta * margin); of a curve, look for a sign: "
            "exp(z) + z rises at 0, exp(z) - z is flat there",
        )
    if begins and not labelled and (turned := _term_astray(subject, laboratory, batch, part)) is not None:
        return turned
    if sum(each) < 0 and (astray_later := _given_up(subject, laboratory, batch, part)) is not None:
        return astray_later
    if sum(each) < 0 and not labelled:

        def leaning(twin: Subject, side: int, by: float) -> tuple[float, Tensor, float]:
            loss, gradient = _leaning(twin, laboratory, batch, part, side=side, by=by)
            groups = completion_gradients(laboratory, part, gradient)
            return loss, gradient, float(sum(chosen.sum() - rejected.sum() for chosen, rejected in groups))

        settled = (of_targets(subject, leaning) if begins else None) or _turns_when_settled(subject, laboratory, batch, part)
        if (later := settled or _turns_behind(subject, laboratory, batch, part, each)) is not None:
            return later
    if sum(each) < 0 or not any(bool(slope.any()) for slope in slopes):  # the laws tokens and falls report no gradient
        return f"{sum(each):.1e}"
    _, figures = subject.gradient(laboratory, batch)
    chosen, rejected = (_leaning(subject, laboratory, batch, part, side=side)[0] for side in (0, 1))
    if chosen < min(rejected, figures["loss"]):
        return f"{sum(each):+.1e} here, but {chosen - rejected:.1e} from rejected to chosen: the curve is not monotone"
    row = max(range(len(each)), key=lambda row: each[row])
    return broken(
        f"preferring the chosen completions more raises the loss (slope {sum(each):+.2e}, it must be negative)",
        number=f"{sum(each):+.1e}",
        where="compute_loss",
        example=row_shown(subject, part, row),
        mend="chosen comes before rejected, and the loss falls with the margin: -log sigmoid(beta * (chosen - rejected))",
    )


def turned_where_likely(subject: Subject) -> Finding | None:
    """Return a finding if both sides of all pairs are pushed in the wrong direction at likely tokens, but not at unlikely ones.

    A loss that is not monotone at a margin of 0 is so at every probability; its slope there shows nothing.
    """
    if not subject.reads_pairs:
        return None
    slopes, example = _where_all_are(subject, LIKELY)
    if not slopes or not all(rejected < -FLAT for _, rejected in slopes):  # less confidence in chosen ones may be wanted
        return None
    unlikely, _ = _where_all_are(subject, EQUALLY)
    if any(chosen > FLAT or rejected < FLAT for chosen, rejected in unlikely):
        return None
    both = all(chosen > FLAT for chosen, _ in slopes)
    return broken(
        f"where every token has a probability of {math.exp(LIKELY):.2g}, preferring "
        + (f"the chosen completions more raises the loss (slope {slopes[0][0]:+.2e}, it must be negative), and " if both else "")
        + f"{'preferring ' if both else ''}the rejected ones lowers {'it' if both else 'the loss'} (slope {slopes[0][1]:+.2e}); "
        f"at {math.exp(EQUALLY):.2g} it does not",
        number=f"{len(slopes)} pairs",
        where="compute_loss",
        example=example,
        mend="look at what turns with the probability: log odds are log p - log(1 - p), with a minus",
    )


def _where_all_are(subject: Subject, logprob: float) -> tuple[list[list[float]], str]:
    """Return the slopes [chosen, rejected] of each pair when all give each token this log-probability, and an example row."""
    laboratory, batch = subject.stand_in_batch(constant=logprob, constant_of="everybody")
    gradient, _ = subject.gradient(laboratory, batch)
    parts = [part for part in parts_of(batch) if part.sequences.group_size == 2]
    if not parts or not reads_logprobs(laboratory):
        return [], ""
    groups = [group for part in parts for group in completion_gradients(laboratory, part, gradient) if min(map(len, group))]
    return [[float(side.sum()) for side in group] for group in groups], row_shown(subject, parts[0], 0)


def places_decide(subject: Subject, laboratory: Laboratory, batch: Any, part: Any) -> Finding | None:
    """Return a finding if positions in a group decide which of two sampled completions is chosen, always or at equal rewards."""
    if (
        part.sequences.group_size != 2
        or hasattr(part, "rewards")
        or subject.task.interaction is not None
        or not isinstance(laboratory.policy, StandInPolicy)
    ):
        return None
    return pairs_of_other_rewards(subject) or _rewards_unread(subject, laboratory, batch, part) or _ties_by_place(subject)


def _rewards_unread(subject: Subject, laboratory: Laboratory, batch: Any, part: Any) -> Finding | None:
    """Return a finding if pairs and their gradients stay the same when a rejected completion gets a higher reward.

    A group in the opposite order must give the reversed pair: an algorithm may rank completions by a rule of its own.
    """

    def drawn(each: Any) -> list[tuple[Key, Key]]:
        return [pair for within in parts_of(each) for pair in _pairs(within)]

    pairs, (gradient, _) = drawn(batch), subject.gradient(laboratory, batch)
    for _, rejected in part.sequences.completions[:MOST_PAIRS]:
        text = subject.sampler.text(subject.policy, rejected)
        other = subject.stand_in(spread=0.0, rewards={"rewarded": text})
        again = subject.first_update(other)
        if drawn(again) != pairs or not torch.equal(subject.gradient(other, again)[0], gradient):
            return None
    turned = drawn(subject.first_update(_turned(subject.stand_in(spread=0.0))))
    if turned == pairs or [{*pair} for pair in turned] != [{*pair} for pair in pairs]:
        return None
    return broken(
        "rewards decide nothing: pairs, and what they teach, stay the same whichever rejected completion is rewarded by 1 more",
        number=f"{min(len(part), MOST_PAIRS)} pairs",
        where="draw",
        example=row_shown(subject, part, 0),
        mend="the better rewarded completion of a group is chosen: best_against_worst(batch) reads batch.rewards",
    )


def _ties_by_place(subject: Subject) -> Finding | None:
    """Return a finding if a group in the opposite order gives the reversed pair at equal rewards.

    A rule of the algorithm's own, or chance, may rank completions with equal rewards.
    """
    for rewards in ({}, {"equal_rewards": True}):
        laboratory, batch = subject.stand_in_batch(spread=0.0, rewards=rewards)
        turned = subject.first_update(_turned(subject.stand_in(spread=0.0, rewards=rewards)))
        found = {pair for part in parts_of(turned) for pair in _pairs(part)}
        for part in parts_of(batch):
            pairs = _pairs(part)
            astray = [row for row, (chosen, rejected) in enumerate(pairs) if chosen != rejected and (rejected, chosen) in found]
            if not astray or throws_dice(lambda: subject.draw(subject.stand_in(spread=0.0))):
                continue
            slopes = completion_gradients(laboratory, part, subject.gradient(laboratory, batch)[0])
            if not any(bool(side.any()) for row in astray for side in slopes[row]):  # they have no weight
                continue
            return broken(
                f"{len(astray)} of {len(pairs)} pairs are turned round where the completions of their group come in the opposite "
                "order: of equal rewards, the place in the group decides which completion is preferred",
                number=f"{len(astray)} of {len(pairs)} pairs",
                where="draw",
                example=row_shown(subject, part, astray[0]),
                mend="equal rewards are a tie, of which no pair is made: keep the groups whose best reward is above their worst, "
                "as best_against_worst(batch) does",
            )
    return None


def _turned(laboratory: Laboratory) -> Laboratory:
    """Return the laboratory with the completions of every second group in the opposite order."""
    return replace(laboratory, sampler=replace(laboratory.sampler, turned=True))  # type: ignore[call-arg]


def _pairs(part: Any) -> list[tuple[Key, Key]]:
    """Return the keys of the chosen and the rejected completion of each row."""
    keys = keys_of(part.sequences)
    return list(zip(keys[::2], keys[1::2], strict=True))


def _term_astray(subject: Subject, laboratory: Laboratory, batch: Any, part: Any) -> Finding | None:
    """Return a finding if one of several terms reads one side of the pairs only and pushes it in the wrong direction."""
    terms = subject.loss(laboratory, batch).terms
    leaf = laboratory.policy.leaves["token_logprobs"]
    for name, term in terms.items() if len(terms) > 1 else ():
        if not term.total.requires_grad:
            continue
        (slopes,) = torch.autograd.grad(term.total, leaf, retain_graph=True, allow_unused=True)
        groups = [] if slopes is None else completion_gradients(laboratory, part, slopes)
        sums = torch.tensor([[float(side.sum()) for side in group] for group in groups]).reshape(-1, 2)
        for mine, sign, what, _, other, _ in ASTRAY:
            pushed = sign * sums[:, mine]
            if bool(sums[:, 1 - mine].any()) or not bool((pushed < -FLAT).any()) or bool((pushed > FLAT).any()):
                continue
            with at(leaf, EQUALLY):  # effects common to both sides are then equal on both
                known = (terms, subject.loss(laboratory, batch).terms)
            if any(
                _is_its_like(found[name], each, leaf, laboratory, part, 1 - mine, sign)
                for found in known
                for each in found.values()
            ):
                continue
            row = int(pushed.argmin())
            return broken(
                f"{what} by the term {name}, which reads that side of the pairs alone (slope {float(sums[row, mine]):+.2e})",
                number=f"{float(sums[row, mine]):+.1e}",
                where=f"terms[{name!r}]",
                example=row_shown(subject, part, row),
                mend=f"turn its sign, or let it read the {other} side: chosen completions enter the loss with a minus, "
                "-ours.chosen, rejected ones with a plus",
            )
    return None


def _is_its_like(term: Any, other: Any, leaf: Tensor, laboratory: Laboratory, part: Any, side: int, sign: int) -> bool:
    """Whether another term has the same effect on the other side of all pairs as a term has on its own side.

    Both together make all completions less likely, or all more likely: a penalty on confidence, whichever side is chosen. The
    effects are equal in total or at each token.
    """
    if other is term or not other.total.requires_grad:
        return False
    (mine,) = torch.autograd.grad(term.total, leaf, retain_graph=True, allow_unused=True)
    (slopes,) = torch.autograd.grad(other.total, leaf, retain_graph=True, allow_unused=True)
    if mine is None or slopes is None:
        return False
    groups = completion_gradients(laboratory, part, slopes)
    pushed = sign * torch.cat([group[side] for group in groups])
    if bool((pushed > 0).any()) or any(bool(group[1 - side].any()) for group in groups):
        return False
    sizes = [(float(each.abs().sum()), float(each.abs().max())) for each in (mine, slopes)]
    return any(one > 0 and abs(one - two) <= FLAT * one for one, two in zip(*sizes, strict=True))


def _leaning(
    subject: Subject, laboratory: Laboratory, batch: Any, part: Any, *, side: int, by: float = LEANING
) -> tuple[float, Tensor]:
    """Return (the loss, its gradient) when the policy prefers one side (0 chosen, 1 rejected) by `by` nats a token."""
    leaf = laboratory.policy.leaves["token_logprobs"]
    places = torch.cat([group[1 - side] for group in completion_gradients(laboratory, part, torch.arange(len(leaf)))])
    with at(leaf, leaf.detach()[places] - by, places):
        gradient, figures = subject.gradient(laboratory, batch)
    return figures["loss"], gradient[: len(leaf)]


def _given_up(subject: Subject, laboratory: Laboratory, batch: Any, part: Any) -> Finding | None:
    """Return a finding if pairs that the policy ranks in the wrong order count in the loss but have no gradient."""
    loss, gradient = _leaning(subject, laboratory, batch, part, side=1)
    if len(parts_of(batch)) != 1 or bool(gradient.any()) or abs(loss) <= FLAT:
        return None
    return broken(
        f"pairs whose rejected completion the policy prefers by {LEANING:g} nats a token count in the loss (it is {loss:.3g}), "
        "but none of them learns anything: the loss is flat there",
        number="0",
        where="compute_loss",
        example=row_shown(subject, part, 0),
        mend="a margin is clamped on the side that is right alone, margin.clamp(max=...); to leave pairs out on purpose, as "
        "noise, let their value be 0",
    )


def _turns_when_settled(subject: Subject, laboratory: Laboratory, batch: Any, part: Any) -> Finding | None:
    """Return a finding if chosen completions are lowered without limit once rejected ones have a probability of 0."""
    leaf = laboratory.policy.leaves["token_logprobs"]
    with at(leaf, leaf.detach() - DEEP):
        _, gradient = _leaning(subject, laboratory, batch, part, side=0, by=SETTLED)
    groups = [group for group in completion_gradients(laboratory, part, gradient) if min(map(len, group))]
    slopes = [[float(side.sum()) for side in group] for group in groups]
    if not slopes or not all(chosen > FLAT and abs(rejected) < FLAT * chosen for chosen, rejected in slopes):
        return None
    return broken(
        f"where the policy never says the rejected completion, chosen ones are made less likely in all {len(slopes)} pairs "
        f"(slope {slopes[0][0]:+.2e}), {DEEP:g} nats a token below the reference still: without end",
        number=f"{slopes[0][0]:+.1e}",
        where="compute_loss",
        example=row_shown(subject, part, 0),
        mend="a likelihood of chosen completions enters the loss with a minus: - weight * chosen_logprob",
    )


def _turns_behind(subject: Subject, laboratory: Laboratory, batch: Any, part: Any, begin: list[float]) -> Finding | None:
    """Return a finding if pairs that the policy ranks in the wrong order are taught to rank them worse.

    begin: the slope of the loss along chosen up, rejected down, of each pair where the policy is its reference.
    """
    for by in BEHIND:
        groups = completion_gradients(laboratory, part, _leaning(subject, laboratory, batch, part, side=1, by=by)[1])
        slopes = [float(chosen.sum() - rejected.sum()) for chosen, rejected in groups]
        turned = [row for row, slope in enumerate(slopes) if slope > max(FLAT, -TURNED * begin[row]) and begin[row] < 0]
        if turned:
            return broken(
                f"where the policy prefers the rejected completion by {by:g} nats a token, preferring it more lowers the loss of "
                f"{len(turned)} of {len(slopes)} pairs (slope {slopes[turned[0]]:+.2e}, it must be negative), though not where "
                "the policy is its reference",
                number=f"{slopes[turned[0]]:+.1e}",
                where="compute_loss",
                example=row_shown(subject, part, turned[0]),
                mend="look for a factor or a target that is made of the margin itself and carries a gradient: stop_gradient(...)",
            )
    return None
