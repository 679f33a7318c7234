"""Laws of tokens: prompts get no gradient; the first, inner and last tokens of completions do."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, LossOutput
from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.law.sampled import cut_off_alone
from rlx.check.subject import Laboratory, Subject, completion_gradients, learns_elsewhere, losses_of, reads_logprobs, row_shown
from rlx.data.preferences import PairBatch
from rlx.loss.preference.base import PreferenceLoss
from rlx.seeding import Stream

FEW_ROWS = slice(0, 4)  # rows of a batch for the real model
ENOUGH = 6  # completions that show whether a token is ever learned
DRAWS = 5  # draws in which rows at the same positions have no weight
SIDES = ("chosen", "rejected")
_MASK_MEND = "compare completion_mask with the weights: one of them is shifted or cut by one"


def prompt(subject: Subject) -> Finding:
    """No gradient reaches predictions of prompt tokens or a critic's values there; only completions are learned."""
    laboratory = subject.real(moved=True)
    choice = laboratory.policy.forward_choice.with_plain_rows()
    laboratory.policy.forward_choice = replace(choice, gathers_before_head=False)  # all logits, of one completion a row
    batch = subject.first_update(laboratory)[FEW_ROWS]
    if (found := _cut_elsewhere(subject, batch)) is not None:
        return found
    prompts = [tokens for part in parts_of(batch) for tokens in part.sequences.prompts]
    passes: list[tuple[Tensor, Tensor]] = []  # tokens [rows, T] with their logits or values
    latest: list[Tensor] = []

    def seen(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tokens, logits = kwargs.get("input_ids", args[0] if args else None), getattr(output, "logits", None)
        latest[:] = [tokens] if tokens is not None else []
        if tokens is not None and logits is not None and logits.requires_grad and logits.shape[:2] == tokens.shape:
            passes.append((tokens, logits))

    def valued(_: Any, __: tuple[Any, ...], values: Tensor) -> None:
        if latest and values.requires_grad and values.shape == latest[0].shape:
            passes.append((latest[0], values))

    handles = [laboratory.policy.model.register_forward_hook(seen, with_kwargs=True)]
    if laboratory.policy.value_head is not None:
        handles.append(laboratory.policy.value_head.register_forward_hook(valued))
    try:
        loss = subject.loss(laboratory, batch).loss
    finally:
        for handle in handles:
            handle.remove()
    if not loss.requires_grad or not passes or not prompts:
        return skipped("the model's predictions are taken at completions alone")
    gradients = torch.autograd.grad(loss, [logits for _, logits in passes], allow_unused=True)
    looked = 0
    for (tokens, read), gradient in zip(passes, gradients, strict=True):
        for row, ids in enumerate(tokens.tolist() if gradient is not None else ()):
            start, length = _place(ids, prompts)
            looked += length > 0
            assert gradient is not None
            inside = gradient[row, start : start + max(0, length - 1)]
            if bool((inside != 0).any()):
                what = "the critic's values at" if read.ndim == 2 else "the predictions of"
                return broken(
                    f"a gradient reaches {what} the tokens of the prompt (largest entry {float(inside.abs().max()):.1e})",
                    number=f"{float(inside.abs().max()):.0e}",
                    where="compute_loss",
                    example=repr(subject.policy.decode(np.array(ids[start : start + length]))),
                    mend="leave out the positions that predict the prompt: policy.token_logprobs(batch.sequences) and values of "
                    "policy.token_statistics(batch.sequences, requires=frozenset({'values'})) have done so",
                )
            if read.ndim == 3 and length and (found := _unshifted(subject, ids, gradient[row], start, length, batch)) is not None:
                return found
    return passed(f"{looked} rows")


def _unshifted(subject: Subject, ids: list[int], gradient: Tensor, start: int, length: int, batch: Any) -> Finding | None:
    """Return a finding if a row's gradient is at the prediction after its last token, and none at that of its first token.

    gradient: [T, V] at the logits of a row ids [T], which holds a prompt from `start` on.
    """
    first = start + length
    completions = [tokens.tolist() for part in parts_of(batch) for group in part.sequences.completions for tokens in group]
    for tokens in sorted(completions, key=len, reverse=True):
        last = first + len(tokens) - 1
        if len(tokens) < 2 or ids[first : last + 1] != tokens or len(set(ids[last + 1 :])) > 1:
            continue  # not this completion, or others follow in the row
        if bool(gradient[last].any()) and not bool(gradient[first - 1].any()):
            return broken(
                "the prediction after the last token of a completion is learned, that of its first token is not: each token is "
                "held against a prediction that has read it",
                number=f"{float(gradient[last].abs().max()):.0e}",
                where="compute_loss",
                example=repr(subject.policy.decode(np.array(ids[start : last + 1]))),
                mend="logits[:, t] predict token t + 1: gather input_ids[:, 1:] from logits[:, :-1]",
            )
        return None
    return None


def _cut_elsewhere(subject: Subject, batch: Any) -> Finding | None:
    """Return a finding if rebuilt pairs of the task include the prompt's end in a completion, or lack the completion's end."""
    for part in parts_of(batch):
        if not (isinstance(part, PairBatch) and len(part.source) > int(part.rows.max(initial=-1))):
            continue
        given, used = part.source.sequences, part.sequences
        for row, place in enumerate(part.rows.tolist()):
            was, now = given.prompts[place].tolist(), used.prompts[row].tolist()
            if len(now) < len(was) and now == was[: len(now)] and used.completions[row][0][:1].tolist() == was[len(now) :][:1]:
                return broken(
                    f"{len(was) - len(now)} tokens at the end of a prompt are learned as if they were the completion's",
                    where="draw",
                    example=row_shown(subject, part, row),
                    mend="leave the sequences of lab.pairs as they are: prompts are read, completions learned",
                )
        whole = [(given.completions[place][0], group[0]) for place, group in zip(part.rows, used.completions, strict=True)]
        whole = [(was, now) for was, now in whole if len(was)]  # a single completion's other side is empty
        if whole and all(np.array_equal(now, was[:-1]) for was, now in whole):
            return broken(
                "the last token of every completion is left out: the policy never learns to end",
                where="draw",
                example=row_shown(subject, part, 0),
                mend="leave the sequences of lab.pairs as they are: a completion ends with its end-of-sequence token",
            )
    return None


def _place(ids: list[int], prompts: list[np.ndarray]) -> tuple[int, int]:
    """Return (start, length) of the longest of the prompts in a row, at its first occurrence; (0, 0) if there is none."""
    found = (0, 0)
    for tokens in prompts:
        wanted = tokens.tolist()
        starts = (start for start in range(len(ids) - len(wanted) + 1) if ids[start : start + len(wanted)] == wanted)
        start = next(starts, None)
        if start is not None and len(wanted) > found[1]:
            found = (start, len(wanted))
    return found


def tokens(subject: Subject) -> Finding:
    """The first, inner and last tokens of completions are learned, on both sides of a pair, and no other tokens."""
    counts = {"first": [0, 0], "inner": [0, 0], "last": [0, 0]}
    sides = {"chosen": [0, 0], "rejected": [0, 0]}
    of_sides = {side: {place: [0, 0] for place in counts} for side in sides}
    learns = chosen = False  # chosen: on policy, only some inner tokens of a completion are learned
    for spread in (0.0, 0.3):
        laboratory, batch = subject.stand_in_batch(spread=spread)
        gradient, _ = subject.gradient(laboratory, batch)
        if not reads_logprobs(laboratory):
            return skipped("the loss does not read token log-probabilities through the policy")
        if learns_elsewhere(laboratory, gradient):
            return skipped("what is learned is a distribution over the vocabulary, or a critic's values")
        output = subject.loss(laboratory, batch)
        beyond = _weighs_padding(subject, output, batch) or cut_off_alone(subject, output, batch)
        beyond = beyond or _left_out(subject, laboratory, batch, gradient)
        if beyond is not None:
            return beyond
        learns = learns or bool(gradient.any())
        for part in parts_of(batch):
            is_pairs = part.sequences.group_size == 2 and not hasattr(part, "rewards")
            for group in completion_gradients(laboratory, part, gradient):
                for place, values in enumerate(group):
                    inner = values[1:-1] != 0
                    chosen = chosen or (not spread and bool(inner.any()) and not bool(inner.all()))
                    if 3 <= len(values) < part.sequences.width:  # at full width, a rolled mask wraps around
                        _count(counts, values)
                        if is_pairs:
                            _count(of_sides[SIDES[place]], values)
                    if is_pairs and len(values):
                        _tally(sides[SIDES[place]], bool((values != 0).any()))
    kinds = {"completion": counts} | {f"{name} completion": of_sides[name] for name in SIDES}
    judged = (_judged(each, f"token of a {what}", _MASK_MEND) for what, each in kinds.items() if not chosen)
    found = next(filter(None, judged), None)
    found = found or _one_column(subject, laboratory, batch, gradient)
    found = found or _beyond_the_other(subject, laboratory, batch, gradient) or _gap_between(subject, laboratory, batch, gradient)
    found = found or _same_places_weigh_nothing(subject)
    if found is None and subject.algorithm.kind is AlgorithmType.PREFERENCE_LEARNING:
        found = _judged_sides(subject, sides)
    if not learns:
        return broken("no token gets a gradient", where="compute_loss", mend="something is detached or every weight is 0")
    total = [sum(count[which] for count in counts.values()) for which in (0, 1)]
    idle = len(_weightless_rows(subject.loss(laboratory, batch), batch))
    return found or passed(f"{total[0]}/{total[1]} tokens{f'; {idle} of {len(batch)} rows weigh 0' if idle else ''}")


def _left_out(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Return a finding if completions that a draw filtered out of its loss have a gradient."""
    for part in parts_of(batch):
        kept = getattr(part, "kept", None)
        if not isinstance(kept, Tensor) or bool(kept.all()) or not bool(kept.any()):
            continue
        groups = completion_gradients(laboratory, part, gradient)
        learned = [(row, place) for row, place in (~kept).nonzero().tolist() if bool((groups[row][place] != 0).any())]
        same = (part.sequences.completions[row][place].tobytes() for row, place in learned)
        others = {
            tokens.tobytes()
            for row, group in enumerate(part.sequences.completions)
            for place, tokens in enumerate(group)
            if kept[row, place]
        }
        if learned and not others.intersection(same):
            return broken(
                f"{len(learned)} of {int((~kept).sum())} completions that are filtered out of the loss (truncated ones, by "
                "filter_truncated) get a gradient",
                number=f"{len(learned)} completions",
                where="the weights that draw makes",
                example=row_shown(subject, part, learned[0][0]),
                mend="weigh the tokens of batch.loss_mask, which leaves them out; batch.completion_mask holds all",
            )
    return None


def _one_column(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Return a finding if only one position of every rewarded group has a gradient, and its reward is not extreme."""
    for part in parts_of(batch):
        size, rewards = part.sequences.group_size, getattr(part, "rewards", None)
        if size < 3 or not isinstance(rewards, Tensor) or rewards.shape != (len(part), size):
            continue
        alive = torch.zeros(size, dtype=torch.long)
        groups = zip(part.sequences.completions, completion_gradients(laboratory, part, gradient), strict=True)
        for tokens, group in groups:
            if len({each.tobytes() for each in tokens}) < size:
                continue  # equal completions share a gradient
            alive += torch.tensor([bool((values != 0).any()) for values in group])
        (columns,) = torch.nonzero(alive, as_tuple=True)
        if len(columns) != 1 or int(alive.sum()) < 2:
            continue
        mine = rewards[:, int(columns[0])]
        if torch.equal(mine, rewards.amax(dim=1)) or torch.equal(mine, rewards.amin(dim=1)):
            continue  # sorted by reward
        return broken(
            f"only completion {int(columns[0]) + 1} of each group of {size} gets a gradient",
            number=f"1/{size} completions",
            where="compute_loss, or the weights that draw makes",
            example=row_shown(subject, part, 0),
            mend="tensors of groups are [P, G, T]: [:, 0] takes the first completion alone",
        )
    return None


def _beyond_the_other(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Return a finding if a pair's completion has a gradient only up to the length of the other one."""
    for part in parts_of(batch):
        if part.sequences.group_size != 2 or hasattr(part, "rewards"):
            continue
        groups = completion_gradients(laboratory, part, gradient)
        for side, name in enumerate(("chosen", "rejected")):
            longer = [(row, group) for row, group in enumerate(groups) if 0 < len(group[1 - side]) < len(group[side])]
            alive = [(row, group[side] != 0, len(group[1 - side])) for row, group in longer]
            if len(longer) < 2 or not all(bool(each[:cut].all()) and not bool(each[cut:].any()) for _, each, cut in alive):
                continue
            return broken(
                f"the tokens of {name} completions beyond the length of the other one of their pair get no gradient, all others "
                f"do ({len(longer)} of {len(longer)} pairs whose {name} one is longer)",
                number=f"{len(longer)} pairs",
                where="compute_loss",
                example=row_shown(subject, part, longer[0][0]),
                mend=f"a completion is masked by its own mask: {name}_mask",
            )
    return None


def _gap_between(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Return a finding if a token inside completions never has a gradient, while those before and after it always have."""
    alive: list[list[bool]] = []  # [place][completion], of completions with a gradient that are longer
    for part in parts_of(batch):
        for row, group in enumerate(completion_gradients(laboratory, part, gradient)):
            for column, values in enumerate(group):
                learned = part.sequences.completion_mask[row, column, : len(values)]
                if not bool(values.any()) or not bool(learned.all()):
                    continue
                alive += [[] for _ in range(len(values) - 1 - len(alive))]
                for place, value in enumerate(values[:-1].tolist()):
                    alive[place].append(value != 0)
    known = [(place, all(each), any(each)) for place, each in enumerate(alive) if len(each) >= ENOUGH]
    dead = [place for place, _, some in known if not some]
    if not dead or any(some and not every for _, every, some in known):
        return None
    after = [place for place, every, _ in known if every and place > dead[0]]
    if dead[0] == 0 or not after:
        return None
    return broken(
        f"token {dead[0] + 1} gets no gradient in any of {len(alive[dead[0]])} completions, those before it and token "
        f"{after[0] + 1} do in all of them",
        number=f"{len(dead)} of {len(known)} places",
        where="compute_loss, or the weights that draw makes",
        example=row_shown(subject, batch, 0),
        mend="a slice with a step, or a mask of the wrong shape, leaves places out: weigh every token of the completion mask",
    )


def _same_places_weigh_nothing(subject: Subject) -> Finding | None:
    """Return a finding if rows at the same positions of every draw have no weight."""
    idle: set[int] | None = None
    for step in range(DRAWS):
        laboratory = subject.stand_in()
        drawn = subject.draw(laboratory, step=step)
        here = set(range(len(drawn)))
        for part in islice(subject.algorithm.updates(drawn, Stream(subject.seed, ("updates", step))), DRAWS):
            weightless = _weightless_rows(subject.loss(laboratory, part), part) if len(part) == len(drawn) else []
            here &= set(weightless)
        if not here or (idle is not None and here != idle):
            return None
        idle = here
    if idle is None or 4 * len(idle) < len(drawn) or len(idle) == len(drawn):
        return None
    first = min(idle)
    return broken(
        f"{len(idle)} of {len(drawn)} rows of a draw weigh 0, the same places in each of {DRAWS} draws (row {first} first): what "
        "stands there is never learned",
        number=f"{len(idle)} of {len(drawn)} rows",
        where="the weights that draw makes",
        example=row_shown(subject, drawn, first),
        mend="give every row its weight: torch.full((len(batch),), 1 / len(batch)); to learn from fewer rows, draw fewer",
    )


def _weightless_rows(output: LossOutput, batch: Any) -> list[int]:
    """Return the rows with tokens but without a weight in any term."""
    weights = [term.weights.detach().cpu() for term in output.terms.values()]
    masks = [part.sequences.completion_mask.cpu() for part in parts_of(batch)]
    if len(masks) != 1 or len(batch) == 0 or any(each.shape[:1] != (len(batch),) for each in (*weights, *masks)):
        return []
    weighs = torch.stack([each.reshape(len(batch), -1).ne(0).any(dim=1) for each in weights]).any(dim=0)
    found: list[int] = (masks[0].reshape(len(batch), -1).any(dim=1) & ~weighs).nonzero().flatten().tolist()
    return found


def _weighs_padding(subject: Subject, output: LossOutput, batch: Any) -> Finding | None:
    """Return a finding if a term has weights of a completion mask's shape that are not 0 outside the mask."""
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
    """Return a finding if a completion of pairs has no gradient, unless the losses declare that they read chosen ones only."""
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
    """Return a finding if one kind never has a gradient although all others have; learning only the last token is allowed."""
    for name, (alive, seen) in counts.items():
        rest = [count for other, count in counts.items() if other != name and count[1]]
        if seen and not alive and rest and all(reached for reached, _ in rest):
            others = ", ".join(f"{other}: {count[0]}/{count[1]}" for other, count in counts.items())
            return broken(
                f"the {name} {what} never gets a gradient ({others})", number=f"0/{seen}", where="compute_loss", mend=mend
            )
    return None
