"""The ranks of a run: processes that train one policy together, each on its own rows.

A loss is a sum over rows with weights computed for the whole update, so gradients are added over ranks, never averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


class KeepsStep(Protocol):
    """The interface that Ranks uses for sharded models; see rlx.parallel.sharded.Lockstep."""

    is_inside: bool

    def finish(self) -> None: ...
    def backward(self, heads: Sequence[Tensor], seeds: Sequence[Tensor | None]) -> None: ...
    def gradients(self, parameters: Sequence[torch.nn.Parameter]) -> list[Tensor | None]: ...


class Ranks:
    """This process among those of the run. In this class it is the only one; see rlx.parallel.distributed for several.

    All ranks must call every method except `rows`, in the same order.
    rank: 0 to world - 1; rank 0 writes the record. seconds: spent in communication, including waiting for the others.
    group: torch's process group; None with one process. lockstep: makes all ranks run the passes of sharded models together;
    None if each rank has the whole model.
    """

    rank = 0
    world = 1
    seconds = 0.0
    group: Any = None
    lockstep: KeepsStep | None = None

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the record and shows the run."""
        return self.rank == 0

    def end(self, error: BaseException | None) -> None:
        """Wait until all ranks have reached the end of the run, and leave the group. error: why the run ends, if it failed."""

    def rows(self, row_tokens: Sequence[int], rank: int | None = None) -> slice:
        """The consecutive rows of this rank (or of `rank`), with about equally many tokens per rank; may be empty."""
        return slice(0, len(row_tokens))

    def exchange(self, what: str, function: Callable[[], T]) -> list[T]:
        """The results of function() on each rank, in order. If it raises on one rank, every rank raises that error.

        what: named in errors, and compared between ranks. The results are pickled if there are several ranks.
        """
        return [function()]

    def together(self, what: str, function: Callable[[], T]) -> T:
        """The result of function() on this rank, once it succeeded on every rank. If it raises on one rank, every rank raises."""
        return function()

    def from_first(self, what: str, function: Callable[[], T]) -> T:
        """The result of function(), which is called on rank 0 only; every rank raises what it raises."""
        return function()

    def agree(self, *flags: int) -> tuple[int, ...]:
        """The largest value of each flag over all ranks."""
        return flags

    def largest(self, wish: int) -> int:
        """The largest value over all ranks, before passes of sharded models."""
        return wish

    def sum(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor], present: Sequence[bool]) -> list[Tensor | None]:
        """The sum over ranks of each tensor; None if no rank has it. like: tensors with the same shapes.

        present: whether any rank has the tensor. Half-precision tensors are summed in float32.
        """
        return list(tensors)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite these tensors with those of rank 0."""

    def watched(self, what: str) -> AbstractContextManager[None]:
        """A context in which torch's communication errors name the missing rank."""
        return nullcontext()


ALONE = Ranks()  # the only process of a run
