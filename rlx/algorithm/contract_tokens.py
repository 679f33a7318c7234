"""The law of tokens: learning reaches those of completions, all of them, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, LossOutput
from rlx.algorithm.contract_batch import parts_of
from rlx.algorithm.contract_finding import Finding, broken, holds, skipped
from rlx.algorithm.contract_subject import Subject, completion_gradients, reads_logprobs, row_shown
from rlx.algorithm.contract_within import losses_of
from rlx.loss.base import PreferenceLoss

_MASK_MEND = "compare completion_mask with the weights: one of them is shifted or cut by one"


def tokens(subject: Subject) -> Finding:
    """Learning reaches the first, the inner and the last tokens of completions, both sides of a pair, and nothing beyond."""
    counts = {"first": [0, 0], "inner": [0, 0], "last": [0, 0]}
    sides = {"chosen": [0, 0], "rejected": [0, 0]}
    for spread in (0.0, 0.3):
        setting = subject.stand_in(spread=spread)
        batch = subject.first_update(setting)
        gradient, _ = subject.gradient(setting, batch)
        if not reads_logprobs(setting):
            return skipped("the loss does not read token log-probabilities through the policy")
        beyond = _weighs_padding(subject, subject.loss(setting, batch), batch)
        if beyond is not None:
            return beyond
        for part in parts_of(batch):
            is_pairs = part.sequences.group_size == 2 and not hasattr(part, "rewards")
            for group in completion_gradients(setting, part, gradient):
                for place, values in enumerate(group):
                    if 3 <= len(values) < part.sequences.width:  # at the edge a shifted mask comes round again
                        _count(counts, values)
                    if is_pairs and len(values):
                        _tally(sides[("chosen", "rejected")[place]], bool((values != 0).any()))
    found = _judged(counts, "token of a completion", _MASK_MEND)
    if found is None and subject.algorithm.kind is AlgorithmType.PREFERENCE_LEARNING:
        found = _judged_sides(subject, sides)
    if not sum(count[0] for count in (*counts.values(), *sides.values())):
        return broken("no token gets a gradient", where="compute_loss", mend="something is detached or every weight is 0")
    total = [sum(count[which] for count in counts.values()) for which in (0, 1)]
    idle = _weightless(subject.loss(setting, batch), batch)
    return found or holds(f"{total[0]}/{total[1]} tokens{f'; {idle} of {len(batch)} rows weigh 0' if idle else ''}")


def _weightless(output: LossOutput, batch: Any) -> int:
    """How many rows that have tokens weigh nothing in any term: left out on purpose, or by mistake, which nobody can tell."""
    weights = [term.weights.detach().cpu() for term in output.terms.values()]
    masks = [part.sequences.completion_mask.cpu() for part in parts_of(batch)]
    if len(masks) != 1 or any(each.shape[:1] != (len(batch),) for each in (*weights, *masks)):
        return 0
    weighs = torch.stack([each.reshape(len(batch), -1).ne(0).any(dim=1) for each in weights]).any(dim=0)
    return int((masks[0].reshape(len(batch), -1).any(dim=1) & ~weighs).sum())


def _weighs_padding(subject: Subject, output: LossOutput, batch: Any) -> Finding | None:
    """A term whose weights, shaped as a completion mask, are not 0 outside of it."""
    for part in parts_of(batch):
        mask = part.sequences.completion_mask
        for name, term in output.terms.items():
            shapes = {tuple(mask.shape): mask} | {tuple(mask[:, side].shape): mask[:, side] for side in range(mask.shape[1])}
            inside = shapes.get(tuple(term.weights.shape))
            if inside is None or (mask.shape[1] > 1 and term.weights.ndim == 2):
                continue
            weights = term.weights.detach().cpu()
            if not bool((weights[~inside] != 0).any()):
                continue
            beyond = (weights != 0).logical_and(~inside)
            row, places = int(beyond.flatten(1).any(dim=1).nonzero()[0]), int(beyond.sum())
            return broken(
                f"the weights of term {name} are not 0 outside of the completion mask ({places} places)",
                number=f"{places} places",
                where=f"terms[{name!r}].weights",
                example=row_shown(subject, batch, row),
                mend=_MASK_MEND,
            )
    return None


def _count(counts: dict[str, list[int]], values: Tensor) -> None:
    alive = (values != 0).tolist()
    _tally(counts["first"], alive[0])
    _tally(counts["last"], alive[-1])
    for each in alive[1:-1]:
        _tally(counts["inner"], each)


def _tally(count: list[int], alive: bool) -> None:
    count[0] += alive
    count[1] += 1


def _judged_sides(subject: Subject, sides: dict[str, list[int]]) -> Finding | None:
    """Both completions of a pair teach, unless every loss within says that it reads the chosen one alone."""
    found = [loss for _, loss in losses_of(subject.algorithm) if isinstance(loss, PreferenceLoss)]
    if not found or any(loss.reads_rejected for loss in found):
        mend = "a side is detached or left out: a preference is about both completions. What is about one says so: "
        declared = "reads_rejected = False in the loss" if found else "kind = AlgorithmType.SUPERVISED"
        return _judged(sides, "completion of a pair", mend + declared)
    if not sides["rejected"][0]:
        return None
    return broken(
        f"{type(found[0]).__name__} says reads_rejected = False, but rejected completions get a gradient",
        number=f"{sides['rejected'][0]}/{sides['rejected'][1]}",
        where="loss",
        mend="drop reads_rejected = False, or what reads the rejected completions",
    )


def _judged(counts: dict[str, list[int]], what: str, mend: str) -> Finding | None:
    """One kind that is never reached although all others are: who learns from the last token alone means it."""
    for name, (alive, seen) in counts.items():
        rest = [count for other, count in counts.items() if other != name and count[1]]
        if seen and not alive and rest and all(reached for reached, _ in rest):
            others = ", ".join(f"{other}: {count[0]}/{count[1]}" for other, count in counts.items())
            return broken(
                f"the {name} {what} never gets a gradient ({others})", number=f"0/{seen}", where="compute_loss", mend=mend
            )
    return None
