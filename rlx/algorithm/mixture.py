"""Mixtures: the weighted sum of several algorithms' losses in one optimiser step. Hybrid is the mixture of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, zip_longest
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from rlx.algorithm.base import Algorithm, AlgorithmType, Lab, LossOutput, Need, Term
from rlx.algorithm.combine import Combine, cosine
from rlx.errors import ConfigError
from rlx.fields import Ranged, count, within
from rlx.optimizer.step import Clipping, total_norm
from rlx.seeding import Stream

if TYPE_CHECKING:
    from rlx.optimizer.step import GradientSource, Optimizer
    from rlx.policy.base import Policy
    from rlx.policy.reference import MovingReference, Reference

_NO_NEGATIVE = "a negative weight would maximise the loss of its term; use 0 to leave it out"


@dataclass(frozen=True, eq=False)
class MixtureBatch:
    """The rows of the terms' batches, one batch after the other.

    weights: term -> its weight at this step. shares: term -> the share of its rows in this slice; 1 for a term without an entry.
    """

    parts: Mapping[str, Any]
    weights: Mapping[str, float]
    metrics: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts.values())

    def __getitem__(self, rows: slice) -> MixtureBatch:
        start, stop, _ = rows.indices(len(self))
        taken, shares, offset = {}, {}, 0
        for name, part in self.parts.items():
            first, last = max(start - offset, 0), min(stop - offset, len(part))
            if first < last:
                taken[name] = part[first:last]
                shares[name] = self.shares.get(name, 1.0) * (last - first) / len(part)
            offset += len(part)
        return MixtureBatch(taken, self.weights, self.metrics, shares)

    @property
    def row_tokens(self) -> list[int]:
        """The number of tokens in each row."""
        return [tokens for part in self.parts.values() for tokens in part.row_tokens]

    @property
    def tokens_sampled(self) -> int:
        """The number of tokens sampled for the draw."""
        return sum(getattr(part, "tokens_sampled", 0) for part in self.parts.values())

    def part_of(self, term: str) -> Any:
        """The batch that a term `<name>/<term>` of the loss was computed on."""
        return self.parts[term.partition("/")[0]]


@dataclass(frozen=True, kw_only=True)
class MixtureTerm(Ranged):
    """An algorithm with its weight.

    final_weight: the weight after the mixture's schedule_steps, approached linearly; null: constant weight.
    """

    algorithm: Algorithm[Any]
    weight: float = within(at_least=0, advice=_NO_NEGATIVE)
    final_weight: float | None = within(at_least=0, optional=True, advice=_NO_NEGATIVE, default=None)

    @property
    def is_drawn(self) -> bool:
        """Whether it is ever drawn: one of its weights is above 0."""
        return bool(self.weight or self.final_weight)

    def weight_at(self, step: int, schedule_steps: int | None) -> float:
        """The weight at a step; schedule_steps: the mixture's."""
        if self.final_weight is None or schedule_steps is None:
            return self.weight
        return self.weight + (self.final_weight - self.weight) * min(1.0, step / schedule_steps)


@dataclass(frozen=True, kw_only=True)
class Mixture(Algorithm[MixtureBatch]):
    """The weighted sum of other algorithms' losses.

    A term draws from the random streams that its algorithm would have alone; a term of weight 0 is not drawn. Each term's
    gradient is clipped as its algorithm defines and multiplied by its weight; `combine` combines them into one gradient, which
    is clipped by the mixture's max_grad_norm. So a mixture of a single term of weight 1 equals that algorithm bit for bit.
    An update contains the terms that have not yet made all of their updates_per_batch.

    terms: name -> MixtureTerm. combine: algorithm/combine=sum, pcgrad, normalized_sum.
    schedule_steps: steps over which weights go from weight to final_weight; null: weights are constant.
    adaptive_gradient_clipping: of the combined gradient (arXiv:2102.06171), or null.
    """

    kind: ClassVar[AlgorithmType] = AlgorithmType.HYBRID
    needs: ClassVar[frozenset[Need]] = frozenset()

    terms: Mapping[str, MixtureTerm]
    combine: Combine
    schedule_steps: int | None = count(optional=True, advice="null is for constant weights")
    adaptive_gradient_clipping: float | None = within(above=0, optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_terms(self.terms)
        if self.updates_per_batch != 1:
            raise ConfigError("algorithm.updates_per_batch belongs to the terms of a mixture; set it in the term's algorithm")

    @property
    def active_needs(self) -> frozenset[Need]:
        return frozenset().union(*(term.algorithm.active_needs for term in self.terms.values() if term.is_drawn))

    @property
    def couples_rows(self) -> bool:
        return any(term.algorithm.couples_rows for term in self.terms.values() if term.is_drawn)

    @property
    def clipping(self) -> Clipping:
        return Clipping(max_grad_norm=self.max_grad_norm, adaptive=self.adaptive_gradient_clipping)

    @property
    def moving_reference(self) -> MovingReference | None:
        """How the reference of the terms, which share one, follows the policy."""
        active = [term.algorithm for term in self.terms.values() if term.is_drawn]
        return next((algorithm.moving_reference for algorithm in active if algorithm.moving_reference is not None), None)

    def draw(self, lab: Lab) -> MixtureBatch:
        weights = {name: term.weight_at(lab.step, self.schedule_steps) for name, term in self.terms.items()}
        weights = {name: weight for name, weight in weights.items() if weight != 0}
        parts = {}
        for name in weights:
            own = {key.removeprefix(f"{name}/"): value for key, value in lab.state.items() if key.startswith(f"{name}/")}
            parts[name] = self.terms[name].algorithm.draw(replace(lab, state=own))
            lab.state.update({f"{name}/{key}": value for key, value in own.items()})
        figures = {f"{name}/{figure}": value for name, part in parts.items() for figure, value in part.metrics.items()}
        return MixtureBatch(parts, weights, figures | {f"{name}/weight": weight for name, weight in weights.items()})

    def renewed(self, lab: Lab, batch: MixtureBatch) -> MixtureBatch:
        parts = {name: self.terms[name].algorithm.renewed(lab, part) for name, part in batch.parts.items()}
        return replace(batch, parts=parts)

    def updates(self, batch: MixtureBatch, rng: Stream) -> Iterator[MixtureBatch]:
        streams = [self.terms[name].algorithm.updates(part, rng) for name, part in batch.parts.items()]
        for parts in zip_longest(*streams):
            present = {name: part for name, part in zip(batch.parts, parts, strict=True) if part is not None}
            yield MixtureBatch(present, batch.weights, batch.metrics)

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: MixtureBatch) -> LossOutput:
        terms: dict[str, Term] = {}
        metrics: dict[str, tuple[Tensor, Tensor]] = {}
        for name, part in batch.parts.items():
            output = self.terms[name].algorithm.compute_loss(policy, reference, part)
            for own, term in output.terms.items():
                terms[f"{name}/{own}"] = replace(term, coefficient=batch.weights[name] * term.coefficient)
            metrics |= {f"{name}/{figure}": value for figure, value in output.metrics.items()}
            loss = output.loss.detach()  # without the weight, as the algorithm alone would log it
            metrics[f"{name}/loss"] = (loss, loss.new_tensor(batch.shares.get(name, 1.0)))
        return LossOutput(terms, metrics)

    def update_policy(self, gradients: GradientSource, optimizer: Optimizer) -> Mapping[str, float]:
        """One step along the combined gradient; grad_norm is the norm of the combination of unclipped gradients."""
        found = gradients(by=lambda term: term.partition("/")[0])
        if not found:
            return optimizer.step([None] * len(optimizer.parameters), self.clipping)
        limits = {name: self.terms[name].algorithm.clipping.times(gradients.batch.weights[name]) for name in found}
        raw = {name: optimizer.clipped(gradient, Clipping(scale=limits[name].scale)) for name, gradient in found.items()}
        clipped = {name: optimizer.clipped(gradient, limits[name]) for name, gradient in found.items()}
        figures = {f"{name}/grad_norm": part.norm for name, part in raw.items()}
        for first, second in combinations(found, 2):
            figures[f"grad_cosine/{first}_{second}"] = cosine(found[first], found[second])
        whole = total_norm(self.combine({name: part.gradients for name, part in raw.items()}))
        stepped = optimizer.step(self.combine({name: part.gradients for name, part in clipped.items()}), self.clipping)
        if len(clipped) == 1 and self.clipping == Clipping():  # rounded as in a run of the algorithm alone
            stepped["grad_norm_clipped"] = next(iter(clipped.values())).norm_after
        return {**figures, **stepped, "grad_norm": float(whole)}

    def validate(self, lab: Lab) -> dict[str, float]:
        active = {name: term for name, term in self.terms.items() if term.is_drawn}
        return {
            f"{name}/{figure}": value for name, term in active.items() for figure, value in term.algorithm.validate(lab).items()
        }


def check_terms(terms: Mapping[str, MixtureTerm]) -> None:
    """Raise ConfigError for terms that a mixture cannot train as their algorithms would train alone."""
    if not any(term.is_drawn for term in terms.values()):
        raise ConfigError("every term of the mixture has weight 0, so there is nothing to learn; give one a weight above 0")
    moving = {name: term.algorithm.moving_reference for name, term in terms.items() if term.is_drawn}
    asking = {name: spec for name, spec in moving.items() if spec is not None}
    if len(set(asking.values())) > 1:
        raise ConfigError(
            f"terms {' and '.join(asking)} move the reference in different ways, and a mixture has one reference for all its "
            "terms; give them the same every_steps and policy_share, or leave it to one"
        )
    for name, term in terms.items():
        if "/" in name:
            raise ConfigError(f"the term {name!r} has a slash in its name, which separates a term's metrics; choose another name")
        if type(term.algorithm).update_policy is not Algorithm.update_policy:
            raise ConfigError(
                f"term {name}: {type(term.algorithm).__name__} has an update_policy of its own, and a mixture makes one update "
                "of all its terms; express it as its `clipping`, or train the algorithm alone"
            )


@dataclass(frozen=True, kw_only=True)
class Hybrid(Mixture):
    """dpo_weight · (a preference algorithm's loss) + grpo_weight · (a policy-gradient algorithm's loss).

    dpo, grpo: the two algorithms, custom_dpo and custom_grpo by default (algorithm@algorithm.dpo=dpo); their losses are chosen by
    loss@algorithm.dpo.loss=ipo and set by algorithm.dpo.loss.beta=0.2.
    final_dpo_weight, final_grpo_weight: the weights after schedule_steps, approached linearly; null: constant.
    """

    terms: Mapping[str, MixtureTerm] = field(init=False, repr=False)  # created from the fields below
    dpo: Algorithm[Any]
    grpo: Algorithm[Any]
    dpo_weight: float = within(at_least=0, advice=_NO_NEGATIVE)
    grpo_weight: float = within(at_least=0, advice=_NO_NEGATIVE)
    final_dpo_weight: float | None = within(at_least=0, optional=True, advice=_NO_NEGATIVE)
    final_grpo_weight: float | None = within(at_least=0, optional=True, advice=_NO_NEGATIVE)

    def __post_init__(self) -> None:
        dpo = MixtureTerm(algorithm=self.dpo, weight=self.dpo_weight, final_weight=self.final_dpo_weight)
        grpo = MixtureTerm(algorithm=self.grpo, weight=self.grpo_weight, final_weight=self.final_grpo_weight)
        object.__setattr__(self, "terms", {"dpo": dpo, "grpo": grpo})
        super().__post_init__()
