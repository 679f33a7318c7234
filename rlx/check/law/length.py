"""The law of length: every token counts in a length, and a longer completion is not learned less."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.check.batch import at, group_keys, parts_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.law.scale import prompt_weighs, rejected_weighs
from rlx.check.stand_in import LONG, SHORT, UNEVEN
from rlx.check.subject import Laboratory, Subject, completion_gradients, reads_logprobs, row_shown

LOGPROB = -0.7  # of every token under policy, reference and sampler
LESS = 0.3  # least gradient of long completions relative to short ones, summed over tokens: between 1/8 and 1/sqrt(8)
LONGER = 0.9  # a token's weight that grows with its completion's length to this power, or more, counts the length twice
FAINT = 1e-6  # relative to the largest advantage; less is rounding
READ = 4  # characters of a completion that determine its reward, so that short and long ones get equal rewards
STEP = 1e-7  # nats by which a log-ratio of 0 is changed
JUMP = 1e-3  # relative change of the gradient at other tokens, more than rounding


def length(subject: Subject) -> Finding:
    """Every token counts, whatever its log-ratio; 64 tokens teach no less in total than 8; no length counts the prompt."""
    if subject.goes_past:
        return skipped("the loss reads the model itself, whose numbers cannot be set")
    for fault in (_zeros_count, _weighs_its_length, _longest_counts, prompt_weighs, rejected_weighs):
        if (found := fault(subject)) is not None:
            return found
    totals = []
    for shape in ("short", "long"):
        laboratory, batch = subject.stand_in_batch(constant=LOGPROB, constant_of="everybody", shape=shape, rewards={"read": READ})
        if len(batch) == 0:
            return skipped("the batch is empty")
        advantages = getattr(batch, "advantages", None)
        if isinstance(advantages, Tensor) and advantages.ndim == 3:  # tokens far from a reward may get less credit
            felt = advantages.abs() > FAINT * advantages.abs().max()
            batch = batch.with_values(advantages=advantages.sign() * felt)
        gradient, _ = subject.gradient(laboratory, batch)
        if not reads_logprobs(laboratory):
            return skipped("the loss does not read token log-probabilities through the policy")
        totals.append(float(gradient[: len(laboratory.policy.leaves["token_logprobs"])].abs().sum()))
    if totals[0] <= 0:
        return skipped("where policy, reference and sampler agree, the loss has no gradient")
    share = totals[1] / totals[0]
    if share >= LESS:
        return passed(f"{share:.2g} times as much")
    return broken(
        f"completions of {LONG} tokens have {share:.2g} times the gradient of completions of {SHORT} tokens with the same "
        "log-probabilities, summed over their tokens",
        number=f"{share:.2g}",
        where="compute_loss, or the weights that draw makes",
        example=row_shown(subject, batch, 0),
        mend="divide by a length once, in the weights or in the loss; take exp of a mean of log-probabilities: that of their "
        "sum falls towards 0 with every token",
    )


def _zeros_count(subject: Subject) -> Finding | None:
    """Return a finding if the gradients of other tokens jump when one token's log-ratio is exactly 0."""
    laboratory, batch = subject.stand_in_batch()
    if len(batch) == 0:
        return None
    subject.loss(laboratory, batch)
    if not reads_logprobs(laboratory):
        return None
    leaf = laboratory.policy.leaves["token_logprobs"]
    for whose, theirs in _others(subject, laboratory, batch):
        places, gradients = _one_of_each(laboratory, batch), []
        for step in (0.0, STEP):
            with at(leaf, theirs.to(leaf)[places] + step, places):
                gradients.append(subject.gradient(laboratory, batch)[0][: len(leaf)])
        elsewhere = torch.ones(len(leaf), dtype=torch.bool)
        elsewhere[places] = False
        off = float((gradients[0] - gradients[1])[elsewhere].abs().max()) if bool(elsewhere.any()) else 0.0
        if off > JUMP * float(gradients[1].abs().max()):
            return broken(
                f"where one token's log-probability equals the {whose}'s, the gradient at the other tokens of its completion "
                f"changes by {off / float(gradients[1].abs().max()):.1e} of its largest entry: the token is not counted",
                number=f"{off:.0e}",
                where="compute_loss",
                example=row_shown(subject, batch, 0),
                mend="count tokens by the mask, not by numbers that are not 0: completion_mask.sum(dim=-1), chosen_length",
            )
    return None


def _longest_counts(subject: Subject) -> Finding | None:
    """Return a finding if weights depend on the longest completion of a batch, at the same total number of tokens.

    Weights may depend on the rest of the batch (a share of its tokens, a sum of roots of lengths). There is a fault only if the
    gradient is proportional to the padded width, its inverse, or the squares of these.
    """
    if Need.REWARDS not in subject.needs or Need.VALUES in subject.needs or subject.algorithm.couples_rows:
        return None
    found = []
    for shape in UNEVEN:
        laboratory, batch = subject.stand_in_batch(constant=LOGPROB, constant_of="everybody", shape=shape, rewards={"read": 1})
        if len(parts_of(batch)) != 1 or len(batch) < 2:
            return None
        (part,) = parts_of(batch)
        gradient, _ = subject.gradient(laboratory, batch)
        if not reads_logprobs(laboratory):
            return None
        lengths = part.sequences.completion_lengths.flatten().tolist()
        keys = group_keys(part.sequences)[: -1 if part.sequences.group_size > 1 else -2]
        advantages = getattr(part, "advantages", None)
        slopes = completion_gradients(laboratory, part, gradient)[: len(keys)]
        found.append((keys, advantages, slopes, sum(lengths), max(lengths, default=0), row_shown(subject, part, 0)))
    (keys, advantages, even, total, width, shown), (others, moved, uneven, other_total, longest, _) = found
    if keys != others or total != other_total or longest != UNEVEN["uneven"][1] or not even:
        return None
    if not isinstance(advantages, Tensor) or not isinstance(moved, Tensor) or advantages.ndim != 2:
        return None
    if not torch.allclose(advantages[: len(keys)], moved[: len(keys)]):
        return None
    here, there = (torch.cat([tokens for group in rows for tokens in group]) for rows in (even, uneven))
    if here.shape != there.shape or not bool(here.any()):
        return None
    factors = [(longest / width) ** power for power in (-2, -1, 1, 2)]
    if not any(float((factor * here - there).abs().max()) <= JUMP * float(there.abs().max()) for factor in factors):
        return None
    share = float(there.abs().sum() / here.abs().sum())
    return broken(
        f"completions of 4 tokens have {share:.3g} times the gradient where two others of the batch have 2 and 6 tokens, not 4 "
        "and 4: their weights depend on the longest completion",
        number=f"{share:.3g}",
        where="compute_loss, or the weights that draw makes",
        example=shown,
        mend="divide by counts of the mask, or by a constant (constant_length), not by mask.shape[-1], the padded width",
    )


def _weighs_its_length(subject: Subject) -> Finding | None:
    """Return a finding if the weight of a token is proportional to the length of its completion."""
    if Need.REWARDS not in subject.needs or Need.VALUES in subject.needs or subject.algorithm.couples_rows:
        return None
    laboratory, batch = subject.stand_in_batch(constant=LOGPROB, constant_of="everybody", shape="uneven", rewards={"read": 1})
    if len(parts_of(batch)) != 1 or len(batch) < 2:
        return None
    (part,) = parts_of(batch)
    mask = part.sequences.completion_mask
    of: dict[int, list[Tensor]] = {}
    for term in subject.loss(laboratory, batch).terms.values():
        if term.weights.shape != mask.shape:
            return None
        for weights, inside in zip(term.weights.detach().cpu().flatten(0, 1), mask.flatten(0, 1), strict=True):
            of.setdefault(int(inside.sum()), []).append(weights[inside].double())
    each = {size: torch.cat(found) for size, found in of.items() if size}
    if len(each) < 3 or any(
        not bool((found > 0).all()) or float(found.max() / found.min()) > 1 + JUMP for found in each.values()
    ):
        return None  # a token's weight depends on more than the length
    sizes = sorted(each)
    means = [float(each[size].mean()) for size in sizes]
    pairs = zip(sizes[1:], sizes, means[1:], means, strict=False)
    if not all(more / less >= (longer / shorter) ** LONGER for longer, shorter, more, less in pairs):
        return None
    return broken(
        f"a token of a completion of {sizes[-1]} tokens weighs {means[-1] / means[0]:.3g} times as much as one of a completion "
        f"of {sizes[0]}: a completion counts with the square of its length",
        number=f"{means[-1] / means[0]:.3g}",
        where="the weights that draw makes",
        example=row_shown(subject, part, len(part) - 1),
        mend="a token weighs the same in every completion (token_mean), or less in a longer one (sequence_mean): multiply by no "
        "length",
    )


def _others(subject: Subject, laboratory: Laboratory, batch: Any) -> list[tuple[str, Tensor]]:
    """Return (sampler or reference, [all leaves] its log-probabilities of the same tokens) for each that the batch has."""
    size = len(laboratory.policy.leaves["token_logprobs"])
    found = []
    for whose in ("sampler", "reference"):
        flat = torch.zeros(size, dtype=torch.float64)
        known = False
        for part in parts_of(batch):
            if whose == "sampler":
                theirs = getattr(part, "sampling_logprobs", None)
            else:
                asked = Need.REFERENCE in subject.needs
                theirs = copy.copy(laboratory.reference).token_logprobs(part.sequences) if asked else None
            if theirs is None or theirs.shape != part.sequences.completion_mask.shape:
                continue
            known = True
            for row, group in enumerate(completion_gradients(laboratory, part, torch.arange(size))):
                for column, place in enumerate(group):
                    flat[place] = theirs[row, column, : len(place)].to(flat)
        if known:
            found.append((whose, flat))
    return found


def _one_of_each(laboratory: Laboratory, batch: Any) -> Tensor:
    """Return [N] the index of one token of each completion with at least three tokens."""
    size = len(laboratory.policy.leaves["token_logprobs"])
    groups = (group for part in parts_of(batch) for group in completion_gradients(laboratory, part, torch.arange(size)))
    return torch.tensor([int(place[1]) for group in groups for place in group if len(place) >= 3], dtype=torch.long)
