"""The law of closed forms: what a formula promises where policy, reference and sampler agree."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.check.finding import PASSED, Finding, broken, passed, skipped
from rlx.check.law.estimate import ratio_upside_down
from rlx.check.place import first_result
from rlx.check.subject import Laboratory, Subject, completion_gradients, losses_of, reads_logprobs, row_shown
from rlx.check.variant import watched
from rlx.loss.preference.margin import dpo

TAKES_LOGITS = {"sigmoid", "logsigmoid", "softmax", "log_softmax", "cross_entropy", "binary_cross_entropy_with_logits"}


def closed_forms(subject: Subject) -> Finding:
    """Where policy, reference and sampler agree: margins and KL 0, ratios 1, DPO log 2, its slope -+beta/2; a KL is unbiased."""
    laboratory = subject.stand_in(spread=0.0)
    batch = subject.first_update(laboratory)
    gradient, figures = subject.gradient(laboratory, batch)
    promised = {"ratio_mean": 1.0, "kl": 0.0, "clip_fraction_low": 0.0, "clip_fraction_high": 0.0}
    if Need.REFERENCE in subject.needs and all(loss.needs_reference for _, loss in losses_of(subject.algorithm)):
        promised |= {"margin": 0.0, "rewards_chosen": 0.0, "rewards_rejected": 0.0, "accuracy": 0.5}
    checked = 0
    for name, value in promised.items():
        for found in (key for key in figures if key == name or key.endswith(f"/{name}")):
            checked += 1
            if name in ("ratio_mean", "kl") and not _on_policy(laboratory):
                continue
            if abs(figures[found] - value) > 1e-5:
                return broken(
                    f"{found} is {figures[found]:.6g} where policy, reference and sampler agree; it must be {value:g}",
                    number=f"{figures[found]:.3g}",
                    where=f"metrics[{found!r}]",
                    mend="look for a missing temperature, a shifted mask or a sign between the two log-probabilities",
                )
    for form in (
        _smoothed(subject, laboratory, batch),
        _log_two(subject, laboratory, batch, gradient),
        _own_lengths(subject, laboratory, batch, gradient),
    ):
        if form is not None and form.status != PASSED:
            return form
        checked += form is not None
    if (fault := ratio_upside_down(subject) or _squashed_twice(subject, laboratory, batch)) is not None:
        return fault
    return passed(f"{checked} forms") if checked else skipped("nothing here has a closed form")


def _squashed_twice(subject: Subject, laboratory: Laboratory, batch: Any) -> Finding | None:
    """A probability stands where a formula takes a logit: the result of a sigmoid, or a softmax, goes into another one."""
    probabilities: list[Tensor] = []

    def shows(name: str, args: tuple[Any, ...], result: Any) -> bool:
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if name in ("sigmoid", "softmax") and isinstance(result, Tensor):
            probabilities.append(result)
        return name in TAKES_LOGITS and given is not None and any(given is each for each in probabilities)

    if not (place := first_result(lambda: subject.loss(laboratory, batch), shows)):
        return None
    return broken(
        "a probability, the result of a sigmoid or a softmax, is taken for a logit: it is squashed twice, so that the loss "
        "never gets near 0 and its slope is a fraction of what it should be",
        where=place,
        example=row_shown(subject, batch, 0),
        mend="F.logsigmoid, binary_cross_entropy_with_logits and cross_entropy take logits; binary_cross_entropy takes "
        "probabilities",
    )


def _on_policy(laboratory: Laboratory) -> bool:
    """Whether policy and sampler are asked at one temperature; nothing is known of that where the policy is the real one."""
    return len(getattr(laboratory.policy, "temperatures", ())) <= 1


def _log_two(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """DPO at policy = reference: rlx's own, or what looks like it, of an algorithm that holds nothing but that loss."""
    losses = [loss for _, loss in losses_of(subject.algorithm)]
    if subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING or len(losses) > 1:
        return None
    beta = getattr(losses[0] if losses else subject.algorithm, "beta", None)
    if losses and type(losses[0]) is dpo and beta is not None:
        usual = not losses[0].modifiers and _asked(subject, laboratory, batch)
        return _log_two_of_dpo(subject, laboratory, batch, gradient, beta) if usual else None
    return _log_two_by_hand(subject, laboratory, batch, gradient, beta) if isinstance(beta, float) else None


def _smoothed(subject: Subject, laboratory: Laboratory, batch: Any) -> Finding | None:
    """A smoothed loss is log 2 at policy = reference whatever the smoothing is: its two weights add up to 1."""
    smoothing = getattr(subject.algorithm, "label_smoothing", None)
    if (
        subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING
        or not isinstance(smoothing, float)
        or not 0 < smoothing < 0.5
    ):
        return None
    terms = list(subject.loss(laboratory, batch).terms.values())
    values = terms[0].values.detach().double()
    if len(terms) != 1 or bool((values - (1 - 2 * smoothing) * math.log(2)).abs().gt(1e-9).any()):
        return None
    return broken(
        f"with label_smoothing = {smoothing:g} the loss is {float(values.flatten()[0]):.6g} at policy = reference, log 2 times "
        f"{1 - 2 * smoothing:g}; it must be log 2 = 0.693147: the flipped label is subtracted where it is added",
        number=f"{float(values.flatten()[0]):.4g}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="-(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)",
    )


def _asked(subject: Subject, laboratory: Laboratory, batch: Any) -> bool:
    """Whether the loss that the algorithm holds is the one that it computes."""
    seen: set[str] = set()
    twin = watched(subject.algorithm, seen)
    seen.clear()  # of what its own checks looked at
    twin.compute_loss(laboratory.policy, laboratory.reference, batch)
    return any(name.endswith("loss.beta") for name in seen)


def _log_two_of_dpo(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor, beta: float) -> Finding | None:
    output = subject.loss(laboratory, batch)
    if len(output.terms) != 1:
        return None
    (term,) = output.terms.values()
    value, expected = float(term.total.detach()) / term.coefficient, math.log(2)
    rows = [float(values[0][0]) * len(batch) for values in completion_gradients(laboratory, batch, gradient) if len(values[0])]
    slope = sum(rows) / max(1, len(rows)) / term.coefficient
    mend = "the loss is the mean over pairs of -log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected))"
    if abs(value - expected) > 1e-6:
        return broken(f"DPO is {value:.6g} at policy = reference; it must be log 2 = 0.693147", where="compute_loss", mend=mend)
    if abs(slope + beta / 2) > 1e-6:
        return broken(
            f"the gradient at a chosen token is {slope:.6g} a pair; it must be -beta/2 = {-beta / 2:.6g}",
            where="compute_loss",
            mend=mend,
        )
    return passed()


def _log_two_by_hand(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor, beta: float) -> Finding | None:
    """A loss of one's own that is log 2 at policy = reference, as DPO is, with one slope for all tokens of a side: beta's?"""
    terms = list(subject.loss(laboratory, batch).terms.values())
    if len(terms) != 1 or not reads_logprobs(laboratory) or terms[0].values.ndim != 1 or len(terms[0].values) != len(batch):
        return None
    values = terms[0].values.detach().double()
    if bool((values - math.log(2)).abs().gt(1e-9).any()):
        return None
    rows = completion_gradients(laboratory, batch, gradient)
    slope, other = (_only_slope(rows, terms[0], side) for side in (0, 1))
    if slope is None:
        return None
    wrong = {-0.5: "beta is missing", -beta * beta / 2: "beta is multiplied twice"}
    cause = next((why for value, why in wrong.items() if abs(slope - value) < 1e-9 and abs(slope + beta / 2) > 1e-9), "")
    if not cause and other and beta != 1 and any(abs(abs(slope / other) - share) < 1e-9 for share in (beta, 1 / beta)):
        cause = f"and at a rejected one {other:.6g}: beta multiplies one side alone"
    if cause:
        return broken(
            f"the loss is log 2 at policy = reference, but its gradient at a chosen token is {slope:.6g} a pair: {cause}",
            number=f"{slope:.3g}",
            where="compute_loss",
            example=row_shown(subject, batch, 0),
            mend=f"with beta = {beta:g} the gradients of DPO are -+beta/2 = {beta / 2:g}: -log sigmoid(beta * margin)",
        )
    return passed() if abs(slope + beta / 2) < 1e-9 else None


def _only_slope(rows: list[list[Tensor]], term: Any, side: int) -> float | None:
    """The slope a pair at every token of one side, if it is the same at all."""
    weighed = zip(rows, term.weights.double().tolist(), strict=True)
    slopes = torch.cat([torch.zeros(0), *(row[side].detach() / weight for row, weight in weighed if weight)])
    if not len(slopes) or float(slopes.max() - slopes.min()) > 1e-9:
        return None
    return float(slopes[0]) / float(term.coefficient)


def _own_lengths(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """The slopes of the two sides of a pair stand to each other as 1 (sums) or as the inverse of their lengths (means)."""
    if subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING or not reads_logprobs(laboratory):
        return None
    found = []
    for row, group in enumerate(completion_gradients(laboratory, batch, gradient)):
        sizes = [len(side) for side in group]
        if len(group) == 2 and min(sizes) and sizes[0] != sizes[1] and bool(group[0][0]) and bool(group[1][0]):
            found.append((row, float(-group[0][0] / group[1][0]), sizes[0] / sizes[1]))
    if len(found) < 2:
        return None
    if (both := _by_chosen_length(subject, laboratory, batch, gradient)) is not None:
        return both
    if (one := _one_side_is_a_mean(subject, laboratory, batch, gradient)) is not None:
        return one
    if all(abs(slopes - lengths) > 1e-9 * lengths for _, slopes, lengths in found):
        return passed() if all(min(abs(slopes - 1), abs(slopes * lengths - 1)) < 1e-9 for _, slopes, lengths in found) else None
    row, slopes, lengths = found[0]
    if not all(abs(slopes - lengths) < 1e-9 * lengths for _, slopes, lengths in found):
        return None
    return broken(
        f"the slope at chosen tokens is {slopes:.4g} times that at rejected ones where chosen is {lengths:.4g} times as long: "
        "each side is divided by the length of the other",
        number=f"{slopes:.3g}",
        where="compute_loss",
        example=row_shown(subject, batch, row),
        mend="divide the sum of each completion by its own length: chosen_sum / chosen_length - rejected_sum / rejected_length",
    )


def _by_chosen_length(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Both sides of a pair are divided by the length of the chosen one."""
    found = []
    for row, group in enumerate(completion_gradients(laboratory, batch, gradient)):
        if len(group) == 2 and min(map(len, group)) and bool(group[0][0]):
            found.append((row, float(group[0][0]), float(group[1][0]), len(group[0]), len(group[1])))
    if len({chosen for _, _, _, chosen, _ in found}) < 2 or all(chosen == rejected for _, _, _, chosen, rejected in found):
        return None
    scale = found[0][1] * found[0][3]
    if any(
        abs(own + other) > 1e-9 * abs(own) or abs(own * chosen - scale) > 1e-9 * abs(scale) for _, own, other, chosen, _ in found
    ):
        return None
    row, own, _, chosen, rejected = next(each for each in found if each[3] != each[4])
    return broken(
        f"the slope is {own:.4g} at chosen tokens and the opposite at rejected ones, in inverse proportion to the length of the "
        f"chosen completion ({chosen} tokens, the rejected one has {rejected}): both sides are divided by it",
        number=f"{own:.3g}",
        where="compute_loss",
        example=row_shown(subject, batch, row),
        mend="divide each side by its own length: chosen_sum / chosen_length - rejected_sum / rejected_length",
    )


def _one_side_is_a_mean(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """One side of a pair is divided by its length, the other is a sum."""
    found = []
    for row, group in enumerate(completion_gradients(laboratory, batch, gradient)):
        if len(group) == 2 and min(map(len, group)) and bool(group[1][0]):
            found.append((row, float(-group[0][0] / group[1][0]), len(group[0]), len(group[1])))
    sides = (
        ("chosen", [share * chosen for _, share, chosen, _ in found]),
        ("rejected", [share / other for _, share, _, other in found]),
    )
    for place, (name, ones) in enumerate(sides):
        if len({each[2 + place] for each in found}) < 2 or any(abs(one - 1) > 1e-9 for one in ones):
            continue
        row, share, chosen, other = next(each for each in found if each[2 + place] > 1)
        return broken(
            f"the slope at chosen tokens is {share:.4g} times that at rejected ones, of a pair of {chosen} and {other} tokens: "
            f"the {name} completion is divided by its length, the other one is not",
            number=f"{share:.3g}",
            where="compute_loss",
            example=row_shown(subject, batch, row),
            mend="take sums on both sides, or means of each by its own length: chosen_sum / chosen_length - rejected_sum / "
            "rejected_length",
        )
    return None
