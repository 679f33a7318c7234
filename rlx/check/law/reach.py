"""Laws of reach: gradients go into the policy alone, and into all of a completion's tokens, none of the prompt's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, LossOutput, Need
from rlx.check.batch import parts_of, tensors_of
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.stand_in import StandInReference
from rlx.check.subject import Laboratory, Subject, completion_gradients, losses_of, reads_logprobs, row_shown
from rlx.data.preferences import PairBatch
from rlx.loss.preference.base import PreferenceLoss

ROWS, FEW_ROWS = slice(0, 6), slice(0, 4)  # of a batch, where the real model runs
_MASK_MEND = "compare completion_mask with the weights: one of them is shifted or cut by one"


def belongs(subject: Subject) -> Finding:
    """Gradients go into the policy alone: not into the reference, the batch or its weights; no weights move by themselves."""
    laboratory = subject.real(moved=True)
    before = [parameter.detach().clone() for parameter in laboratory.policy.parameters()]
    theirs = list(laboratory.reference.model.parameters())
    batch = subject.first_update(laboratory)
    carrying = [where for where, tensor in tensors_of(batch) if tensor.requires_grad]
    if carrying:
        return broken(
            f"{carrying[0]} carries a gradient",
            where="draw",
            mend="compute what goes into a batch under torch.no_grad(), or detach it; never requires_grad_() in draw",
        )
    unfrozen = [parameter for parameter in theirs if parameter.requires_grad]
    for parameter in theirs:
        parameter.requires_grad_(True)
    if not unfrozen:
        found = _reaches_reference(subject, laboratory, batch[ROWS], theirs)
        if found is not None:
            return found
    if unfrozen or any(parameter.grad is not None for parameter in theirs):
        return broken(
            "the reference's weights were made trainable or were given a gradient",
            where="draw or compute_loss",
            mend="leave reference.model alone; read reference.token_logprobs or reference.pair_logprobs",
        )
    parameters = laboratory.policy.parameters()
    if any(parameter.grad is not None for parameter in parameters):
        return broken(
            "compute_loss leaves gradients behind", where="compute_loss", mend="return the loss; the run calls backward"
        )
    if any(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True)):
        return broken("the policy's weights moved", where="draw or compute_loss", mend="only update_policy may change weights")
    return _through_the_critic(subject) or _reference_is_read(subject)


def _through_the_critic(subject: Subject) -> Finding | None:
    """A term in which log-probabilities are multiplied by the critic's live values: an advantage that is not detached."""
    if Need.VALUES not in subject.needs or subject.goes_past:
        return None
    laboratory = subject.stand_in()
    batch = subject.first_update(laboratory)
    terms = subject.loss(laboratory, batch).terms if len(batch) else {}
    logprobs, values = (laboratory.policy.leaves.get(name) for name in ("token_logprobs", "values"))
    if logprobs is None or values is None:
        return None
    for name, term in terms.items():
        into, across = (_slope(term.total, leaf) for leaf in (logprobs, values))
        if bool(_slope(into.sum(), values).any()) and not bool(_slope(across.sum(), values).any()):
            return broken(
                f"term {name} multiplies log-probabilities by values that carry a gradient, and is no regression of the values: "
                "its gradient teaches the critic to please the policy",
                number=f"{float(across.abs().max()):.1e}",
                where=f"terms[{name!r}] in compute_loss",
                example=row_shown(subject, batch, 0),
                mend="an advantage is a constant: take it from the batch, or detach the values that it is made of",
            )
    return None


def _slope(total: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of a number, of which another can be taken; 0 where it does not depend on the leaf."""
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(total, leaf, create_graph=True, allow_unused=True, materialize_grads=True)
    return found


def _reaches_reference(subject: Subject, laboratory: Laboratory, batch: Any, theirs: list[torch.nn.Parameter]) -> Finding | None:
    output = subject.loss(laboratory, batch)
    for name, term in output.terms.items():
        if term.weights.requires_grad:
            return broken(
                f"the weights of term {name} carry a gradient",
                where="compute_loss",
                mend="weights depend on masks and lengths alone; put what depends on the policy into the values",
            )
    if not output.loss.requires_grad:
        return None
    found = torch.autograd.grad(output.loss, theirs, allow_unused=True, retain_graph=True)
    into = max((float(gradient.abs().max()) for gradient in found if gradient is not None), default=None)
    if into is None:
        return None
    return broken(
        f"the gradient goes into the reference (largest entry {into:.1e})",
        number=f"{into:.0e}",
        where="compute_loss",
        example=row_shown(subject, batch, 0),
        mend="read the reference through its own methods, which take no gradient, or under torch.no_grad()",
    )


def _reference_is_read(subject: Subject) -> Finding:
    laboratory = subject.stand_in()
    batch = subject.first_update(laboratory)
    subject.loss(laboratory, batch)
    asked = laboratory.reference.calls if isinstance(laboratory.reference, StandInReference) else 0
    if Need.REFERENCE in subject.needs and asked == 0 and _real_calls(subject) == 0:
        return broken(
            "Need.REFERENCE is declared, but the reference is never asked: the policy would be compared with itself",
            where="compute_loss",
            mend="take reference log-probabilities from reference.pair_logprobs(batch) or reference.token_logprobs(sequences)",
        )
    if Need.REFERENCE not in subject.needs and asked:
        return broken("the reference is read, but needs does not name it", where="needs", mend="add Need.REFERENCE to needs")
    return passed("none elsewhere")


def _real_calls(subject: Subject) -> int:
    """How often the reference's model is run, for algorithms that go past the stand-in's methods."""
    laboratory = subject.real(moved=False)
    calls: list[int] = []
    handle = laboratory.reference.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        subject.loss(laboratory, subject.first_update(laboratory)[ROWS])
    finally:
        handle.remove()
    return len(calls)


def reached(subject: Subject) -> Finding:
    """Every trainable parameter that log-probabilities (and values, where there is a critic) depend on gets a gradient."""
    laboratory = subject.real(moved=True)
    batch = subject.first_update(laboratory)[ROWS]
    names = [name for name, parameter in laboratory.policy.model.named_parameters() if parameter.requires_grad]
    gradient, _ = _by_parameter(subject, laboratory, batch)
    names += [f"value_head.{number}" for number in range(len(gradient) - len(names))]
    parts = parts_of(batch)
    if not parts:
        return skipped("the batch has no sequences of its own")
    reachable = _reachable(laboratory, parts[0].sequences)
    missing = [name for name, mine, can in zip(names, gradient, reachable, strict=True) if can and not _nonzero(mine)]
    if missing:
        shown = (
            "no parameter gets a gradient" if not any(map(_nonzero, gradient)) else f"{len(missing)} parameters get no gradient"
        )
        return broken(
            f"{shown}: {', '.join(missing[:2])}{', ...' if len(missing) > 2 else ''}",
            number=f"{len(names) - len(missing)}/{len(names)}",
            where="compute_loss",
            example=row_shown(subject, batch, 0),
            mend="something is detached, computed under no_grad or read from the batch where the policy was meant",
        )
    return passed(f"{sum(map(_nonzero, gradient))}/{len(names)}")


def _nonzero(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


def _by_parameter(subject: Subject, laboratory: Laboratory, batch: Any) -> tuple[list[Tensor | None], dict[str, float]]:
    source = subject.accumulate(subject.algorithm, laboratory.policy, laboratory.reference, batch, micro_batch=len(batch))
    return list(source()["loss"]), source.metrics


def _reachable(laboratory: Laboratory, sequences: Any) -> list[bool]:
    requires = frozenset({"values"}) if laboratory.policy.value_head is not None else frozenset()
    found = laboratory.policy.token_statistics(sequences, requires=requires)
    total = (found.token_logprobs * torch.arange(1, found.token_logprobs.shape[-1] + 1)).sum()
    total = total if found.values is None else total + found.values.sum()
    gradients = torch.autograd.grad(total, laboratory.policy.parameters(), allow_unused=True)
    return [_nonzero(gradient) for gradient in gradients]


def prompt(subject: Subject) -> Finding:
    """No gradient reaches what the model predicts of a prompt, nor a critic's values there: only those of completions."""
    laboratory = subject.real(moved=True)
    batch = subject.first_update(laboratory)[FEW_ROWS]
    if (found := _cut_elsewhere(subject, batch)) is not None:
        return found
    prompts = [tokens for part in parts_of(batch) for tokens in part.sequences.prompts]
    passes: list[tuple[Tensor, Tensor]] = []  # tokens [rows, T], and logits or values of theirs
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
    return passed(f"{looked} rows")


def _cut_elsewhere(subject: Subject, batch: Any) -> Finding | None:
    """Pairs of the task put together anew: the end of the prompt is learned too, or the end of the completion is not."""
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
        whole = [(was, now) for was, now in whole if len(was)]  # a single completion has an empty other side
        if whole and all(np.array_equal(now, was[:-1]) for was, now in whole):
            return broken(
                "the last token of every completion is left out: the policy never learns to end",
                where="draw",
                example=row_shown(subject, part, 0),
                mend="leave the sequences of lab.pairs as they are: a completion ends with its end-of-sequence token",
            )
    return None


def _place(ids: list[int], prompts: list[np.ndarray]) -> tuple[int, int]:
    """(start, length) of the longest of the prompts that begins nearest to the left of a row, (0, 0) if none is there."""
    found = (0, 0)
    for tokens in prompts:
        wanted = tokens.tolist()
        starts = (start for start in range(len(ids) - len(wanted) + 1) if ids[start : start + len(wanted)] == wanted)
        start = next(starts, None)
        if start is not None and len(wanted) > found[1]:
            found = (start, len(wanted))
    return found


def tokens(subject: Subject) -> Finding:
    """Learning reaches the first, the inner and the last tokens of completions, both sides of a pair, and nothing beyond."""
    counts = {"first": [0, 0], "inner": [0, 0], "last": [0, 0]}
    sides = {"chosen": [0, 0], "rejected": [0, 0]}
    for spread in (0.0, 0.3):
        laboratory = subject.stand_in(spread=spread)
        batch = subject.first_update(laboratory)
        gradient, _ = subject.gradient(laboratory, batch)
        if not reads_logprobs(laboratory):
            return skipped("the loss does not read token log-probabilities through the policy")
        beyond = _weighs_padding(subject, subject.loss(laboratory, batch), batch)
        if beyond is not None:
            return beyond
        for part in parts_of(batch):
            is_pairs = part.sequences.group_size == 2 and not hasattr(part, "rewards")
            for group in completion_gradients(laboratory, part, gradient):
                for place, values in enumerate(group):
                    if 3 <= len(values) < part.sequences.width:  # at the edge a shifted mask comes round again
                        _count(counts, values)
                    if is_pairs and len(values):
                        _tally(sides[("chosen", "rejected")[place]], bool((values != 0).any()))
    found = _judged(counts, "token of a completion", _MASK_MEND) or _one_column(subject, laboratory, batch, gradient)
    if found is None and subject.algorithm.kind is AlgorithmType.PREFERENCE_LEARNING:
        found = _judged_sides(subject, sides)
    if not sum(count[0] for count in (*counts.values(), *sides.values())):
        return broken("no token gets a gradient", where="compute_loss", mend="something is detached or every weight is 0")
    total = [sum(count[which] for count in counts.values()) for which in (0, 1)]
    idle = _weightless(subject.loss(laboratory, batch), batch)
    return found or passed(f"{total[0]}/{total[1]} tokens{f'; {idle} of {len(batch)} rows weigh 0' if idle else ''}")


def _one_column(subject: Subject, laboratory: Laboratory, batch: Any, gradient: Tensor) -> Finding | None:
    """Only one place of every rewarded group learns, though it is not that of the best rewards."""
    for part in parts_of(batch):
        size, rewards = part.sequences.group_size, getattr(part, "rewards", None)
        if size < 3 or not isinstance(rewards, Tensor) or rewards.shape != (len(part), size):
            continue
        alive = torch.zeros(size, dtype=torch.long)
        for group in completion_gradients(laboratory, part, gradient):
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
