"""The contract between an algorithm and the one loop: what to learn from, and how wrong the policy is on it.

Dimensions: P prompts, G completions of a prompt, B rows of a batch (pairs or groups), T tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

from torch import Tensor

from rlx.errors import ConfigError, ShapeError, TrainingError
from rlx.loss.preference.base import PreferenceLoss
from rlx.optimizer.step import Clipping
from rlx.seeding import Stream

if TYPE_CHECKING:
    from rlx.data.preferences import PairBatch
    from rlx.optimizer.step import GradientSource, Optimizer
    from rlx.policy.base import Policy
    from rlx.policy.reference import MovingReference, Reference
    from rlx.rollout.sampler import Sampler
    from rlx.task.base import Task


class AlgorithmType(Enum):
    """What kind of learning an algorithm does; shown by help and compare."""

    PREFERENCE_LEARNING = "preference_learning"
    POLICY_GRADIENT = "policy_gradient"
    REINFORCEMENT_LEARNING = "reinforcement_learning"
    HYBRID = "hybrid"
    SUPERVISED = "supervised"


class Need(Enum):
    """What an algorithm needs of the task and of the run."""

    PAIRS = "pairs"
    REWARDS = "rewards"
    REFERENCE = "reference"
    VALUES = "values"


@dataclass(frozen=True, eq=False)
class Term:
    """One named part of a loss: `coefficient * (weights * values).sum()`.

    values: [B] or [B, T] or any shape, with the gradient; weights: the same shape, without one.
    """

    values: Tensor
    weights: Tensor
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        if self.values.shape != self.weights.shape:
            raise ShapeError(
                f"a term has values {tuple(self.values.shape)} but weights {tuple(self.weights.shape)}; "
                "compute both over the same rows and tokens"
            )

    @property
    def total(self) -> Tensor:
        """[] the part of the loss that this term is."""
        return self.coefficient * (self.weights.to(self.values) * self.values).sum()


@dataclass(frozen=True, eq=False)
class LossOutput:
    """What `compute_loss` returns: the terms whose totals add up to the loss, and figures to log.

    metrics: name -> (sum, count), both detached [], so that they add over micro-batches; the figure logged is sum / count.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(values: Tensor, weights: Tensor, **metrics: Tensor) -> LossOutput:
        """One term, and metrics given as tensors whose mean over all their elements is the figure."""
        return LossOutput({"loss": Term(values, weights)}, {name: mean_of(value) for name, value in metrics.items()})

    @property
    def loss(self) -> Tensor:
        """[] the sum of the terms' totals."""
        totals = [term.total for term in self.terms.values()]
        return sum(totals[1:], start=totals[0])


def mean_of(values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(sum, count) of `values` where `mask` holds (everywhere if None): a metric that adds over micro-batches."""
    values = values.detach()
    if mask is None:
        return values.sum(), values.new_tensor(float(values.numel()))
    return (values * mask).sum(), mask.sum().to(values.dtype)


class Batch(Protocol):
    """What `draw` returns. A row is what shares a prompt: a pair, a group.

    Slicing takes weights, advantages and old values along, so the terms of the slices add up to those of the whole.
    """

    @property
    def metrics(self) -> Mapping[str, float]: ...  # figures of the whole batch, logged as they are
    @property
    def row_tokens(self) -> list[int]: ...  # of each row, for cutting the batch and counting its cost
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice) -> Any: ...


@dataclass(frozen=True)
class Lab:
    """What `draw` may use. Only `draw` writes `state` (a running baseline, say); it is checkpointed."""

    task: Task
    policy: Policy
    reference: Reference
    sampler: Sampler
    step: int
    rng: Stream
    state: dict[str, Tensor]

    def pairs(self, pairs_per_step: int) -> PairBatch:
        """This step's preference pairs: every pair once an epoch, in an order that (seed, epoch) decides."""
        from rlx.data.preferences import PairBatch, epoch_rows

        pairs = self.policy.pair_tokenizer(self.task.pairs())
        rows = epoch_rows(self.rng.child("pairs"), num_rows=len(pairs), step=self.step, per_step=pairs_per_step)
        return PairBatch.of(pairs, rows)


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True, kw_only=True)
class Algorithm(Generic[B]):
    """A frozen dataclass of hyperparameters: no model, logger or state in it.

    updates_per_batch: optimiser updates made from one draw.
    max_grad_norm: the gradient is scaled down to this Euclidean norm; null turns it off.
    """

    kind: ClassVar[AlgorithmType]
    needs: ClassVar[frozenset[Need]]

    updates_per_batch: int = 1
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if self.updates_per_batch < 1:
            raise ConfigError(f"algorithm.updates_per_batch is {self.updates_per_batch}; a draw is learned from at least once")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(
                f"algorithm.max_grad_norm is {self.max_grad_norm}; a gradient of no length moves nothing: "
                "give a norm above 0, or null for no clipping"
            )

    @property
    def active_needs(self) -> frozenset[Need]:
        """What these hyperparameters need: `needs`, unless a term is switched off or on."""
        return self.needs

    @property
    def clipping(self) -> Clipping:
        """How `update_policy` scales and clips the gradient; a mixture does the same to this term's gradient."""
        return Clipping(max_grad_norm=self.max_grad_norm)

    @property
    def couples_rows(self) -> bool:
        """Whether the loss looks across rows (sorts them, subtracts their mean): then it sees all rows of an update at once."""
        return False

    @property
    def moving_reference(self) -> MovingReference | None:
        """How the reference follows the policy: what the loss says (loss=tr_dpo); None where it stays as it was."""
        loss = getattr(self, "loss", None)
        return cast("MovingReference | None", loss.moving_reference) if isinstance(loss, PreferenceLoss) else None

    def draw(self, lab: Lab) -> B:
        """What to learn from in this step; never carries a gradient."""
        raise ConfigError(f"{type(self).__name__} does not say what to learn from: define draw(self, lab)")

    def updates(self, batch: B, rng: Stream) -> Iterator[B]:
        """The batches of one draw's optimiser updates: the whole batch, `updates_per_batch` times."""
        for _ in range(self.updates_per_batch):
            yield batch

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: B) -> LossOutput:
        """How wrong the policy is on these rows, as a weighted sum over them."""
        raise ConfigError(f"{type(self).__name__} has no loss: define compute_loss(self, policy, reference, batch)")

    def update_policy(self, gradients: GradientSource, optimizer: Optimizer) -> Mapping[str, float]:
        """One optimiser update; `gradients()` accumulates over micro-batches. Returns figures to log."""
        return optimizer.step(gradients()["loss"], self.clipping)

    def validate(self, lab: Lab) -> dict[str, float]:
        """Extra evaluation figures; the score is the task's."""
        return {}


# Is a class an algorithm, with all that the loop calls? Said before anything is loaded.

# method -> what the loop gives it
CALLED_WITH = {
    "draw": ("lab",),
    "updates": ("batch", "rng"),
    "compute_loss": ("policy", "reference", "batch"),
    "update_policy": ("gradients", "optimizer"),
    "validate": ("lab",),
}
DUTIES = {"draw": "what to learn from", "compute_loss": "how wrong the policy is"}
OF_BATCH = ("metrics", "row_tokens", "__len__", "__getitem__")


def require_whole(algorithm: Algorithm[Any]) -> None:
    """Refuse an algorithm that lacks its kind, its needs or a method, or has one that cannot be called as the loop calls it."""
    kind = type(algorithm)
    name = kind.__name__
    needs = getattr(algorithm, "needs", None)
    for said, example, holds in (
        ("kind", "AlgorithmType.PREFERENCE_LEARNING", isinstance(getattr(algorithm, "kind", None), AlgorithmType)),
        ("needs", "frozenset({Need.PAIRS})", isinstance(needs, Iterable) and all(isinstance(need, Need) for need in needs)),
    ):
        if not holds and said == "needs" and isinstance(needs, Iterable):
            raise ConfigError(f"{name} has needs = {needs!r}; they are members of Need: needs = {example}")
        if not holds:
            raise ConfigError(f"{name} does not say its {said}; write, in the class: {said} = {example}")
    for method, arguments in CALLED_WITH.items():
        mine = getattr(kind, method)
        if method in DUTIES and mine is getattr(Algorithm, method):
            raise ConfigError(
                f"algorithm {name} does not say {DUTIES[method]}: define {method}(self, {', '.join(arguments)}); "
                "rlx new algorithm my_idea writes a file to begin with"
            )
        try:
            inspect.signature(getattr(algorithm, method)).bind(*arguments)
        except TypeError as error:
            taken = ", ".join(inspect.signature(mine).parameters)
            raise ConfigError(
                f"algorithm {name}: {method}({taken}) cannot be called with {', '.join(arguments)} ({error}); "
                f"define {method}(self, {', '.join(arguments)})"
            ) from error


def require_batch(batch: Any, *, by: Algorithm[Any]) -> None:
    """Refuse what a draw or an update gives if it is no batch."""
    lacking = [name for name in OF_BATCH if not hasattr(batch, name)]
    if lacking:
        raise TrainingError(
            f"draw or updates of {type(by).__name__} gives {_article(batch)}, which has no {lacking[0]}; it gives a batch: "
            "lab.pairs(...), roll_out(lab, ...), or a class with metrics, row_tokens, len and slices"
        )


def require_output(output: Any, *, by: Algorithm[Any]) -> None:
    """Refuse what compute_loss gives if it is no LossOutput with a term."""
    if not isinstance(output, LossOutput):
        raise TrainingError(
            f"compute_loss of {type(by).__name__} gives {_article(output)}, not a LossOutput: "
            "return LossOutput.of(values, weights), values [B] or [B, T] not reduced"
        )
    if not output.terms:
        raise TrainingError(f"compute_loss of {type(by).__name__} gives a LossOutput without terms; a loss is a sum of terms")


def require_figures(figures: Any, *, by: Algorithm[Any]) -> None:
    """Refuse what update_policy gives if it is no mapping of names to numbers."""
    said = _article(figures) if not isinstance(figures, Mapping) else ""
    for name, value in figures.items() if not said else ():
        if not isinstance(value, (int, float)):
            said = f"{_article(value)} as {name}"
    if said:
        raise TrainingError(
            f"update_policy of {type(by).__name__} gives {said}; it gives names and plain numbers: "
            "return optimizer.step(gradients()['loss'], self.clipping)"
        )


def _article(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
