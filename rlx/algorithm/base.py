"""The contract between an algorithm and the training loop: `draw` makes a batch, `compute_loss` gives the loss on it.

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
from rlx.fields import Ranged, count, within
from rlx.loss.preference.base import PreferenceLoss
from rlx.optimizer.step import Clipping
from rlx.seeding import Stream

if TYPE_CHECKING:
    from rlx.data.preferences import PairBatch
    from rlx.optimizer.step import GradientSource, Optimizer
    from rlx.policy.base import Policy
    from rlx.policy.reference import MovingReference, Reference
    from rlx.rollout.buffer import ReplayBuffer
    from rlx.rollout.sampler import Sampler
    from rlx.task.base import Task

MOST_ROWS = 16_384  # pairs or prompts per step, and completions per prompt: a larger number is a typo and would never finish


class AlgorithmType(Enum):
    """The kind of learning that an algorithm does, shown by `rlx --help` and `rlx compare`."""

    PREFERENCE_LEARNING = "preference_learning"
    POLICY_GRADIENT = "policy_gradient"
    REINFORCEMENT_LEARNING = "reinforcement_learning"
    HYBRID = "hybrid"
    SUPERVISED = "supervised"


class Need(Enum):
    """What an algorithm needs from the task and the run."""

    PAIRS = "pairs"
    DEMONSTRATIONS = "demonstrations"  # the chosen completions of pairs serve too
    REWARDS = "rewards"
    REFERENCE = "reference"
    VALUES = "values"


@dataclass(frozen=True, eq=False)
class Term:
    """One named part of a loss: `coefficient * (weights * values).sum()`.

    values: [B] or [B, T] or any shape, with the gradient; weights: the same shape, detached.
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
        """[] this term's contribution to the loss."""
        return self.coefficient * (self.weights.to(self.values) * self.values).sum()


@dataclass(frozen=True, eq=False)
class LossOutput:
    """What `compute_loss` returns: the terms, whose totals add up to the loss, and metrics to log.

    metrics: name -> (sum, count), both detached scalars [], so that they add over micro-batches; the logged value is sum / count.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(values: Tensor, weights: Tensor, **metrics: Tensor) -> LossOutput:
        """A loss of one term, with metrics given as tensors; the mean over all elements of each is logged."""
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
    """What `draw` returns. A row is a pair or a group: all its completions share a prompt.

    A slice keeps the weights, advantages and old values of its rows, so the terms of slices add up to those of the batch.
    """

    @property
    def metrics(self) -> Mapping[str, float]: ...  # metrics of the whole batch, logged unchanged
    @property
    def row_tokens(self) -> list[int]: ...  # tokens of each row, to cut the batch into micro-batches and count its cost
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice) -> Any: ...


@dataclass(frozen=True)
class Lab:
    """What `draw` may use. Only `draw` writes `state` (such as a running baseline), which checkpoints contain."""

    task: Task
    policy: Policy
    reference: Reference
    sampler: Sampler
    step: int
    rng: Stream
    state: dict[str, Tensor]

    def pairs(self, pairs_per_step: int) -> PairBatch:
        """This step's preference pairs: every pair once per epoch, in an order that depends on (seed, epoch)."""
        from rlx.data.preferences import PairBatch, epoch_rows

        pairs = self.policy.pair_tokenizer(self.task.pairs())
        rows = epoch_rows(self.rng.child("pairs"), num_rows=len(pairs), step=self.step, per_step=pairs_per_step)
        return PairBatch.of(pairs, rows)

    def buffer(self, capacity: int, *, name: str = "buffer") -> ReplayBuffer:
        """The run's replay buffer of this name: groups of rollouts from earlier steps, kept in `state`."""
        from rlx.rollout.buffer import ReplayBuffer

        return ReplayBuffer(self, capacity=capacity, name=name)


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True, kw_only=True)
class Algorithm(Ranged, Generic[B]):
    """A frozen dataclass of hyperparameters, without a model, logger or state.

    updates_per_batch: optimiser updates made from one draw.
    max_grad_norm: the gradient is scaled down to this Euclidean norm; null turns it off.
    """

    kind: ClassVar[AlgorithmType]
    needs: ClassVar[frozenset[Need]]

    updates_per_batch: int = count(default=1)
    max_grad_norm: float | None = within(above=0, optional=True, advice="null turns clipping off", default=1.0)

    @property
    def active_needs(self) -> frozenset[Need]:
        """The needs with these hyperparameters: `needs`, and those of optional terms that are switched on."""
        return self.needs

    @property
    def reads_pairs(self) -> bool:
        """Whether it learns from the task's pairs, or from their chosen completions."""
        return not self.active_needs.isdisjoint((Need.PAIRS, Need.DEMONSTRATIONS))

    @property
    def clipping(self) -> Clipping:
        """How `update_policy` scales and clips the gradient; a mixture applies it to the gradient of this algorithm's term."""
        return Clipping(max_grad_norm=self.max_grad_norm)

    @property
    def couples_rows(self) -> bool:
        """Whether the loss couples rows (sorts them, subtracts their mean), and so needs all rows of an update at once."""
        return False

    @property
    def moving_reference(self) -> MovingReference | None:
        """How the reference follows the policy, if the loss moves it (loss=tr_dpo); None if the reference is fixed."""
        loss = getattr(self, "loss", None)
        return cast("MovingReference | None", loss.moving_reference) if isinstance(loss, PreferenceLoss) else None

    def draw(self, lab: Lab) -> B:
        """The batch of this step; its tensors carry no gradient."""
        raise ConfigError(f"{type(self).__name__} does not say what to learn from: define draw(self, lab)")

    def renewed(self, lab: Lab, batch: B) -> B:
        """The batch updated for its optimiser updates if older weights drew it (rollout.ahead). lab: has the current policy."""
        return batch

    def updates(self, batch: B, rng: Stream) -> Iterator[B]:
        """The batches of one draw's optimiser updates: the whole batch, `updates_per_batch` times."""
        for _ in range(self.updates_per_batch):
            yield batch

    def compute_loss(self, policy: Policy, reference: Policy | Reference, batch: B) -> LossOutput:
        """The loss of the policy on these rows, as terms that are weighted sums over them."""
        raise ConfigError(f"{type(self).__name__} has no loss: define compute_loss(self, policy, reference, batch)")

    def update_policy(self, gradients: GradientSource, optimizer: Optimizer) -> Mapping[str, float]:
        """One optimiser update; `gradients()` accumulates over micro-batches. Returns metrics to log."""
        return optimizer.step(gradients()["loss"], self.clipping)

    def validate(self, lab: Lab) -> dict[str, float]:
        """Additional evaluation metrics by name; the task defines the score."""
        return {}


# Checks of an algorithm before a model is loaded, and of its methods' return values.

# method -> the arguments that the loop passes
CALLED_WITH = {
    "draw": ("lab",),
    "renewed": ("lab", "batch"),
    "updates": ("batch", "rng"),
    "compute_loss": ("policy", "reference", "batch"),
    "update_policy": ("gradients", "optimizer"),
    "validate": ("lab",),
}
DUTIES = {"draw": "what to learn from", "compute_loss": "what its loss is"}
OF_BATCH = ("metrics", "row_tokens", "__len__", "__getitem__")


def require_complete(algorithm: Algorithm[Any]) -> None:
    """Raise ConfigError if an algorithm lacks kind, needs or a method, or has a method that the loop cannot call."""
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
                "rlx new algorithm my_idea writes an example"
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
    """Raise TrainingError if draw or updates did not return a batch."""
    lacking = [name for name in OF_BATCH if not hasattr(batch, name)]
    if lacking:
        raise TrainingError(
            f"draw or updates of {type(by).__name__} returns {_article(batch)}, which has no {lacking[0]}; it must be a batch: "
            "lab.pairs(...), roll_out(lab, ...), or a class with metrics, row_tokens, len and slices"
        )


def require_output(output: Any, *, by: Algorithm[Any]) -> None:
    """Raise TrainingError if compute_loss did not return a LossOutput with at least one term."""
    if not isinstance(output, LossOutput):
        raise TrainingError(
            f"compute_loss of {type(by).__name__} returns {_article(output)}, not a LossOutput: "
            "return LossOutput.of(values, weights), with unreduced values [B] or [B, T]"
        )
    if not output.terms:
        raise TrainingError(f"compute_loss of {type(by).__name__} returns a LossOutput without terms; a loss is a sum of terms")


def require_figures(figures: Any, *, by: Algorithm[Any]) -> None:
    """Raise TrainingError if update_policy did not return a mapping of names to numbers."""
    said = _article(figures) if not isinstance(figures, Mapping) else ""
    for name, value in figures.items() if not said else ():
        if not isinstance(value, (int, float)):
            said = f"{_article(value)} as {name}"
    if said:
        raise TrainingError(
            f"update_policy of {type(by).__name__} returns {said}; it must return names and plain numbers: "
            "return optimizer.step(gradients()['loss'], self.clipping)"
        )


def _article(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
