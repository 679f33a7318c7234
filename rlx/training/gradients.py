"""Gradients of one optimiser update, accumulated over micro-batches, and errors that name the rows of non-finite gradients.

The size of the micro-batches affects memory, not the gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm, LossOutput, require_output
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError, NonFiniteError
from rlx.loss.state import LossStates, Record
from rlx.optimizer.step import Gradients, NonFiniteGradientError
from rlx.parallel.ranks import ALONE, Ranks
from rlx.policy.base import Policy
from rlx.policy.statistics import TokenStatistics

TOKENS_AT_ONCE = 2048  # tokens per forward pass if micro_batch is null; affects memory only


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that device memory or main memory is exhausted."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class NonFiniteLossError(NonFiniteError):
    """A loss or its gradient is NaN or infinite; `examples` are the texts of the rows that cause it."""

    def __init__(self, message: str, examples: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.examples = examples

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.examples)


def require_finite(output: LossOutput, part: Any, policy: Policy) -> None:
    """Raise NonFiniteLossError if the loss of these rows is NaN or infinite."""
    if bool(torch.isfinite(output.loss.detach())):
        return
    for name, term in output.terms.items():
        bad = ~torch.isfinite((term.values * term.weights.to(term.values)).detach())
        if bad.any():
            rows = sorted(set(bad.nonzero()[:, 0].tolist())) if bad.ndim else [0]
            source = _of_term(part, name)
            message = f"term {name!r} of the loss is not finite on {len(rows)} of {len(source)} rows"
            raise NonFiniteLossError(message, [example(source, row, policy) for row in rows])
    raise NonFiniteLossError("the loss is not finite although each of its terms is; the terms overflow when added", [])


def non_finite_rows(
    error: NonFiniteGradientError, algorithm: Algorithm[Any], policy: Policy, reference: Any, batch: Any
) -> NonFiniteLossError:
    """The error that names the terms and rows of a non-finite gradient, found by computing each row alone."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in range(len(batch)):
        part = batch[row : row + 1]
        try:
            terms = algorithm.compute_loss(policy, reference, part).terms
        except Exception as failure:  # a loss that cannot be computed on single rows does not show which row it is
            reason = f"for one row alone the loss raises {type(failure).__name__}: {failure}"
            return NonFiniteLossError(f"{error}; {reason}", [])
        for name, term in terms.items():
            if term.total.requires_grad and not _finite_gradient(term.total, policy):
                rows.setdefault(name, []).append(example(_of_term(part, name), 0, policy))
    if not rows:
        return NonFiniteLossError(f"{error}; the gradient of each row alone is finite", [])
    name, examples = max(rows.items(), key=lambda item: len(item[1]))
    return NonFiniteLossError(
        f"the loss is finite, its gradient is not: {error}; "
        f"term {name!r} has such a gradient on {len(examples)} of {len(batch)} rows",
        examples,
    )


def example(part: Any, row: int, policy: Policy) -> dict[str, Any]:
    """A row of a batch as text."""
    sequences = part.sequences[row : row + 1]
    return {
        "prompt": policy.decode(sequences.prompts[0]),
        "completions": [policy.decode(completion) for completion in sequences.completions[0]],
    }


def _of_term(part: Any, name: str) -> Any:
    """The batch that a term was computed on."""
    return part.part_of(name) if hasattr(part, "part_of") else part


def _finite_gradient(total: torch.Tensor, policy: Policy) -> bool:
    found = torch.autograd.grad(total, policy.parameters(), retain_graph=True, allow_unused=True)
    return all(bool(torch.isfinite(gradient).all()) for gradient in found if gradient is not None)


class AccumulatedGradients:
    """A `GradientSource`: each call computes the gradients of an update's rows, micro-batch by micro-batch.

    After a call `metrics` holds the loss, each term's total (`<term>_loss`) and the algorithm's metrics, over all rows.
    After the first call `record` holds the statistics for the losses' states, over all rows, with the policy from before the
    update. states: the states that the losses read; None: every state has its start value.
    ranks: each computes its own rows, and a call returns the sum over all ranks.
    halves: if memory runs out, halve the micro-batch and start the call again; `micro_batch` holds the current size.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any],
        policy: Policy,
        reference: Any,
        batch: Any,
        *,
        micro_batch: int | None,
        ranks: Ranks = ALONE,
        halves: bool = False,
        states: LossStates | None = None,
    ) -> None:
        self._algorithm = algorithm
        self._policy = policy
        self._reference = reference
        self.batch = batch
        self.micro_batch = micro_batch
        self._halves = halves
        self._ranks = ranks
        self._slices = _slices(batch.row_tokens, micro_batch, ranks)
        self._parameters = policy.parameters()
        self.metrics: dict[str, float] = {}
        self.record: Record | None = None
        self._states = LossStates.of(algorithm) if states is None else states

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        """{"loss": gradients}, or {group: gradients} if `by` maps each term to its group (str: the term itself).

        Gradients are in the order of the policy's parameters; None for a parameter that the loss does not depend on.
        """
        totals, tally = self._of_all_ranks(by)
        self.metrics = tally.metrics()
        if self.record is None:
            self.record = tally.record
        return totals

    def _that_fit(self, by: Callable[[str], str] | None) -> tuple[dict[str, Gradients], _Tally]:
        """Like `_own`, but halves the micro-batches when memory runs out, down to single rows."""
        while True:
            try:
                return self._own(by)
            except (RuntimeError, MemoryError) as error:
                rows = max(part.stop - part.start for part in self._slices)
                if not (self._halves and rows > 1 and is_out_of_memory(error)):
                    raise
            self.micro_batch = rows // 2
            self._slices = _slices(self.batch.row_tokens, self.micro_batch, self._ranks)
            if self._policy.device.type == "cuda":
                torch.cuda.empty_cache()

    def _own(self, by: Callable[[str], str] | None) -> tuple[dict[str, Gradients], _Tally]:
        """The gradients and metrics of this process's rows."""
        totals: dict[str, Gradients] = {} if by else {"loss": [None] * len(self._parameters)}
        tally = _Tally()
        for output, record in self._coupled(by, totals) if self._is_coupled else self._separate(by, totals):
            tally.add(output)
            tally.add_record(record)
        return totals, tally

    def _of_all_ranks(self, by: Callable[[str], str] | None) -> tuple[dict[str, Gradients], _Tally]:
        """Like `_own`, summed over the ranks; a coupled loss is computed for all rows on every rank, and counts once."""
        ranks = self._ranks
        totals: dict[str, Gradients] = {}

        def own() -> tuple[dict[str, list[bool]], _Tally]:
            if ranks.lockstep is not None and by is not None:
                raise ConfigError(
                    f"{type(self._algorithm).__name__} asks for the gradient of each term, and the backward pass of a policy "
                    "that is split over ranks adds up all terms; use parallel=replicated, or algorithm/combine=sum"
                )
            exchanges = self._is_coupled and ranks.world > 1  # all ranks must do so equally often
            found, tally = self._own(by) if exchanges else self._that_fit(by)
            totals.update(found)
            return {name: [part is not None for part in gradients] for name, gradients in found.items()}, tally.detached()

        given = ranks.exchange("the gradients of an update", own)
        if ranks.lockstep is not None:
            return {"loss": ranks.lockstep.gradients(self._parameters)}, self._joined([tally for _, tally in given])
        empty: Gradients = [None] * len(self._parameters)
        summed = {}
        for name in dict.fromkeys(name for present, _ in given for name in present):
            present = [any(found) for found in zip(*(present[name] for present, _ in given if name in present), strict=True)]
            summed[name] = ranks.sum(totals.get(name, empty), self._parameters, present)
        return summed, self._joined([tally for _, tally in given])

    def _joined(self, tallies: Sequence[_Tally]) -> _Tally:
        return tallies[0] if self._is_coupled else _Tally.joined(tallies)

    @property
    def _is_coupled(self) -> bool:
        return self._algorithm.couples_rows and (len(self._slices) > 1 or self._ranks.world > 1)

    def non_finite_rows(self, error: NonFiniteGradientError) -> NonFiniteLossError:
        """The error that names the terms and rows of a refused non-finite gradient; with sharded weights, the gradient only."""
        if self._ranks.lockstep is not None:
            return NonFiniteLossError(f"the loss is finite, its gradient is not: {error}", [])
        return non_finite_rows(error, self._algorithm, self._policy, self._reference, self.batch)

    def _separate(self, by: Callable[[str], str] | None, totals: dict[str, Gradients]) -> Iterator[tuple[LossOutput, Record]]:
        for rows in self._slices:
            part = self.batch[rows]
            with self._states.recording() as record:
                output = self._algorithm.compute_loss(self._policy, self._reference, part)
            require_output(output, by=self._algorithm)
            require_finite(output, part, self._policy)
            heads = _heads(output, by)
            for index, (name, head) in enumerate(heads.items()):
                self._accumulate(totals, name, [head], [None], keep=index + 1 < len(heads))
            yield output, record

    def _coupled(self, by: Callable[[str], str] | None, totals: dict[str, Gradients]) -> Iterator[tuple[LossOutput, Record]]:
        """A loss that couples rows: statistics of all rows are computed first, then backpropagated micro-batch by micro-batch."""
        recorder = _Leaves(self._policy, self.micro_batch, self._ranks)
        with self._states.recording() as record:
            output = self._algorithm.compute_loss(recorder.policy, self._reference, self.batch)
        require_output(output, by=self._algorithm)
        require_finite(output, self.batch, self._policy)
        heads = _heads(output, by)
        for index, (name, head) in enumerate(heads.items()):
            gradients = torch.autograd.grad(head, recorder.leaves, retain_graph=index + 1 < len(heads), allow_unused=True)
            for outputs, parts in recorder.replay(gradients):
                self._accumulate(totals, name, outputs, parts)
        yield output, record

    def _accumulate(
        self, totals: dict[str, Gradients], name: str, heads: list[Tensor], seeds: list[Tensor | None], *, keep: bool = False
    ) -> None:
        wanted = [(head, seed) for head, seed in zip(heads, seeds, strict=True) if head.requires_grad]
        if not wanted:  # nothing depends on the policy, as in a batch of empty completions
            totals.setdefault(name, [None] * len(self._parameters))
            return
        if self._ranks.lockstep is not None:
            self._ranks.lockstep.backward([head for head, _ in wanted], [seed for _, seed in wanted])
            return
        grads = torch.autograd.grad(
            [head for head, _ in wanted], self._parameters, [seed for _, seed in wanted], retain_graph=keep, allow_unused=True
        )
        before = totals.get(name, [None] * len(self._parameters))
        totals[name] = [
            old if new is None else new if old is None else old.add_(new) for old, new in zip(before, grads, strict=True)
        ]


class _Tally:
    """Sums over micro-batches of a loss's terms, its metrics and the statistics of its states."""

    def __init__(self) -> None:
        self._terms: dict[str, Tensor] = {}
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.record: Record = {}

    def add(self, output: LossOutput) -> None:
        self._add({name: term.total.detach() for name, term in output.terms.items()}, output.metrics)

    def _add(self, terms: Mapping[str, Tensor], sums: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for name, total in terms.items():
            self._terms[name] = self._terms.get(name, 0) + total
        for name, (total, count) in sums.items():
            old = self._sums.get(name)
            self._sums[name] = (total, count) if old is None else (old[0] + total, old[1] + count)

    def add_record(self, record: Record) -> None:
        for name, (total, count) in record.items():
            old = self.record.get(name, (0.0, 0.0))
            self.record[name] = (old[0] + total, old[1] + count)

    def detached(self) -> _Tally:
        """The same sums, detached and on the CPU, for sending to other ranks."""
        tally = _Tally()
        tally._terms = {name: total.cpu() for name, total in self._terms.items()}
        tally._sums = {name: (total.cpu(), count.cpu()) for name, (total, count) in self._sums.items()}
        tally.record = self.record
        return tally

    @staticmethod
    def joined(tallies: Sequence[_Tally]) -> _Tally:
        """The sums over several parts of an update."""
        whole = _Tally()
        for tally in tallies:
            whole._add(tally._terms, tally._sums)
            whole.add_record(tally.record)
        return whole

    def metrics(self) -> dict[str, float]:
        figures = {"loss": float(sum(self._terms.values()))}
        if len(self._terms) > 1:
            figures |= {f"{name}_loss": total.item() for name, total in self._terms.items()}
        return figures | {name: (total / count).item() if count else 0.0 for name, (total, count) in self._sums.items()}


class _Leaves:
    """A copy of the policy whose statistics are leaf tensors, computed without a graph; `replay` recomputes them with a graph.

    Each rank computes the statistics of its own rows, and has the leaves of all rows.
    """

    def __init__(self, policy: Policy, micro_batch: int | None, ranks: Ranks) -> None:
        self._real = policy
        self._micro_batch = micro_batch
        self._ranks = ranks
        self._calls: list[tuple[Any, dict[str, Any], list[str]]] = []
        self.leaves: list[Tensor] = []
        self.policy = copy.copy(policy)
        self.policy.token_statistics = self._collect  # type: ignore[method-assign]

    def _collect(self, sequences: Any, **settings: Any) -> TokenStatistics:
        def own() -> list[TokenStatistics]:
            with torch.no_grad():
                return [self._real.token_statistics(sequences[rows], **settings) for rows in self._cut(sequences)]

        parts = [part for given in self._ranks.exchange("token statistics", own) for part in given]
        width = sequences.completion_mask.shape[-1]
        present = [name for name, value in vars(parts[0]).items() if value is not None]
        joined = {
            name: torch.cat([_widened(getattr(part, name), width) for part in parts]).requires_grad_(torch.is_grad_enabled())
            for name in present
        }
        self._calls.append((sequences, settings, present))
        self.leaves += joined.values()
        return TokenStatistics(**joined)

    def replay(self, gradients: tuple[Tensor | None, ...]) -> Iterator[tuple[list[Tensor], list[Tensor | None]]]:
        """(statistics of a slice with their graph, the gradients with respect to them), slice by slice."""
        remaining = list(gradients)
        for sequences, settings, present in self._calls:
            mine, remaining = remaining[: len(present)], remaining[len(present) :]
            used = [(name, gradient) for name, gradient in zip(present, mine, strict=True) if gradient is not None]
            for rows in self._cut(sequences) if used else ():
                again = self._real.token_statistics(sequences[rows], **settings)
                heads = [getattr(again, name) for name, _ in used]
                yield heads, [gradient[rows, :, : head.shape[-1]] for (_, gradient), head in zip(used, heads, strict=True)]

    def _cut(self, sequences: Sequences) -> Iterator[slice]:
        return iter(_slices(sequences.row_tokens, self._micro_batch, self._ranks))


def _heads(output: LossOutput, by: Callable[[str], str] | None) -> dict[str, Tensor]:
    """The scalars to differentiate: the loss, or the sum of the terms of each group."""
    if by is None:
        return {"loss": output.loss}
    heads: dict[str, Tensor] = {}
    for name, term in output.terms.items():
        group = by(name)
        heads[group] = heads[group] + term.total if group in heads else term.total
    return heads


def _widened(values: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))


def _slices(row_tokens: Sequence[int], micro_batch: int | None, ranks: Ranks) -> list[slice]:
    """The micro-batches of this process's rows."""
    own = ranks.rows(row_tokens)
    cut = micro_batches(row_tokens[own], micro_batch)
    return [slice(own.start + rows.start, min(own.start + rows.stop, own.stop)) for rows in cut]


def micro_batches(row_tokens: Sequence[int], micro_batch: int | None) -> Iterator[slice]:
    """Slices of consecutive rows: `micro_batch` rows each, or about TOKENS_AT_ONCE tokens after padding to the longest row."""
    if micro_batch is not None:
        yield from (slice(start, start + micro_batch) for start in range(0, len(row_tokens), micro_batch))
        return
    start = 0
    for end in range(1, len(row_tokens) + 1):
        if end == len(row_tokens) or (end - start + 1) * max(row_tokens[start : end + 1]) > TOKENS_AT_ONCE:
            yield slice(start, end)
            start = end
