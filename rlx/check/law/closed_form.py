"""The law of closed forms: known values of a formula if policy, reference and sampler agree."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.check.batch import at
from rlx.check.finding import PASSED, Finding, broken, passed, skipped
from rlx.check.law.estimate import ratio_upside_down
from rlx.check.place import first_result
from rlx.check.subject import Laboratory, Subject, completion_gradients, losses_of, reads_logprobs, row_shown
from rlx.check.variant import plain_fields, variants, watched
from rlx.loss.preference.margin import dpo

TAKES_LOGITS = {"sigmoid", "logsigmoid", "softmax", "log_softmax", "cross_entropy", "binary_cross_entropy_with_logits"}


def closed_forms(subject: Subject) -> Finding:
    """If policy, reference and sampler agree: margins and KL 0, ratios 1, DPO log 2 with slope -+beta/2; a KL is unbiased."""
    laboratory, batch = subject.stand_in_batch(spread=0.0)
    gradient, figures = subject.gradient(laboratory, batch)
    promised = {"ratio_mean": 1.0, "kl": 0.0, "clip_fraction_low": 0.0, "clip_fraction_high": 0.0}
    if Need.REFERENCE in subject.needs and all(loss.needs_reference for _, loss in losses_of(subject.algorithm)):
        promised |= {"margin": 0.0, "rewards_chosen": 0.0, "rewards_rejected": 0.0, "accuracy": 0.5}
    checked = 0
    for name, value in promised.items():
        for found in (key for key in figures if key == name or key.endswith(f"/{name}")):
            checked += 1
            if name in ("ratio_mean", "kl") and len(getattr(laboratory.policy, "temperatures", ())) > 1:
                continue  # policy and sampler have different temperatures
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
    """Return a finding if the result of a sigmoid or softmax is passed to a function that takes logits."""
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


def _log_two(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Test the closed form of DPO at policy = reference, on rlx's own loss or a similar one that is the algorithm's only loss."""
    losses = [loss for _, loss in losses_of(subject.algorithm)]
    if subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING or len(losses) > 1:
        return None
    beta = getattr(losses[0] if losses else subject.algorithm, "beta", None)
    if losses and type(losses[0]) is dpo and beta is not None:
        usual = not losses[0].modifiers and _asked(subject, laboratory, batch)
        return _log_two_of_dpo(subject, laboratory, batch, gradient, beta) if usual else None
    return _log_two_by_hand(subject, laboratory, batch, gradient, beta) if isinstance(beta, float) else None


def _smoothed(subject: Subject, laboratory: Laboratory, batch: Any) -> Finding | None:
    """Return a finding if a smoothed loss is not log 2 at policy = reference: its two weights must add up to 1."""
    if subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING:
        return None
    terms = list(subject.loss(laboratory, batch).terms.values())
    values = terms[0].values.detach().double()

    def is_log_two(values: Tensor, share: Any) -> bool:
        return isinstance(share, float) and bool((values - (1 - 2 * share) * math.log(2)).abs().le(1e-9).all())

    shares = {name: share for name, share in plain_fields(subject.algorithm) if share and is_log_two(values, share)}
    for name, share in shares.items() if len(terms) == 1 and values.numel() else ():
        changed = next((twin for _, twin in variants(subject.algorithm, name)), None)
        twin = subject if changed is None else subject.with_algorithm(changed)
        (term,) = twin.loss(laboratory, batch).terms.values()
        if not is_log_two(term.values.detach().double(), dict(plain_fields(twin.algorithm))[name]):
            continue
        short = name.rpartition(".")[2]
        return broken(
            f"with {short} = {share:g} the loss is {float(values.flatten()[0]):.6g} at policy = reference, log 2 times "
            f"{1 - 2 * share:g}; it must be log 2 = 0.693147: the flipped label is subtracted and not added, or what is left "
            f"not divided by 1 - 2 * {short}",
            number=f"{float(values.flatten()[0]):.4g}",
            where="compute_loss",
            example=row_shown(subject, batch, 0),
            mend=f"-(1 - {short}) * logsigmoid(margin) - {short} * logsigmoid(-margin), or, robust, with a plus in its middle "
            f"and all of it divided by 1 - 2 * {short}",
        )
    return None


def _asked(subject: Subject, laboratory: Laboratory, batch: Any) -> bool:
    """Whether compute_loss reads the loss that the algorithm holds."""
    seen: set[str] = set()
    twin = watched(subject.algorithm, seen)
    seen.clear()  # forget what its own checks read
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
    """Test the slope of a user's loss that is log 2 at policy = reference, as DPO is; None if it cannot be judged."""
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
    """Return the slope a pair at the tokens of one side; None if it differs between tokens."""
    weighed = zip(rows, term.weights.double().tolist(), strict=True)
    slopes = torch.cat([torch.zeros(0), *(row[side].detach() / weight for row, weight in weighed if weight)])
    if not len(slopes) or float(slopes.max() - slopes.min()) > 1e-9:
        return None
    return float(slopes[0]) / float(term.coefficient)


def _own_lengths(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Return a finding if the slopes of a pair's sides are in a ratio other than 1 (sums) or the inverse of lengths (means).

    A likelihood of chosen completions beside the margin must not divide a mean by its length again.
    """
    if subject.algorithm.kind is not AlgorithmType.PREFERENCE_LEARNING or not reads_logprobs(laboratory):
        return None
    losses = [loss for _, loss in losses_of(subject.algorithm)]
    if losses and not any(loss.needs_reference for loss in losses):  # at sums whose margin is 0
        leaf = laboratory.policy.leaves["token_logprobs"]
        sums = torch.zeros_like(leaf)
        for group in completion_gradients(laboratory, batch, torch.arange(len(leaf))):
            for places in group:
                sums[places] = -1 / max(1, len(places))
        with at(leaf, sums):
            gradient, _ = subject.gradient(laboratory, batch)
    groups = enumerate(completion_gradients(laboratory, batch, gradient))
    found = [(row, group) for row, group in groups if len(group) == 2 and min(map(len, group)) and bool(group[1][0])]
    if len({tuple(map(len, group)) for _, group in found}) < 3 or len({len(group[0]) for _, group in found}) < 2:
        return None
    rows = [row for row, _ in found]
    own, other = (torch.stack([group[side][0].detach().double() for _, group in found]) for side in (0, 1))
    chosen, rejected = (torch.tensor([len(group[side]) for _, group in found], dtype=torch.float64) for side in (0, 1))

    def constant(values: Tensor, value: float | None = None) -> bool:
        middle = float(values.mean()) if value is None else value
        return bool(middle) and bool((values - middle).abs().le(1e-9 * abs(middle)).all())

    shares, fault = -own / other, ""
    faults: tuple[tuple[Tensor, str], ...]
    if constant(shares, 1.0):
        faults = (
            (own * chosen, "both sides are divided by the length of the chosen one"),
            (own * rejected, "both sides are divided by the length of the rejected one"),
        )
        fault = next((what for values, what in faults if constant(values)), "")
    elif not constant(shares * chosen / rejected, 1.0):
        faults = (
            (shares * rejected / chosen, "each side is divided by the length of the other"),
            (shares * chosen, "the chosen completion is divided by its length, the other one is not"),
            (shares / rejected, "the rejected completion is divided by its length, the other one is not"),
        )
        fault = next((what for values, what in faults if constant(values, 1.0)), "")
        beside = ((own + other) * chosen**2, (own * chosen + other * rejected) * chosen)
        if not fault and any(map(constant, beside)):
            fault = "what is learned of chosen ones beside the margin is divided by their length twice"
        if not fault:
            return None
    if not fault:
        return passed()
    place = int((chosen - rejected).abs().argmax())
    return broken(
        f"the slope is {float(own[place]):.4g} at the tokens of a chosen completion of {int(chosen[place])} tokens, "
        f"{float(other[place]):.4g} at those of a rejected one of {int(rejected[place])}, and goes with lengths in all pairs: "
        f"{fault}",
        number=f"{float(shares[place]):.3g}",
        where="compute_loss",
        example=row_shown(subject, batch, rows[place]),
        mend="divide the sum of each completion by its own length, once, or neither: chosen_sum / chosen_length - rejected_sum / "
        "rejected_length; mean_chosen_logprob is a mean already",
    )
