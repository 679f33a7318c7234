"""The laws that every loss keeps, as functions that tests and `rlx check` call: each returns None, or says what is broken.

Dimensions: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlx.check.finding import Finding, broken, holds, skipped
from rlx.check.subject import Subject, losses_of
from rlx.errors import ConfigError
from rlx.fields import Choice, Range
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.loss.preference.base import Loss, PairLogprobs, PreferenceLoss, masked
from rlx.loss.preference.modifier import MovingReference
from rlx.loss.ratio import FrozenStopGradients
from rlx.seeding import Stream

# Random batches on which the laws of losses are tried: every input a loss may ask for, as named tensors with rows first.

Tensors = Mapping[str, Tensor]
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Case:
    """A batch for a loss: `evaluate(tensors)` calls the loss on tensors named as in `tensors`, all or some of the rows.

    leaves: names of those a gradient is taken of; tokenwise: names of those whose last axis is tokens; masks likewise, bool.
    weight_mask: name of the mask that the loss's weights are computed from.
    """

    loss: Loss
    tensors: Tensors
    leaves: tuple[str, ...]
    tokenwise: tuple[str, ...]
    evaluate: Callable[[Tensors], Tensor]
    weight_mask: str

    def __len__(self) -> int:
        return len(self.tensors[self.weight_mask])

    @property
    def weights(self) -> Tensor:
        """The weights of all rows."""
        return self.loss.weights(self.tensors[self.weight_mask])

    def with_tensors(self, **changed: Tensor) -> Case:
        """This case with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **changed})

    def at(self, rows: slice | Tensor) -> Case:
        """The rows at a slice or an index."""
        return replace(self, tensors={name: tensor[rows] for name, tensor in self.tensors.items()})

    def total(self) -> Tensor:
        """[] the loss."""
        return (self.weights * self.evaluate(self.tensors)).sum()

    def gradients(self) -> tuple[Tensor, dict[str, Tensor]]:
        """([] the loss, leaf -> its gradient, 0 where the loss does not depend on it)."""
        leaves = {name: self.tensors[name].detach().clone().requires_grad_() for name in self.leaves}
        total = self.with_tensors(**leaves).total()
        if not total.requires_grad:
            return total, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        given = zip(leaves.items(), found, strict=True)
        return total.detach(), {name: torch.zeros_like(leaf) if grad is None else grad for (name, leaf), grad in given}


def case_of(loss: Loss, *, rows: int = 8, tokens: int = 7, seed: int = 0, labelled: bool = True, spread: float = 0.5) -> Case:
    """A random batch in float64 for a preference or a policy-gradient loss.

    spread: how far policy, sampler and reference lie apart, in nats a token. labelled: give labels to a loss that can read them;
    without them, and in the scores, the chosen completion is the better one.
    """
    rng = Stream(seed, ("laws", rows, tokens)).torch()
    if isinstance(loss, PreferenceLoss):
        return _pairs(loss, rows, tokens, rng, labelled, spread)
    if isinstance(loss, PolicyGradientLoss):
        return _rollouts(loss, rows, tokens, rng, spread)
    raise ConfigError(f"{type(loss).__name__} is neither a PreferenceLoss nor a PolicyGradientLoss; derive it from one of them")


def _logprobs(mask: Tensor, rng: torch.Generator) -> Tensor:
    return torch.where(mask, -0.05 - 2 * torch.rand(mask.shape, generator=rng, dtype=torch.float64), 0.0)


def _moved(logprobs: Tensor, mask: Tensor, rng: torch.Generator, spread: float) -> Tensor:
    noise = torch.randn(mask.shape, generator=rng, dtype=torch.float64)
    return torch.where(mask, (logprobs + spread * noise).clamp(max=-0.01), 0.0)


def _mask(rows: int, tokens: int, rng: torch.Generator) -> Tensor:
    """bool [B, T]; the last row is empty, the one before has a single token."""
    lengths = torch.randint(1, tokens + 1, (rows,), generator=rng)
    lengths[-1], lengths[-2], lengths[0] = 0, 1, tokens
    return torch.arange(tokens) < lengths[:, None]


def _pairs(loss: PreferenceLoss, rows: int, tokens: int, rng: torch.Generator, labelled: bool, spread: float) -> Case:
    tensors: dict[str, Tensor] = {}
    for side in ("chosen", "rejected"):
        mask = _mask(rows, tokens, rng).roll(int(side == "rejected"), dims=0)
        policy = _logprobs(mask, rng)
        tensors |= {f"policy.{side}": policy, f"policy.{side}_mask": mask, f"reference.{side}_mask": mask}
        tensors[f"reference.{side}"] = _moved(policy, mask, rng, spread)
        tensors[f"policy.{side}_sum_p_squared"] = 0.05 + 0.9 * torch.rand(mask.shape, generator=rng, dtype=torch.float64)
        tensors[f"policy.{side}_vocabulary_kl"] = torch.rand(mask.shape, generator=rng, dtype=torch.float64)
        tensors[f"policy.{side}_entropy"] = torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    tokenwise = tuple(tensors)
    scores = torch.rand(rows, 2, generator=rng, dtype=torch.float64)
    scores[0] = 0.5  # a tie
    tensors["policy.scores"] = scores if labelled else scores.sort(dim=1, descending=True).values
    for owner in ("policy", "reference"):
        tensors[f"{owner}.mismatched"] = -5 * torch.rand(rows, 2, generator=rng, dtype=torch.float64)
    if labelled and "label" in loss.requires:
        tensors["policy.label"] = torch.rand(rows, 2, generator=rng) < 0.5
        tensors["policy.has_label"] = torch.rand(rows, 2, generator=rng) < 0.8
    leaves: tuple[str, ...] = ("policy.chosen", "policy.rejected")
    if "vocabulary_kl" in loss.requires:
        leaves += ("policy.chosen_vocabulary_kl", "policy.rejected_vocabulary_kl")

    def evaluate(given: Tensors) -> Tensor:
        policy, reference = (
            PairLogprobs(**{name.partition(".")[2]: tensor for name, tensor in given.items() if name.startswith(owner)})
            for owner in ("policy.", "reference.")
        )
        return loss(policy, reference if loss.needs_reference else None)

    return Case(loss, tensors, leaves, tokenwise, evaluate, "policy.chosen_mask")


def _rollouts(loss: PolicyGradientLoss, rows: int, tokens: int, rng: torch.Generator, spread: float) -> Case:
    mask = _mask(rows, tokens, rng)
    policy = _logprobs(mask, rng)
    tensors = {"token_logprobs": policy, "completion_mask": mask}
    for name in ("sampling_logprobs", "reference_logprobs"):
        tensors[name] = _moved(policy, mask, rng, spread)
    proximal = _moved(tensors["sampling_logprobs"], mask, rng, spread / 2)
    agreeing = torch.arange(rows)[:, None] % 2 == 0  # the sampler agrees with the trainer on every other row
    tensors["proximal_logprobs"] = torch.where(agreeing, tensors["sampling_logprobs"], proximal)
    tensors["entropy"] = 2 * torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    tensors["vocabulary_kl"] = torch.rand(mask.shape, generator=rng, dtype=torch.float64)
    tokenwise = tuple(tensors)
    tensors["advantages"] = 2 * torch.randn(rows, generator=rng, dtype=torch.float64)
    leaves = ("token_logprobs", *sorted(loss.requires & {"entropy", "vocabulary_kl"}))

    def evaluate(given: Tensors) -> Tensor:
        required: dict[str, Any] = {name: given[name] for name in loss.requires - {"rng"}}
        if "rng" in loss.requires:
            required["rng"] = Stream(0, ("laws", "rng")).torch()
        reference = given["reference_logprobs"] if loss.needs_reference else None
        arguments = (given["token_logprobs"], given["sampling_logprobs"], given["advantages"], given["completion_mask"])
        return loss(*arguments, reference, **required)

    return Case(loss, tensors, leaves, tokenwise, evaluate, "completion_mask")


def differs(name: str, found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> str | None:
    """What to say if two tensors are not equal to rounding, relative to the largest number in them."""
    scale = max(1.0, float(expected.abs().max()) if expected.numel() else 0.0)
    gap = float((found - expected).abs().max()) if expected.numel() else 0.0
    return None if gap <= tolerance * scale else f"{name} differs by {gap:.2e} (of {scale:.2e})"


def first(*messages: str | None) -> str | None:
    """The first message there is."""
    return next((message for message in messages if message is not None), None)


# The law of giving tokens up: a clip stops what has gone far enough, not what has gone astray.

MOVES = (0.25, 0.5)  # nats a token between the policy and its sampler: beyond usual clips, short of a dual one
FAR = 0.9  # nats, where every usual clip has set in
NEAR = 1e-6  # on either side of an end that a loss names, in nats
TOKENS = 3  # few: a smooth weight of the ratio of a whole sequence does not fall to 0
LOWER = 2.0  # nats by which every token is made less likely, so that a likelier sampler is still one


@dataclass(frozen=True)
class Given:
    """What a loss does with tokens: alive, bool [B, T], those with a gradient, however small; counted, those with a value."""

    alive: Tensor
    counted: Tensor


def clip(loss: Loss) -> str | None:
    """Tokens are given up once they have gone the right way, where the loss says so, never before for going the wrong way."""
    if not isinstance(loss, PolicyGradientLoss):
        return None
    loss = replace(loss, beta=0.0, modifiers={})
    return _astray(loss) or _elsewhere(loss)


def _astray(loss: PolicyGradientLoss) -> str | None:
    start, far, before = _given(loss, 0.0), _given(loss, FAR), _given(loss, 0.0)
    for move in MOVES:
        wrong = _given(loss, -move)
        lost = start.alive & ~wrong.alive
        if bool((lost & far.alive).any()):
            return (
                f"tokens that went {move:g} nats the wrong way are given up, while those that went {FAR:g} nats the right way "
                "go on learning; the clipped objective is the smaller of the two: -torch.minimum(ratio * A, clipped_ratio * A)"
            )
        if bool((lost & wrong.counted & before.alive).any()):  # a dual clip sets in later than the one it doubles
            return (
                f"tokens that went {move:g} nats the wrong way are counted but learn nothing; bound the objective from above "
                "alone: -torch.minimum(ratio * A, clipped_ratio * A), not -clipped_ratio * A"
            )
        before = _given(loss, move)
    return None


def _elsewhere(loss: PolicyGradientLoss) -> str | None:
    """Where a loss that names ends of its ratio gives tokens up, it does so there."""
    for name, end, sign in zip(("lower", "upper"), loss.clip_ends() or (), (-1, 1), strict=False):
        if end <= 0:
            continue
        distance = sign * math.log(end)
        far, inside, beyond = (_given(loss, distance + more) for more in (FAR, -NEAR, NEAR))
        mine = _signs(loss) == sign
        given_up = _given(loss, 0.0).alive & ~far.alive & mine
        if bool((given_up & ~inside.alive).any()) or bool((given_up & beyond.alive).any()):
            return f"tokens are not given up at the ratio {end:g}, which the loss names as its {name} end; are the ends swapped?"
    return None


def _signs(loss: PolicyGradientLoss) -> Tensor:
    """[B, 1] the way that a token should go."""
    return torch.sign(case_of(loss, tokens=TOKENS).tensors["advantages"])[:, None]


def _given(loss: PolicyGradientLoss, distance: float) -> Given:
    """What becomes of tokens that the policy has moved by `distance` nats in the way that their advantages say."""
    case = case_of(loss, tokens=TOKENS)
    mask = case.tensors["completion_mask"]
    policy = torch.where(mask, case.tensors["token_logprobs"] - LOWER, 0.0)
    before = torch.where(mask, policy - distance * _signs(loss), 0.0)
    moved = {"token_logprobs": policy, "sampling_logprobs": before, "proximal_logprobs": before, "reference_logprobs": policy}
    case = case.with_tensors(**moved)
    _, gradients = case.gradients()
    return Given(gradients["token_logprobs"] != 0, case.evaluate(case.tensors).detach() != 0)


# The laws of a loss's gradient: it is the slope, it goes the right way, and only the policy gets one.


def finite_differences(loss: Loss) -> str | None:
    """Central differences along random directions agree with the gradient, constants of `stop_gradient` held fixed."""
    case = case_of(loss, seed=1)
    frozen = FrozenStopGradients()
    with frozen.record():
        case.total()
    _, gradients = case.gradients()
    rng, step = torch.Generator().manual_seed(0), 1e-6
    for name in case.leaves:
        for _ in range(3):
            direction = torch.randn(case.tensors[name].shape, generator=rng, dtype=torch.float64)
            ends = []
            for sign in (step, -step):
                with frozen.replay():
                    ends.append(case.with_tensors(**{name: case.tensors[name] + sign * direction}).total())
            slope, expected = (ends[0] - ends[1]) / (2 * step), (gradients[name] * direction).sum()
            message = differs(f"the slope along {name}", slope, expected, 1e-5)
            if message is not None:
                return f"{message}; write rlx.loss.stop_gradient(x) for a constant, not x.detach()"
    return None


def direction(loss: Loss) -> str | None:
    """Learning goes the right way.

    Preference: the loss is lower where the policy leans to the chosen completions than where it leans to the rejected ones.
    Policy gradient: on policy the gradient of a token has the sign of minus its advantage, or is 0.
    """
    if isinstance(loss, PreferenceLoss):
        case, totals = case_of(loss, labelled=False), []
        for chosen, rejected in ((0.3, 6.3), (6.3, 0.3)):  # by how much the policy's token log-probabilities are lower
            leant = {}
            for side, lower in (("chosen", chosen), ("rejected", rejected)):
                leant[f"policy.{side}"] = masked(case.tensors[f"reference.{side}"] - lower, case.tensors[f"policy.{side}_mask"])
            totals.append(case.with_tensors(**leant).total())
        return None if totals[0] < totals[1] else "the loss is lower where the policy prefers the rejected completions"
    case = case_of(loss)
    on_policy = dict.fromkeys(("sampling_logprobs", "reference_logprobs", "proximal_logprobs"), case.tensors["token_logprobs"])
    _, gradients = case.with_tensors(**on_policy).gradients()
    pushed = gradients["token_logprobs"] * case.tensors["advantages"][:, None]
    return (
        None if float(pushed.max()) <= TOLERANCE else "the gradient lowers the probability of a token with a positive advantage"
    )


def constants(loss: Loss) -> str | None:
    """Only the policy gets a gradient: not the reference, the sampler, the advantages or a weight made of probabilities."""
    case = case_of(loss)
    names = [name for name, tensor in case.tensors.items() if tensor.is_floating_point() and name not in case.leaves]
    fixed = {name: case.tensors[name].clone().requires_grad_() for name in names if name != "policy.scores"}
    leaves = {name: case.tensors[name].clone().requires_grad_() for name in case.leaves}
    total = case.with_tensors(**fixed, **leaves).total()
    if not total.requires_grad:
        return None
    found = torch.autograd.grad(total, list(fixed.values()), allow_unused=True)
    reached = [name for name, gradient in zip(fixed, found, strict=True) if gradient is not None and bool(gradient.any())]
    return f"a gradient reaches {', '.join(reached)}; hold it constant with rlx.loss.ratio" if reached else None


# The laws that every loss keeps, as functions that tests and `rlx check` call: each returns None, or says what is broken.

GARBAGE = float("nan")


def weights_follow_masks(loss: Loss) -> str | None:
    """Weights have the shape of the values and no gradient, and are neither negative nor, outside of the mask, anything but 0."""
    case = case_of(loss)
    weights, values = case.weights, case.evaluate(case.tensors)
    if weights.shape != values.shape:
        return f"weights are {tuple(weights.shape)}, but values {tuple(values.shape)}; weights(completion_mask) must fit them"
    if weights.requires_grad or bool((weights < 0).any()):
        return "weights carry a gradient or are negative; they must depend on masks and lengths alone"
    mask = case.tensors[case.weight_mask]
    if weights.shape == mask.shape and bool((weights[~mask] != 0).any()):
        return "weights outside of the mask are not 0"
    return None


def split(loss: Loss) -> str | None:
    """Any cut into micro-batches gives the loss and gradient of the whole batch: weights are computed once, over all rows.

    The log-probabilities are a function of one parameter that all rows share. A loss that couples rows is called once on all
    of them, as leaves, and the gradients of the leaves are taken back piece by piece.
    """
    return first(*(_split(case_of(loss, spread=spread)) for spread in (0.5, 3.0)))  # near, every sort has the same order


def _split(case: Case) -> str | None:
    whole, gradients = case.gradients()
    shared = _shared_gradient(case, gradients, slice(None))
    for size in (1, 2, 3, 5):
        cuts = [slice(start, start + size) for start in range(0, len(case), size)]
        if case.loss.couples_rows:
            pieces = torch.stack([_shared_gradient(case, gradients, cut) for cut in cuts])
            found = differs("the shared gradient", pieces.sum(), shared)
        else:
            found = _split_separately(case, cuts, whole, shared)
        if found is not None:
            return f"{found} when cut into pieces of {size} rows; if the formula mixes rows, set couples_rows = True"
    return None


def _shared_gradient(case: Case, gradients: dict[str, Tensor], rows: slice) -> Tensor:
    """[] the gradient of a factor, at 1, that multiplies all leaves."""
    return torch.stack([(gradients[name][rows] * case.tensors[name][rows]).sum() for name in case.leaves]).sum()


def _split_separately(case: Case, cuts: list[slice], whole: Tensor, shared: Tensor) -> str | None:
    parameter = torch.ones((), dtype=torch.float64, requires_grad=True)
    total, gradient = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for cut in cuts:
        piece = case.at(cut)
        piece = piece.with_tensors(**{name: parameter * piece.tensors[name] for name in case.leaves})
        part = (case.weights[cut] * piece.evaluate(piece.tensors)).sum()
        total = total + part.detach()
        if part.requires_grad:
            (found,) = torch.autograd.grad(part, parameter, allow_unused=True)
            gradient = gradient if found is None else gradient + found
    return first(differs("the loss", total, whole), differs("the shared gradient", gradient, shared))


def padding(loss: Loss) -> str | None:
    """More padding, with NaN in it, changes neither the loss nor the gradient, and the gradient of the padding is 0."""
    case = case_of(loss)
    whole, gradients = case.gradients()
    wider: dict[str, Tensor] = {}
    for name in case.tokenwise:
        tensor = case.tensors[name]
        fill = torch.full((len(tensor), 3), False if tensor.dtype == torch.bool else GARBAGE, dtype=tensor.dtype)
        wider[name] = torch.cat([tensor, fill], dim=1)
        if tensor.dtype != torch.bool:
            mask = case.tensors[_mask_of(case, name)]
            wider[name] = torch.cat([torch.where(mask, tensor, GARBAGE), fill], dim=1)
    found, wider_gradients = case.with_tensors(**wider).gradients()
    for name in case.leaves:
        mask = case.tensors[_mask_of(case, name)]
        expected = torch.zeros_like(wider_gradients[name])
        expected[:, : mask.shape[1]] = masked(gradients[name], mask)
        message = differs(f"the gradient of {name}", wider_gradients[name].nan_to_num(nan=1e300), expected)
        if message is not None:
            return f"{message} with NaN in the padding; mask values before any arithmetic (rlx.loss.preference.base.masked)"
    return differs("the loss with NaN in the padding", found.nan_to_num(nan=1e300), whole)


def _mask_of(case: Case, name: str) -> str:
    side = next((side for side in ("chosen", "rejected") if f".{side}" in name), None)
    return case.weight_mask if side is None else f"policy.{side}_mask"


def order(loss: Loss) -> str | None:
    """Permuting the rows permutes the gradient and leaves the loss (not where a formula draws random rows)."""
    if "rng" in loss.requires:
        return None
    case = case_of(loss)
    shuffled = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    whole, gradients = case.gradients()
    found, moved = case.at(shuffled).gradients()
    messages = (differs(f"the gradient of {name}", moved[name], gradients[name][shuffled]) for name in case.leaves)
    return first(differs("the loss of permuted rows", found, whole), *messages)


def finite(loss: Loss) -> str | None:
    """Loss and gradient are finite in float32, for log-probabilities down to -1e4 on any side, and for empty completions."""
    base = case_of(loss)
    as_float = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in base.tensors.items()}
    base = base.with_tensors(**as_float)
    logprobs = [name for name in base.tokenwise if name.split(".")[-1] in ("chosen", "rejected") or name.endswith("_logprobs")]
    cases = {f"{name} = -1e4": base.with_tensors(**{name: torch.full_like(base.tensors[name], -1e4)}) for name in logprobs}
    cases |= {f"{name} = 0": base.with_tensors(**{name: torch.zeros_like(base.tensors[name])}) for name in logprobs}
    cases["all -1e4"] = base.with_tensors(**{name: torch.full_like(base.tensors[name], -1e4) for name in logprobs})
    masks = [name for name in base.tokenwise if name.endswith("mask")]
    cases["empty completions"] = base.with_tensors(**{name: torch.zeros_like(base.tensors[name]) for name in masks})
    one = {name: torch.arange(base.tensors[name].shape[1]).expand(base.tensors[name].shape) < 1 for name in masks}
    cases["completions of one token"] = base.with_tensors(**one)
    cases["one row"] = base.at(slice(0, 1))
    for name, case in cases.items():
        total, gradients = case.gradients()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (total, *gradients.values())):
            return f"loss or gradient is not finite at {name}; clamp what goes into an exp, a log or a division"
    return None


LAWS: dict[str, Callable[[Loss], str | None]] = {
    "weights": weights_follow_masks,
    "split": split,
    "padding": padding,
    "order": order,
    "finite": finite,
    "constants": constants,
    "finite_differences": finite_differences,
    "direction": direction,
    "clip": clip,
}


@dataclass(frozen=True)
class Verdict:
    """What a law says of a loss: `broken` is None where it holds."""

    law: str
    promise: str
    broken: str | None


def check_loss(loss: PreferenceLoss | PolicyGradientLoss) -> list[Verdict]:
    """Every law on this loss, in the order of LAWS; an error that the loss raises is a broken law."""
    verdicts = []
    for name, law in LAWS.items():
        try:
            broken = law(loss)
        except Exception as error:  # whatever a loss under test raises is its verdict
            broken = f"{type(error).__name__}: {error}"
        verdicts.append(Verdict(name, (law.__doc__ or "").partition("\n")[0], broken))
    return verdicts


# The losses within an algorithm, and their own laws.


def losses(subject: Subject) -> Finding:
    """Losses within keep the laws of tensors: weights, split, NaN in padding, order, finite, slopes, direction, clip."""
    found = [
        (path, loss) for path, loss in losses_of(subject.algorithm) if isinstance(loss, (PreferenceLoss, PolicyGradientLoss))
    ]
    if not found:
        return skipped("there is no loss of rlx within")
    count = 0
    for path, loss in found:
        for verdict in check_loss(loss):
            if verdict.law == "constants":  # what comes from reference and batch carries no gradient here: see belongs
                continue
            count += 1
            if verdict.broken is not None:
                wrong, _, mend = verdict.broken.partition("; ")
                return broken(f"law {verdict.law}: {wrong}", where=f"{path} ({type(loss).__name__})", mend=mend)
    return holds(f"{count} laws")


# The law that every hyperparameter of a loss matters: on some batch, changing it changes the loss or its gradient.


def hyperparameters_matter(loss: Loss) -> str | None:
    """Changing any hyperparameter, those of modifiers, weighting and parts included, changes the loss or its gradient."""
    if isinstance(loss, PolicyGradientLoss) and loss.beta == 0:
        loss = replace(loss, beta=0.1)  # the choices of the KL matter only where there is one
    alive: dict[str, bool] = {}
    for name, changed in variants(loss):
        alive[name] = alive.get(name, False) or any(
            _outcome(case_of(loss, rows=rows, spread=spread)) != _outcome(case_of(changed, rows=rows, spread=spread))
            for rows, spread in ((8, 0.5), (8, 2.0), (40, 2.0))
        )
    dead = sorted(name for name, matters in alive.items() if not matters)
    return f"changing {', '.join(dead)} changes neither the loss nor its gradient; use it, or take it out" if dead else None


def _outcome(case: Case) -> tuple[float, ...]:
    total, gradients = case.gradients()
    return (float(total), *(float(gradient.abs().sum()) for gradient in gradients.values()))


def variants(owner: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name of a hyperparameter, a copy of `owner` with another legal value of it), several for each.

    Those of a moving reference are left out: they change the reference as training goes on, not the loss of a batch.
    """
    for item in fields(owner):
        value = getattr(owner, item.name)
        if isinstance(value, Mapping):
            for key, node in value.items():
                for name, changed in () if isinstance(node, MovingReference) else variants(node):
                    yield f"{item.name}.{key}.{name}", replace(owner, **{item.name: {**value, key: changed}})
        elif is_dataclass(value):
            for name, changed in variants(value):
                yield f"{item.name}.{name}", replace(owner, **{item.name: changed})
        else:
            for other in _others(value, item.metadata.get("range")):
                try:
                    yield item.name, replace(owner, **{item.name: other})
                except ConfigError:  # legal by itself, not beside the other hyperparameters
                    continue


def _others(value: Any, allowed: Range | Choice | None) -> list[Any]:
    """Other values that the range allows, near and far."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(allowed, Choice):
        return [name for name in allowed.names if name != value]
    if isinstance(value, int | float) and allowed is not None:
        near = [value + 1, value - 1] if isinstance(value, int) else [2 * value, value / 2, value + 0.1, value - 0.1, 0.5, 1.5]
        return [other for other in near if other != value and other in allowed]
    return []
