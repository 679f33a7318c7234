"""State of a loss: running means over updates, which its formula reads by name.

A loss stays a frozen dataclass; the values belong to the run. The training loop binds them during an update, the loss reads
them and records the statistics to average, and after the update each value is updated once with the mean over all rows of the
update. So the micro-batch size and the number of ranks do not matter, and a checkpoint stores only a few numbers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.errors import ConfigError, DataError, NonFiniteError, ShapeError
from rlx.loss.base import Loss, RunningMean

Record = dict[str, tuple[float, float]]  # where/name -> (sum, count) of a statistic: they add over micro-batches and ranks


def running_mean(of: str | Callable[..., Tensor], *, decay: float | str = 0.9, start: float = 0.0) -> RunningMean:
    """A state: value <- decay * value + (1 - decay) * (mean of `of` over all rows of the update), once per update.

    of: the name of an input of the loss, or a function whose parameters are named after inputs, states and hyperparameters of
    the loss. It returns [B], a value per row, or in a policy-gradient loss [B, T], a value per token, averaged over tokens.
    decay: at least 0 and below 1, or the name of a hyperparameter of the loss. start: the value before the first update.
    Raises ConfigError for an invalid decay or start.
    """
    if not isinstance(decay, str) and not _is_decay(decay):
        raise ConfigError(f"running_mean has decay={decay!r}; it must be at least 0 and below 1, or the name of a hyperparameter")
    if isinstance(start, bool) or not isinstance(start, int | float) or not math.isfinite(start):
        raise ConfigError(f"running_mean has start={start!r}; it is a finite number")
    if not isinstance(of, str) and not callable(of):
        raise ConfigError(f"running_mean is of {of!r}; it is of an input by its name, or of a function of inputs")
    return RunningMean(of, (of,) if isinstance(of, str) else tuple(inspect.signature(of).parameters), decay, float(start))


def _is_decay(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def check_state(function: Callable[..., Any], state: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    """The inputs from which the states of a formula are computed. names: all existing inputs.

    Raises ConfigError if a state is not a running mean, hides another name, is never read, or reads something other than inputs.
    """
    own, inputs, used = function.__name__, set(names), set[str]()
    parameters = inspect.signature(function).parameters
    takes = {name for name, item in parameters.items() if item.default is not item.empty and name not in inputs}
    for name, mean in state.items():
        if not isinstance(mean, RunningMean):
            raise ConfigError(
                f"state {name} of {own} is {mean!r}; write running_mean(...), one number that is averaged over updates"
            )
        if name in inputs or name in takes:
            what = "an input" if name in inputs else "a hyperparameter"
            raise ConfigError(f"state {name} of {own} has the name of {what}; give it another name")
        if isinstance(mean.decay, str) and mean.decay not in takes:
            there = ", ".join(sorted(takes)) or "none"
            raise ConfigError(
                f"state {name} of {own} decays by {mean.decay}, which is not one of its hyperparameters; there are {there}"
            )
        unknown = [read for read in mean.reads if read not in inputs | takes | set(state) or read == "rng"]
        if unknown:
            raise ConfigError(
                f"state {name} of {own} is made of {unknown[0]}, which is not an input it can read; see rlx guide loss"
            )
        used |= set(mean.reads)
    unread = [name for name in state if name not in parameters and name not in used]
    if unread:
        raise ConfigError(
            f"{own} never reads its state {unread[0]}; give it a parameter of that name: def {own}(..., {unread[0]}, *, ...)"
        )
    return frozenset(used & inputs)


class LossStates:
    """The states of all losses of an algorithm. values: `where/name` -> current value; where: the path of the loss's field."""

    def __init__(self, losses: Mapping[str, Loss], values: dict[str, float]) -> None:
        self._losses = losses
        self._places = {id(loss): where for where, loss in losses.items()}
        self.values = values
        for where, loss in losses.items():
            for name, mean in loss.state.items():
                values.setdefault(f"{where}/{name}", mean.start)

    @staticmethod
    def of(algorithm: Any, values: dict[str, float] | None = None) -> LossStates:
        """The states of the losses in an algorithm's fields; those missing from `values` get their initial value."""
        return LossStates(losses_with_state(algorithm), {} if values is None else values)

    def restore(self, values: Mapping[str, Any]) -> None:
        """Load the values of a checkpoint. Raises DataError if they do not belong to these losses."""
        if set(values) != set(self.values):
            missing, other = sorted(set(self.values) - set(values)), sorted(set(values) - set(self.values))
            said = f"has no value of {missing[0]}" if missing else f"has a value of {other[0]}, which no loss of this run keeps"
            raise DataError(f"the checkpoint {said}: the state of its losses does not fit this run; start the run again")
        wrong = [key for key, value in values.items() if not isinstance(value, float) or not math.isfinite(value)]
        if wrong:
            raise DataError(
                f"the checkpoint was damaged: the state {wrong[0]} of a loss is not a finite number; start the run again"
            )
        self.values.update(values)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Within this context, losses read these values."""
        with _bound(_Binding(self, None)):
            yield

    @contextmanager
    def recording(self) -> Iterator[Record]:
        """Within this context, losses read these values and add the statistics to average to the record that is yielded."""
        record: Record = {}
        with _bound(_Binding(self, record)):
            yield record

    def learn(self, record: Mapping[str, tuple[float, float]]) -> None:
        """Update every value with the means of one update. record: over all its rows; without rows a value stays unchanged.

        Raises NonFiniteError if a mean is NaN or infinite.
        """
        for key, (total, count) in record.items():
            where, _, name = key.rpartition("/")
            loss = self._losses[where]
            decay = loss.state[name].decay_of(loss)
            if count:
                self.values[key] = decay * self.values[key] + (1 - decay) * (total / count)
            if not math.isfinite(self.values[key]):
                raise NonFiniteError(
                    f"the state {name} of {where} ({type(loss).__name__}) is not finite after this update, since what it is the "
                    "mean of is not finite on some row; clamp that"
                )

    def figures(self) -> dict[str, float]:
        """Name -> value for metrics: state/NAME, prefixed by the term and part that the loss belongs to."""
        found = {}
        for key, value in self.values.items():
            where, _, name = key.rpartition("/")
            parts = [part for part in where.split(".") if part not in ("algorithm", "loss", "terms", "parts")]
            label = "/".join([*parts, "state", name])
            found[label if label not in found else f"{where.replace('.', '/')}/state/{name}"] = value
        return found

    def place_of(self, loss: Loss) -> str:
        """The field path of a loss. Raises ConfigError for a loss in no field, as its state would be lost."""
        if id(loss) not in self._places:
            raise ConfigError(
                f"loss {type(loss).__name__} keeps {', '.join(loss.state)} over updates, but no field of the algorithm holds it, "
                "so a run could not keep it; make the loss a field: loss: PreferenceLoss, and call self.loss(...)"
            )
        return self._places[id(loss)]


def losses_with_state(owner: Any) -> dict[str, Loss]:
    """Dotted path of fields -> loss, for every loss with state; a loss found at two paths counts once."""
    found: dict[str, Loss] = {}
    seen: set[int] = set()

    def walk(item: Any, path: tuple[str, ...]) -> None:
        if id(item) in seen:
            return
        if isinstance(item, Loss) and item.state:
            found[".".join(path)] = item
        children: Iterable[tuple[str, Any]] = ()
        if is_dataclass(item) and not isinstance(item, type):
            children = [(part.name, getattr(item, part.name, None)) for part in fields(item)]
        elif isinstance(item, Mapping):
            children = [(str(key), value) for key, value in item.items()]
        elif isinstance(item, Sequence) and not isinstance(item, str | bytes):
            children = [(str(place), value) for place, value in enumerate(item)]
        else:
            return
        seen.add(id(item))
        for name, child in children:
            walk(child, (*path, name))

    walk(owner, ())
    return found


@dataclass(frozen=True)
class _Binding:
    """The values that losses currently read, and where they record. refusal: why state cannot be read here, or ""."""

    states: LossStates | None
    record: Record | None
    refusal: str = ""


_binding: ContextVar[_Binding | None] = ContextVar("state_of_losses", default=None)


@contextmanager
def _bound(binding: _Binding) -> Iterator[None]:
    token = _binding.set(binding)
    try:
        yield
    finally:
        _binding.reset(token)


@contextmanager
def without_state(why: str) -> Iterator[None]:
    """Within this context, a call of a loss with state raises ConfigError. why: its message."""
    with _bound(_Binding(None, None, why)):
        yield


def with_state(loss: Loss, given: Callable[[str], Any], *, like: Tensor, masks: Sequence[Tensor]) -> Callable[[str], Any]:
    """`given(name)` extended by the states of the loss, each a scalar [] in the dtype of `like`.

    Outside of a run every state has its start value. masks: bool, in the shapes that a statistic may have; it is averaged
    over the matching one.
    """
    if not loss.state:
        return given
    binding = _binding.get()
    if binding is not None and binding.refusal:
        raise ConfigError(f"loss {type(loss).__name__} keeps {', '.join(loss.state)} over updates: {binding.refusal}")
    values = {name: mean.start for name, mean in loss.state.items()}
    where = ""
    if binding is not None and binding.states is not None:
        where = binding.states.place_of(loss)
        values = {name: binding.states.values[f"{where}/{name}"] for name in loss.state}
    tensors = {name: torch.tensor(value, dtype=like.dtype, device=like.device) for name, value in values.items()}

    def read(name: str) -> Any:
        return tensors[name] if name in tensors else given(name)

    if binding is not None and binding.record is not None:
        for name, mean in loss.state.items():
            total, count = _added_up(loss, name, mean, read, masks)
            before = binding.record.get(f"{where}/{name}", (0.0, 0.0))
            binding.record[f"{where}/{name}"] = (before[0] + total, before[1] + count)
    return read


def _added_up(
    loss: Loss, name: str, mean: RunningMean, read: Callable[[str], Any], masks: Sequence[Tensor]
) -> tuple[float, float]:
    """(sum, count) over these rows, in float64, of the statistic that a state averages."""
    found = mean.statistic(loss, read)  # keeps the graph: inputs are computed once, and the formula needs their gradient
    mask = next((mask for mask in masks if isinstance(found, Tensor) and found.shape == mask.shape), None)
    if mask is None:
        given = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        shapes = " or ".join(str(tuple(mask.shape)) for mask in masks)
        raise ShapeError(
            f"state {name} of {type(loss).__name__} is the mean of a tensor of shape {given}; it must be {shapes}: one value a "
            "row, not reduced, so that it adds over micro-batches"
        )
    mask = mask.cpu()
    values = torch.where(mask, found.detach().cpu().double(), 0.0)
    return float(values.sum()), float(mask.sum())
