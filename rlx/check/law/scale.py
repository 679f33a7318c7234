"""Parts of the laws of draws and lengths, on scale: it does not depend on the number of rows, completions or prompt tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm
from rlx.check.batch import parts_of
from rlx.check.finding import Finding, broken
from rlx.check.stand_in import ChangedPairs
from rlx.check.subject import Laboratory, Subject, completion_gradients, reads_logprobs, row_shown
from rlx.check.variant import MOST_ROWS as PER_STEP
from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import RlxError
from rlx.seeding import Stream

JUMP = 1e-3  # relative change, more than rounding
LOGPROB = -0.7  # of every token under policy, reference and sampler
READ = 4  # characters of a completion that determine its reward
MOVED = 0.01  # nats a token, within every clip range


def weights_of_the_draw(subject: Subject) -> Finding | None:
    """Return a finding if weights depend on the size of a batch in one term but not in another, or in a minibatch only.

    The weights of a term add up to a constant (a mean over rows) or grow with the number of rows (a sum). It is a fault if one
    term is a mean and another one a sum, or if the weights of a minibatch of a mean add up only to its share of the draw's rows.
    Updates that together leave out rows are not minibatches, since those rows may have no gradient.
    """
    algorithm = subject.algorithm
    name = next((name for name in PER_STEP if hasattr(algorithm, name)), "")
    laboratory = subject.stand_in(shape="short")
    kept = copy.deepcopy(laboratory.state)
    batch = subject.draw(laboratory)
    if not name or len(batch) < 2:
        return None
    laboratory.state.clear()
    laboratory.state.update(kept)  # excludes changes of a coefficient from draw to draw
    try:
        fewer = subject.with_algorithm(replace(algorithm, **{name: getattr(algorithm, name) // 2}))
    except (RlxError, TypeError, ValueError):
        return None
    small = fewer.draw(laboratory)
    if len(small) * 2 != len(batch):
        return None
    try:
        whole, half = (_weight(subject, laboratory, rows) for rows in (batch, small))
    except Exception as error:  # updates may add fields that a draw lacks
        subject.untried.append(f"weights of a whole draw: it has no loss ({type(error).__name__}: {error})")
        return None
    shares = {term: half.get(term, 0.0) / total for term, total in whole.items() if total}
    means = [term for term, share in shares.items() if abs(share - 1) <= JUMP]
    sums = [term for term, share in shares.items() if abs(share - 0.5) <= JUMP]
    if means and sums:
        return broken(
            f"the weights of the term {sums[0]} add up to twice as much in a draw of twice as many rows, those of {means[0]} do "
            "not: what its coefficient means depends on the size of the batch",
            number="2",
            where=f"terms[{sums[0]!r}]",
            mend="weigh both by weights that add up alike, batch.weights; a bare mask makes a sum of a mean",
        )
    parts = list(algorithm.updates(batch, Stream(subject.seed, ("updates", 0))))
    part, updated = parts[0], {row for each in parts for row in rows_of(each)}
    if not means or not 0 < len(part) < len(batch) or not updated.issuperset(rows_of(batch)):
        return None
    cut, share = _weight(subject, laboratory, part), len(part) / len(batch)
    if not any(abs(cut.get(term, 0.0) / whole[term] - share) <= JUMP for term in means):
        return None
    return broken(
        f"an update on {len(part)} of {len(batch)} rows of a draw has {share:.2g} of the weight of all of them, though a draw of "
        f"{len(small)} rows has as much weight as one of {len(batch)}: it learns too little",
        number=f"{share:.2g}",
        where="updates",
        mend="weigh the rows of each part anew, part.with_values(weights=...), as draw weighs all of them",
    )


def _weight(subject: Subject, laboratory: Laboratory, batch: Any) -> dict[str, float]:
    """Return term -> the sum of its weights."""
    return {name: float(term.weights.detach().sum()) for name, term in subject.loss(laboratory, batch).terms.items()}


@dataclass(frozen=True)
class _Size:
    """Properties of the loss on a draw of some size.

    size: number of rows, or of completions a group. totals: term -> the sum of the sizes of its slopes. exponent: of the ratio,
    to which slopes are proportional.
    """

    size: int
    totals: dict[str, float]
    exponent: float


def divided_again(subject: Subject) -> Finding | None:
    """Return a finding if a loss decreases with the number of rows or completions: it must be a mean or a sum over them.

    All completions have the same length, log-probabilities and advantages.
    """
    algorithm = subject.algorithm
    if subject.goes_past or subject.warm_up:
        return None
    for name, what in (*((name, "rows") for name in PER_STEP), ("group_size", "completions a group")):
        value = getattr(algorithm, name, None)
        if not isinstance(value, int) or value < 2:
            continue
        try:
            other = replace(algorithm, **{name: value // 2 if name in PER_STEP else 2 * value})
            sizes = [_size(subject, each, of_group=name not in PER_STEP) for each in (algorithm, other)]
        except Exception as error:  # the algorithm may refuse the size
            subject.untried.append(f"another {name} ({type(error).__name__}: {error})")
            continue
        few, many = sorted((each for each in sizes if each is not None), key=lambda each: each.size)[:2] or (None, None)
        if few is None or many is None or few.size * 2 != many.size:
            continue
        for term, total in few.totals.items():
            share = many.totals.get(term, 0.0) / total if total else 0.0
            if abs(share - 0.5) <= JUMP:
                return broken(
                    f"with {many.size} {what} for {few.size} the slopes of the term {term} add up to half as much, where every "
                    f"completion is like any other: it is divided by the number of {what} twice",
                    number="0.5",
                    where=f"terms[{term!r}] in compute_loss, or the weights that draw makes",
                    example=f"{name} = {few.size} and {many.size}",
                    mend="a mean divides once: the weights of a batch have done so (token_mean, sequence_mean), so that a loss "
                    "divides by no count of its own",
                )
        if few.exponent > JUMP and abs(many.exponent / few.exponent - 0.5) <= JUMP:
            return broken(
                f"with {many.size} {what} for {few.size} a slope grows with the power {many.exponent:.3g} of the ratio, not "
                f"{few.exponent:.3g}: the log-ratio of a completion is divided by the number of {what} too",
                number=f"{many.exponent:.3g}",
                where="compute_loss",
                example=f"{name} = {few.size} and {many.size}; every token is {MOVED:g} nats likelier than when it was sampled",
                mend="the ratio of a sequence is exp(sum of its log-ratios / its own number of tokens)",
            )
    return None


def _size(subject: Subject, algorithm: Algorithm[Any], *, of_group: bool) -> _Size | None:
    subject = subject.with_algorithm(algorithm)
    laboratory = _alike(subject)
    batch = _as_good(subject.first_update(laboratory))
    if batch is None:
        return None
    terms = subject.loss(laboratory, batch).terms
    leaf = laboratory.policy.leaves.get("token_logprobs")
    if leaf is None:
        return None
    totals: dict[str, float] = {}
    for name, term in terms.items():
        if term.total.requires_grad:
            (slopes,) = torch.autograd.grad(term.total, leaf, allow_unused=True, materialize_grads=True, retain_graph=True)
            totals[name] = float(slopes.abs().sum())
    before = subject.gradient(laboratory, batch)[0][: len(leaf)].abs().sum()
    with torch.no_grad():
        leaf.add_(MOVED)
    after = subject.gradient(laboratory, batch)[0][: len(leaf)].abs().sum()
    exponent = math.log(float(after / before)) / MOVED if bool(before > 0) and bool(after > 0) else 0.0
    return _Size(parts_of(batch)[0].sequences.group_size if of_group else len(batch), totals, exponent)


def _alike(subject: Subject) -> Laboratory:
    """Return a laboratory in which all completions have one length and one log-probability under everybody."""
    return subject.stand_in(constant=LOGPROB, constant_of="everybody", shape="short", rewards={"read": READ})


def _as_good(batch: Any) -> Any | None:
    """Return the batch with all advantages 1; None if it is not a single batch of sequences."""
    parts = parts_of(batch)
    if len(parts) != 1 or parts[0] is not batch or len(batch) == 0:
        return None
    advantages = getattr(batch, "advantages", None)
    if not isinstance(advantages, Tensor):
        return batch
    ones = torch.ones_like(advantages)
    return batch.with_values(advantages=ones * batch.completion_mask if ones.ndim == 3 else ones)


def _twice(tokens: np.ndarray) -> np.ndarray:
    return np.tile(tokens, 2)


def _backwards(tokens: np.ndarray) -> np.ndarray:
    return np.array(tokens[::-1])


def _with_prompts(pairs: TokenizedPairs, changed: Callable[[np.ndarray], np.ndarray]) -> TokenizedPairs:
    """Return tokenised pairs with changed prompts."""
    return replace(pairs, sequences=Sequences(tuple(map(changed, pairs.sequences.prompts)), pairs.sequences.completions))


def _with_long_rejected(pairs: TokenizedPairs) -> TokenizedPairs:
    """Return tokenised pairs in which the tokens of each rejected completion are repeated."""
    groups = tuple((chosen, _twice(rejected)) for chosen, rejected in pairs.sequences.completions)
    return replace(pairs, sequences=Sequences(pairs.sequences.prompts, groups))


def prompt_weighs(subject: Subject) -> Finding | None:
    """Return a finding if prompts of twice the length change the gradient, though other prompts of equal length do not."""
    if subject.goes_past or subject.warm_up or subject.task.interaction is not None:
        return None
    found = []
    for changed in (None, _backwards, _twice):
        laboratory = _alike(subject)
        if changed is not None:
            policy, usual = laboratory.policy, laboratory.policy.encode_prompt
            policy.encode_prompt = lambda *given, changed=changed, usual=usual: changed(usual(*given))
            policy.pair_tokenizer = ChangedPairs(policy.pair_tokenizer, partial(_with_prompts, changed=changed))
        try:
            batch = subject.first_update(laboratory)
        except RlxError:
            return None
        parts = parts_of(batch)
        if len(parts) != 1 or len(batch) == 0:
            return None
        gradient, _ = subject.gradient(laboratory, batch)
        if not reads_logprobs(laboratory) or len(laboratory.policy.leaf_names) > 1:  # other statistics depend on the prompt
            return None
        slopes = torch.cat([each for group in completion_gradients(laboratory, parts[0], gradient) for each in group])
        found.append(([tokens.tolist() for group in parts[0].sequences.completions for tokens in group], slopes, batch))
    (said, usual, shown), (_, as_long, _), (other, slopes, _) = found
    scale = float(usual.abs().max()) if len(usual) else 0.0
    if said != other or not scale:
        return None
    if as_long.shape != usual.shape or float((as_long - usual).abs().max()) > JUMP * scale:  # the prompts' content has an effect
        return None
    off = float((slopes - usual).abs().max()) / scale
    if off <= JUMP:
        return None
    return broken(
        f"the same completions after prompts of twice as many tokens have {float(slopes.abs().sum() / usual.abs().sum()):.3g} "
        "times the gradient: the tokens of the prompt are counted in a length",
        number=f"{off:.0e}",
        where="compute_loss, or the weights that draw makes",
        example=row_shown(subject, shown, 0),
        mend="a length is that of the completion: completion_mask.sum(dim=-1), chosen_length; row_tokens counts prompts too",
    )


def rejected_weighs(subject: Subject) -> Finding | None:
    """Return a finding if a loss without a gradient at rejected completions changes when they are twice as long."""
    if not subject.reads_pairs or subject.goes_past or subject.warm_up:
        return None
    found = []
    for longer in (False, True):
        laboratory = _alike(subject)
        if longer:
            laboratory.policy.pair_tokenizer = ChangedPairs(laboratory.policy.pair_tokenizer, _with_long_rejected)
        batch = subject.first_update(laboratory)
        if not isinstance(batch, PairBatch) or len(batch) == 0:
            return None
        groups = completion_gradients(laboratory, batch, subject.gradient(laboratory, batch)[0])
        if not reads_logprobs(laboratory) or any(bool(side.any()) for group in groups for side in group[1:]):
            return None
        slopes = {int(row): group[0].sum() for row, group in zip(batch.rows, groups, strict=True)}
        found.append((slopes, batch))
    (usual, batch), (other, _) = found
    scale = max(float(slope.abs()) for slope in usual.values())
    if usual.keys() != other.keys() or not scale:
        return None
    off = max(float((other[row] - slope).abs()) for row, slope in usual.items()) / scale
    if off <= JUMP:
        return None
    share = float(sum(other.values()) / sum(usual.values()))
    return broken(
        f"nothing is learned of rejected completions, but where they are twice as long, chosen ones have {share:.3g} times the "
        "gradient: rejected tokens are counted in a length",
        number=f"{off:.0e}",
        where="the weights that draw makes",
        example=row_shown(subject, batch, 0),
        mend="count the tokens that are learned: batch.chosen_mask.sum(), not completion_mask, which has both sides",
    )


def rows_of(batch: Any) -> list[str]:
    """Return the sorted identities of a batch's rows: the prompt's index in the task if the batch has it, else its tokens.

    All conversations may begin with the same tokens.
    """
    found: list[str] = []
    for part in parts_of(batch):
        keys = getattr(part, "prompt_keys", None)
        if isinstance(part, PairBatch) and part.tokens_sampled:  # pairs of sampled completions have prompt indices
            keys = part.source.index[part.rows].tolist()
        found += map(repr, keys if keys is not None else (prompt.tobytes() for prompt in part.sequences.prompts))
    return sorted(found)
