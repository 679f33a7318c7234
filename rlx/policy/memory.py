"""The memory of a policy's forward and backward passes, measured on a few rows and scaled to more rows."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlx.data.layout import Layout
from rlx.data.sequences import Sequences
from rlx.policy.base import Policy
from rlx.policy.pieces import elements_at_once
from rlx.policy.statistics import DISTRIBUTION_STATISTICS

_BYTES = 4  # per float32
_WITHOUT_REFERENCE = frozenset({"entropy", "sum_p_squared", "values"})


class TensorMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors created within this context: those alive now, and the peak.

    Memory that a kernel allocates internally is not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._see(tensor, is_new=False)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._see(tensor, is_new=True)
        return out

    def _see(self, tensor: Tensor, *, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        place = id(storage)
        if place in self._known:
            return
        size = storage.nbytes() if is_new else 0
        self._known[place] = (weakref.ref(storage, lambda _: self._forget(place)), size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, place: int) -> None:
        self.live -= self._known.pop(place)[1]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class PassMemory:
    """Bytes of forward and backward passes over some rows, without weights and their gradients.

    activations: kept by the layers for the backward pass. logits: the additional bytes at the peak of the pass.
    forward: the peak of a pass without gradients, per token of the rows.
    """

    activations: int
    logits: int
    forward: float

    @property
    def total(self) -> int:
        """The bytes of activations and logits together."""
        return self.activations + self.logits


def pass_memory(policy: Policy, requires: frozenset[str]) -> Callable[[Sequences, Sequences], PassMemory]:
    """A function that estimates the memory of passes over rows from measured passes over a few similar rows, once and twice.

    requires: the token statistics that the loss reads. The function takes the few rows and the rows to estimate. Measuring two
    sizes separates memory that does not grow with the rows, such as the 16-bit weights that autocast keeps.
    """
    measured: dict[int, tuple[_Pass, _Pass]] = {}

    def of(few: Sequences, rows: Sequences) -> PassMemory:
        if id(few) not in measured:
            twice = Sequences(few.prompts * 2, few.completions * 2)
            measured[id(few)] = (_measured_once(policy, few, requires), _measured_once(policy, twice, requires))
        one, two = measured[id(few)]
        wanted = policy.layout(rows)
        tokens, targets = wanted.tokens.numel(), len(wanted.targets)
        activations = _line((one.tokens, one.activations), (two.tokens, two.activations), tokens) + _mask_bytes(wanted)
        forward = max(0.0, (two.forward - one.forward) / (two.tokens - one.tokens))
        if policy.computes_in_pieces(wanted):
            elements = elements_at_once(requires & DISTRIBUTION_STATISTICS, policy.device)
            return PassMemory(activations, elements * _BYTES, forward)
        logits = _line((one.targets, one.logits), (two.targets, two.logits), targets)
        return PassMemory(activations, logits, forward)

    return of


@dataclass(frozen=True)
class _Pass:
    """A measurement: row tokens, completion tokens, and bytes; activations without masks, forward without gradients."""

    tokens: int
    targets: int
    activations: int
    logits: int
    forward: int


def _line(first: tuple[int, int], second: tuple[int, int], place: int) -> int:
    """The value at `place` of the line through two points, with slope and intercept not below 0."""
    slope = max(0.0, (second[1] - first[1]) / (second[0] - first[0]))
    return round(max(0.0, first[1] - slope * first[0]) + slope * place)


_known: dict[tuple[object, ...], _Pass] = {}


def _measured_once(policy: Policy, few: Sequences, requires: frozenset[str]) -> _Pass:
    """The result of `_measured`, cached for all jobs of this process with the same model and rows of the same lengths."""
    shapes = tuple((name, value.shape, value.dtype, value.requires_grad) for name, value in policy.model.named_parameters())
    rows = tuple((len(prompt), *map(len, group)) for prompt, group in zip(few.prompts, few.completions, strict=True))
    settings = (policy.forward_settings, policy.forward_choice, policy.device, policy.value_head is None)
    key = (type(policy.model), str(policy.model.config), shapes, *map(repr, settings), rows, requires)
    if key not in _known:
        _known[key] = _measured(policy, few, requires)
    return _known[key]


def _measured(policy: Policy, few: Sequences, requires: frozenset[str]) -> _Pass:
    def hidden() -> Any:
        return policy.head_input(few) if policy.forward_choice.gathers_before_head else policy.logits(few)

    with torch.no_grad(), TensorMemory() as memory:
        hidden()
        forward = memory.peak
    with torch.enable_grad():
        with TensorMemory() as memory:
            kept = hidden()
            activations = memory.live
        del kept
        with TensorMemory() as memory:
            found = policy.token_statistics(few, requires=requires & _WITHOUT_REFERENCE)
            loss = torch.stack([value.sum() for value in vars(found).values() if value is not None]).sum()
            first = policy.parameters()[:1]
            if loss.requires_grad:
                torch.autograd.grad(loss, first, allow_unused=True)
            peak = memory.peak
    layout = policy.layout(few)
    kept_by_layers = max(0, activations - _mask_bytes(layout))
    return _Pass(layout.tokens.numel(), len(layout.targets), kept_by_layers, max(0, peak - activations), forward)


def _mask_bytes(layout: Layout) -> int:
    """The bytes of the attention masks, as booleans and as scores; they grow with the square of the row length."""
    return 0 if layout.attention_mask is None else layout.attention_mask.numel() * (1 + _BYTES)


def cache_bytes_per_token(policy: Policy) -> int:
    """The bytes of one token's keys and values in all layers during sampling."""
    config = policy.model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 1))
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or getattr(config, "hidden_size", 1024) // heads)
    return 2 * int(getattr(config, "num_hidden_layers", 1)) * key_heads * width * policy.dtype.itemsize


def tensor_bytes(tensors: Sequence[Tensor]) -> int:
    """The bytes of tensors; shared storage counts once."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
