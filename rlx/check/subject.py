"""The subject of the laws: an algorithm with its task, policy and sampler, and laboratories to test it in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm, Lab, LossOutput, Need, require_batch, require_output
from rlx.check.batch import draw_of, in_double, key_of, parts_of
from rlx.check.source import Accumulated, OfKnownLeaves
from rlx.check.stand_in import Numbers, ScriptedSampler, StandInPolicy, StandInReference
from rlx.check.stand_in_task import has_scores, shortened, stand_in_task, with_scores
from rlx.loss.base import Loss
from rlx.loss.state import LossStates, losses_with_state
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Optimizer
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.rollout.sampler import Sampler
from rlx.seeding import Stream
from rlx.task.base import Task

ROWS = 384  # pairs and prompts of the task that the laws use
HELD_OUT = 48  # held-out pairs and prompts, for validate
TOLERANCE = 5e-7  # a loss may have float32 constants, whose rounding depends on their place in a tensor
REAL_TOLERANCE = 1e-6  # transformers computes norms in float32
NO_CHOICES: Mapping[str, Any] = MappingProxyType({})
MOST_WARM_UP = 64  # draws before the algorithm learns, at most
LATER_STEPS = (1, 2, 5, 10, 100, 1000)  # steps tried if a warm-up of a coefficient starts at 0
MOST_PARTS = 64  # parts of a draw among which one with a gradient is searched
MOVED = 0.4  # nats a token between the policy and its reference, where they must differ


def losses_of(owner: Any, path: str = "algorithm") -> Iterator[tuple[str, Loss]]:
    """Yield (path, loss) for every loss in a tree of dataclasses, except for losses inside a loss."""
    if isinstance(owner, Loss):
        yield path, owner
    elif is_dataclass(owner) and not isinstance(owner, type):
        for item in fields(owner):
            yield from losses_of(getattr(owner, item.name), f"{path}.{item.name}")
    elif isinstance(owner, Mapping):
        for key, value in owner.items():
            yield from losses_of(value, f"{path}.{key}")


Accumulate = Callable[..., Accumulated]  # (algorithm, policy, reference, batch, micro_batch=...)


@dataclass
class Laboratory:
    """The task, policy, reference and sampler on which an algorithm is tested; gradients are those of the policy's parameters.

    tolerance: largest difference between gradients that count as equal, relative to the largest entry. state: of the algorithm;
    draw writes it. loss_state: the running means of its losses, see rlx.loss.state; consecutive steps update them. start: the
    training step that corresponds to step 0.
    """

    task: Task
    policy: Any
    reference: Any
    sampler: Sampler
    tolerance: float
    state: dict[str, Tensor] = field(default_factory=dict)
    loss_state: dict[str, float] = field(default_factory=dict)
    start: int = 0

    def lab(self, *, step: int = 0, seed: int = 0) -> Lab:
        """Return the Lab with which `draw` is called."""
        return Lab(self.task, self.policy, self.reference, self.sampler, self.start + step, Stream(seed), self.state)


@dataclass(frozen=True)
class Subject:
    """An algorithm under check. accumulate: how a run accumulates gradients; seed: of all randomness.

    asks_ahead: whether every loss is computed once before its gradients, so that a stand-in policy has all of its leaves by then.
    """

    algorithm: Algorithm[Any]
    task: Task
    policy: Policy
    sampler: Sampler
    accumulate: Accumulate
    make_optimizer: Callable[..., torch.optim.Optimizer]
    seed: int = 0
    asks_ahead: bool = False

    @cached_property
    def reference(self) -> Reference:
        """The reference: the policy before any update."""
        return Reference(self.policy)

    @cached_property
    def small_task(self) -> Task:
        """The task with at most ROWS pairs and prompts, tokenised once."""
        task = shortened(self.task, rows=ROWS, held_out=HELD_OUT)
        if self.makes_scores_up:
            task = with_scores(task)
        if task.has_pairs:
            self.policy.pair_tokenizer(task.pairs())
        return task

    @cached_property
    def makes_scores_up(self) -> bool:
        """Whether a loss reads scores that the task's pairs lack; the laws then use synthetic scores."""
        if not self.task.has_pairs or has_scores(self.task):
            return False
        return any("scores" in loss.requires for _, loss in losses_of(self.algorithm))

    @cached_property
    def needs(self) -> frozenset[Need]:
        """What the algorithm needs with its current settings."""
        return frozenset(getattr(self.algorithm, "active_needs", self.algorithm.needs))

    @cached_property
    def reads_pairs(self) -> bool:
        """Whether the algorithm learns from the task's pairs, or from their chosen sides."""
        return not self.needs.isdisjoint((Need.PAIRS, Need.DEMONSTRATIONS))

    def stand_in(
        self, *, shape: str = "usual", dtype: torch.dtype = torch.float64, rewards: Mapping[str, Any] = NO_CHOICES, **numbers: Any
    ) -> Laboratory:
        """Return a laboratory of stand-ins: `numbers` as in Numbers, `shape` one of SHAPES, `rewards` as in `stand_in_task`.

        A loss that reads more of the policy than token statistics (`goes_past`) gets the real policy instead; then only `rewards`
        has an effect, and whether the spread is 0.
        """
        if self.goes_past:
            return self.real(moved=numbers.get("spread", MOVED) > 0, rewards=rewards)
        return self.warmed(self._stand_in(Numbers(**{"spread": MOVED, **numbers}), shape, dtype, rewards))

    def stand_in_batch(self, *, step: int = 0, **settings: Any) -> tuple[Laboratory, Any]:
        """Return (a laboratory as `stand_in` makes it, the batch of its first update at a step)."""
        laboratory = self.stand_in(**settings)
        return laboratory, self.first_update(laboratory, step=step)

    def _stand_in(
        self, numbers: Numbers, shape: str = "usual", dtype: torch.dtype = torch.float64, rewards: Mapping[str, Any] = NO_CHOICES
    ) -> Laboratory:
        numbers = replace(numbers, by_prefix=self.task.interaction is not None)
        return Laboratory(
            stand_in_task(self.small_task, **rewards) if "rewards" in self.task.offers else self.small_task,
            StandInPolicy.of(self.policy, numbers, shape=shape, dtype=dtype),
            StandInReference.of(self.reference, numbers, dtype=dtype),
            ScriptedSampler.of(self.sampler, numbers, shape=shape),
            TOLERANCE,
        )

    @property
    def warm_up(self) -> int:
        """How many draws an algorithm with a state (a replay buffer) makes before it learns; 0 if it learns at once."""
        return self._begins[0]

    @cached_property
    def _begins(self) -> tuple[int, int]:
        """(draws before the algorithm learns, step from which on all terms learn: a coefficient's warm-up may begin at 0)."""
        laboratory, first = self._stand_in(Numbers(MOVED)), None
        try:
            for number in range(MOST_WARM_UP):
                learns, by_all = self._learns(laboratory, number)
                if learns and number:
                    return number, 0 if self._learns(laboratory, 0)[0] else number
                if by_all:
                    return 0, 0
                first = 0 if learns else None
                if learns or not laboratory.state:
                    break
        except Exception:  # the laws meet and report this error
            return 0, 0
        for step in LATER_STEPS:
            try:
                learns, by_all = self._learns(self._stand_in(Numbers(MOVED)), step)
            except Exception:  # the laws begin at this step, so that they meet and report this error
                return 0, step
            if by_all:
                return 0, step
            first = step if learns and first is None else first
        return 0, first or 0

    def _learns(self, laboratory: Laboratory, step: int) -> tuple[bool, bool]:
        """Return (whether a draw at a step gives a gradient, whether then the policy learns and every term has a weight)."""
        batch = self.first_update(laboratory, step=step)
        gradient = self.gradient(laboratory, batch)[0] if len(batch) else torch.zeros(0)
        if not bool(gradient.any()):
            return False, False
        critic = len(laboratory.policy.leaves.get("values", ()))  # the last leaf; it may learn alone at first
        terms = self.loss(replace(laboratory, loss_state=dict(laboratory.loss_state)), batch).terms
        return True, bool(gradient[: len(gradient) - critic].any()) and all(bool(term.weights.any()) for term in terms.values())

    def warmed(self, laboratory: Laboratory) -> Laboratory:
        """Return the laboratory after the draws that precede learning, and at the step from which on the algorithm learns."""
        warm_up, start = self._begins
        for number in range(warm_up):
            self.draw(laboratory, step=number)
        laboratory.start = start
        return laboratory

    @cached_property
    def goes_past(self) -> bool:
        """Whether the loss or one of its terms reads logits or runs the model itself, beyond the token statistics."""
        try:
            laboratory = self._stand_in(Numbers(MOVED))
            batch = self.first_update(laboratory)
            loss = self.loss(laboratory, batch).loss
            if len(batch) == 0 or not loss.requires_grad:
                return False
            leaves, weights = laboratory.policy.parameters(), self.policy.parameters()

            def reaches(parameters: list[Any]) -> bool:
                found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True) if parameters else ()
                return any(part is not None for part in found)

            return not reaches(leaves) or reaches(weights)
        except Exception:  # the laws meet and report this error
            return self._needs_the_model()

    def _needs_the_model(self) -> bool:
        """Whether an algorithm that fails with a stand-in policy (it reads weights) computes a loss with the real policy."""
        try:
            laboratory = self.real(moved=True)
            return bool(self.loss(laboratory, self.first_update(laboratory)).loss.requires_grad)
        except Exception:  # as above
            return False

    @cached_property
    def _references(self) -> list[Reference]:
        """The first reference in float64; later references reuse its log-probabilities."""
        return []

    @cached_property
    def untried(self) -> list[str]:
        """What the current law could not try, and why; the caller of the law prints and empties the list."""
        return []

    @cached_property
    def journeys(self) -> dict[Any, Any]:
        """The cached results of the law of hyperparameters on synthetic numbers; see rlx.check.law.hyperparameter."""
        return {}

    def real(self, *, moved: bool, rewards: Mapping[str, Any] = NO_CHOICES, runs_reference: bool = False) -> Laboratory:
        """Return a laboratory of the policy itself in float64, moved away from its reference or not, with scripted completions.

        runs_reference: whether the reference computes values that an earlier one has already computed.
        """
        task = stand_in_task(self.small_task, **rewards) if "rewards" in self.task.offers else self.small_task
        policy = trainable_copy(self.policy)
        policy.model.double()
        if policy.value_head is not None:
            policy.value_head.double()
        reference = Reference(policy)
        if not runs_reference:
            if not self._references:
                self._references.append(reference)
            reference.share_values(self._references[0])
        if moved:
            generator = Stream(self.seed, ("check", "moved")).torch()
            least = 0.01 if policy.adapter is None else 0.1  # half of a new adapter's weights are 0
            with torch.no_grad():
                for parameter in policy.parameters():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.add_(0.02 * noise * parameter.abs().mean().clamp(min=least))
        return self.warmed(Laboratory(task, policy, reference, ScriptedSampler.of(self.sampler, None), REAL_TOLERANCE))

    def draw(self, laboratory: Laboratory, *, step: int = 0) -> Any:
        """Return a batch, drawn as in a training run."""
        batch = draw_of(self.algorithm, laboratory.lab(step=step, seed=self.seed))
        require_batch(batch, by=self.algorithm)
        return in_double(batch) if laboratory.policy.dtype == torch.float64 else batch

    def first_update(self, laboratory: Laboratory, *, step: int = 0) -> Any:
        """Return the batch of the first update of a draw; it has no rows if the draw makes no update.

        If the draw is cut into parts, this is the first part with a gradient: one of equal rewards has none.
        """
        batch = self.draw(laboratory, step=step)
        first = None
        for part in islice(self.algorithm.updates(batch, Stream(self.seed, ("updates", step))), MOST_PARTS):
            if len(part) == len(batch) or (len(part) and self._teaches(laboratory, part)):
                return part
            first = part if first is None else first
        return batch[slice(0, 0)] if first is None else first

    def _teaches(self, laboratory: Laboratory, batch: Any) -> bool:
        """Whether the loss on a batch has a gradient; the running means of the losses do not change."""
        loss = self.loss(replace(laboratory, loss_state=dict(laboratory.loss_state)), batch).loss
        leaves = laboratory.policy.parameters() if loss.requires_grad else []
        found = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
        return any(part is not None and bool(part.any()) for part in found)

    def loss(self, laboratory: Laboratory, batch: Any) -> LossOutput:
        """Return the loss on a batch."""
        with self.states(laboratory).bound():
            output = self.algorithm.compute_loss(laboratory.policy, laboratory.reference, batch)
        require_output(output, by=self.algorithm)
        return output

    def states(self, laboratory: Laboratory) -> LossStates:
        """Return the running means of the algorithm's losses in a laboratory."""
        return LossStates(self._stateful, laboratory.loss_state)

    @cached_property
    def _stateful(self) -> dict[str, Loss]:
        return losses_with_state(self.algorithm)

    def gradient(self, laboratory: Laboratory, batch: Any, *, micro_batch: int | None = None) -> tuple[Tensor, dict[str, float]]:
        """Return ([all parameters] the gradient, the metrics) as a training run computes them."""
        source = self.source(laboratory, batch, micro_batch=micro_batch)
        return flat(source, laboratory), source.metrics

    def source(
        self, laboratory: Laboratory, batch: Any, *, micro_batch: int | None = None, comes_again: bool = False
    ) -> Accumulated:
        """Return the source of an update's gradients, which are computed on request as in a training run.

        comes_again: if a stand-in policy already holds all sequences of the batch, the loss is not computed beforehand; the
        source then raises LeavesGrewError if the loss asks the policy for a new statistic.
        """
        policy, known = laboratory.policy, False
        if isinstance(policy, StandInPolicy):
            known = comes_again and not self.asks_ahead and policy.has_met_loss
            known = known and policy.holds([part.sequences for part in parts_of(batch)])
            if not known:
                self.loss(laboratory, batch)  # creates the leaves of every completion
                policy.has_met_loss = True
        rows = len(batch) if micro_batch is None else micro_batch
        settings = {"micro_batch": max(1, rows), "states": self.states(laboratory)}
        source = self.accumulate(self.algorithm, policy, laboratory.reference, batch, **settings)
        return OfKnownLeaves(source, policy) if known else source

    def optimizer(self, laboratory: Laboratory, *, rate: float | None = None) -> Optimizer:
        """Return the run's optimiser for the laboratory's parameters; with `rate`, plain gradient descent."""

        def descent(parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=rate or 0.0)

        make = self.make_optimizer if rate is None else descent
        return Optimizer(make, laboratory.policy.parameters(), schedule=Constant(warmup_steps=0), num_steps=1)

    def with_algorithm(self, algorithm: Algorithm[Any], *, same_rows: bool = True) -> Subject:
        """Return the subject with another algorithm. same_rows: whether draws have as many rows; `_begins` is then shared."""
        twin = replace(self, algorithm=algorithm)
        names = ("reference", "small_task", "goes_past", "_references", "journeys", "untried")
        shared = {name: getattr(self, name) for name in (*names, *(("_begins",) if same_rows else ()))}
        twin.__dict__.update(shared)  # where cached_property stores values
        return twin


def flat(source: Accumulated, laboratory: Laboratory) -> Tensor:
    """Return the gradient of the whole loss, [all parameters]."""
    parts = zip(source()["loss"], laboratory.policy.parameters(), strict=True)
    vectors = [(torch.zeros_like(leaf) if part is None else part).reshape(-1) for part, leaf in parts]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *vectors]).detach()


def trainable_copy(policy: Policy) -> Policy:
    """Return a copy of a policy that shares no tensor with it and trains the same parameters."""
    twin = policy.frozen_copy()
    for name, parameter in twin.model.named_parameters():
        parameter.requires_grad_(policy.adapter is None or name in policy.adapter.trained)
    twin.value_head = copy.deepcopy(policy.value_head)
    return twin


def reads_logprobs(laboratory: Laboratory) -> bool:
    """Whether token log-probabilities were read from a stand-in policy."""
    return isinstance(laboratory.policy, StandInPolicy) and "token_logprobs" in laboratory.policy.places


def learns_elsewhere(laboratory: Laboratory, gradient: Tensor) -> bool:
    """Whether a stand-in policy has a gradient, but none at its token log-probabilities (at a KL over the vocabulary, say)."""
    leaf = laboratory.policy.leaves["token_logprobs"]
    return bool(gradient[len(leaf) :].any()) and not bool(gradient[: len(leaf)].any())


def row_shown(subject: Subject, batch: Any, row: int) -> str:
    """Return a row of a batch as readable text."""
    for part in parts_of(batch):
        if row < len(part.sequences):
            prompt, group = part.sequences.prompts[row], part.sequences.completions[row]
            shown = [repr(subject.policy.decode(tokens)) for tokens in group[:3]] + ["..."] * (len(group) > 3)
            return f"row {row}: {subject.policy.decode(prompt)!r} -> {', '.join(shown)}"
    return f"row {row}"


def completion_gradients(laboratory: Laboratory, part: Any, gradient: Tensor) -> list[list[Tensor]]:
    """Return for every row and completion the gradient [T] at its token log-probabilities, with a stand-in policy."""
    places = laboratory.policy.places.get("token_logprobs", {})
    found = []
    for prompt, group in zip(part.sequences.prompts, part.sequences.completions, strict=True):
        keys = [key_of(prompt, tokens) for tokens in group]
        found.append([gradient[places[key]] if key in places else gradient[:0] for key in keys])
    return found
