"""One forward pass of a transformers model over the rows of a layout.

Dimensions: B rows of the forward, T tokens of a row, H hidden size, N completion tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlx.data.layout import Layout, Segments
from rlx.errors import RlxError
from rlx.policy.pieces import HeadInput
from rlx.policy.products import linear_of

if TYPE_CHECKING:
    from transformers.modeling_layers import GradientCheckpointingLayer

ANNOUNCE = "announce_pass"  # a sharded model's attribute that is called before the contexts of a pass are entered


@dataclass(frozen=True)
class ForwardSettings:
    """How a forward pass is computed, independent of its rows.

    autocast: the dtype of matrix products if it is not that of the weights. checkpoints: whether layers keep only their inputs
    for the backward pass, which recomputes them.
    """

    autocast: torch.dtype | None = None
    checkpoints: bool = False

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        """A new torch context that applies `autocast`."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, dtype=self.autocast)


PLAIN = ForwardSettings()


def completion_logits(
    model: Any,
    layout: Layout,
    *,
    gathers_before_head: bool,
    hidden: list[Tensor] | None = None,
    settings: ForwardSettings = PLAIN,
) -> Tensor:
    """[N, V] logits that predict each completion token, in float32 (float64 if the model is).

    gathers_before_head: run the head on those positions only, not on all of [B, T].
    hidden: a list to which the head's input [N, H] at those positions is appended.
    """
    with _forward_context(model, layout, settings):
        if not gathers_before_head:
            with _seen_by_head(model, layout.predictors, hidden):
                logits = _gathered(model(**_inputs(model, layout)).logits, layout.predictors)
        else:
            with _gathered_head_input(model.get_output_embeddings(), layout.predictors, hidden):
                logits = model(**_inputs(model, layout)).logits[0]
            if len(logits) != len(layout.predictors):
                raise RlxError(f"the head was given {len(layout.predictors)} positions and returned {len(logits)}")
    return logits if logits.dtype == torch.float64 else logits.float()


def head_input(model: Any, layout: Layout, *, settings: ForwardSettings = PLAIN) -> HeadInput:
    """The head's input at the positions that predict a completion token; the head itself runs on only one position."""
    head = model.get_output_embeddings()
    hidden: list[Tensor] = []
    with (
        _forward_context(model, layout, settings),
        _gathered_head_input(head, layout.predictors, hidden, most=1),
    ):
        model(**_inputs(model, layout))
    device = hidden[0].device
    return HeadInput(hidden[0], head.weight, head.bias, lambda: settings.context(device), linear_of(head))


def _inputs(model: Any, layout: Layout) -> dict[str, Any]:
    """The model's arguments for these rows."""
    inputs: dict[str, Any] = {"input_ids": layout.tokens, "use_cache": False}
    if layout.attention_mask is not None:
        # An additive mask rather than a boolean one, as every attention implementation accepts it.
        mask = torch.zeros(layout.attention_mask.shape, dtype=model.dtype, device=layout.attention_mask.device)
        mask.masked_fill_(~layout.attention_mask, torch.finfo(model.dtype).min)
        inputs.update(attention_mask=mask)
    if layout.positions is not None:
        inputs.update(position_ids=layout.positions)
    return inputs


@contextmanager
def _forward_context(model: Any, layout: Layout, settings: ForwardSettings) -> Iterator[None]:
    """The contexts of one forward pass: attention, autocast, and checkpointing if gradients are needed."""

    def attention() -> AbstractContextManager[None]:
        return nullcontext() if layout.segments is None else branched_attention(model, layout.segments)

    checkpoints = settings.checkpoints and torch.is_grad_enabled()
    with (
        attention(),
        settings.context(layout.tokens.device),
        activation_checkpointing(model, attention) if checkpoints else nullcontext(),
    ):
        yield


@contextmanager
def _gathered_head_input(
    head: nn.Module, predictors: Tensor, hidden: list[Tensor] | None, *, most: int | None = None
) -> Iterator[None]:
    """Within this context the head reads [1, N, H], the hidden states that predict a completion token, not all [B, T, H].

    most: the number of positions that the head reads at most. Uses a hook rather than calling the head, so that a model's
    processing of logits after the head (soft-capping) still happens.
    """

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = _gathered(inputs[0], predictors)
        if hidden is not None:
            hidden.append(rows)
        return (rows[None, :most], *inputs[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _seen_by_head(model: Any, predictors: Tensor, hidden: list[Tensor] | None) -> Iterator[None]:
    """Within this context the rows `predictors` of the head's input are appended to `hidden`, if given."""
    if hidden is None:
        yield
        return
    head = model.get_output_embeddings()
    if head is None:
        raise RlxError(f"{type(model).__name__} has no output embeddings whose input a value head could read")
    handle = head.register_forward_pre_hook(lambda _, inputs: hidden.append(_gathered(inputs[0], predictors)))
    try:
        yield
    finally:
        handle.remove()


def _gathered(hidden: Tensor, predictors: Tensor) -> Tensor:
    """[N, H] rows `predictors` of hidden [B, T, H].

    A prompt's last position predicts the first token of each of its completions, so rows repeat; an embedding look-up sums
    their gradients in a fixed order, which plain indexing does not guarantee.
    """
    return F.embedding(predictors, hidden.flatten(0, 1))


def vocabulary_size(model: Any) -> int:
    """V of the model; its tokenizer may have fewer tokens."""
    return int(model.config.get_text_config().vocab_size)


def max_positions(model: Any) -> int | None:
    """The longest sequence that the model has positions for; None if its configuration does not say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def attention_cost(model: Any) -> float:
    """The cost per token of attending to one more position, relative to its matrix products with the weights."""
    config = model.config.get_text_config()
    hidden, layers = int(getattr(config, "hidden_size", 1024)), int(getattr(config, "num_hidden_layers", 24))
    weights: int = sum(parameter.numel() for parameter in model.parameters()) - int(config.vocab_size) * hidden
    return 4 * hidden * layers / (2 * max(weights, hidden * hidden * layers))


def branch_cost(model: Any) -> float:
    """The cost per token of splitting a row into branches and joining them, in the unit of attention_cost.

    With this value the chosen rows were the fastest, or within 3 % of it, for eleven shapes at 1 M and 20 M parameters on a CPU.
    """
    return 40 / int(getattr(model.config.get_text_config(), "hidden_size", 1024))


class ValueHead(nn.Module):
    """The expected return from a token on: a linear map of the hidden state that the LM head reads.

    It starts at 0, so that GAE begins with plain returns.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [N, H]. Returns [N], in float32 (float64 if the weights are)."""
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype))[..., 0]
        return values if values.dtype == torch.float64 else values.float()

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call `forward`; declared for its type."""
        result: Tensor = super().__call__(hidden, *args, **kwargs)
        return result


# Attention of shared-prefix rows, branch by branch, without computing scores that a mask would hide.
#
# Masked attention over a row with all completions of a prompt computes every score and then discards most of them. Here each
# trunk (prompt) attends to itself, and each branch (completion) to its trunk and itself.
# Dimensions: P prompts, G completions of a prompt, T tokens of the row, A and R of the longest trunk and branch, N heads, D head
# dimension, K key-value heads.


NAME = "rlx_branched"
_current: ContextVar[tuple[Segments, Tensor]] = ContextVar("current")  # segments and the mask of the branches


@contextmanager
def branched_attention(model: Any, segments: Segments) -> Iterator[None]:
    """Within this context the model, given one row and its positions, attends branch by branch."""
    _register()
    config = model.config
    before = config._attn_implementation
    token = _current.set((segments, _additive(segments, model.dtype)))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _current.reset(token)


def _additive(segments: Segments, dtype: torch.dtype) -> Tensor:
    """Additive mask of the branches [P * G, 1, R, A + R], or [1, 1, R, A + R] if all are the same."""
    scores = torch.zeros(segments.visible.shape, dtype=dtype, device=segments.visible.device)
    scores.masked_fill_(~segments.visible, torch.finfo(dtype).min)
    return scores[:, None] if len(scores) == 1 else scores.repeat_interleave(segments.branches.shape[1], dim=0)[:, None]


def attend(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers: query [1, N, T, D], key and value [1, K, T, D] -> [1, T, N, D]."""
    asked = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if asked:
        raise NotImplementedError(f"attention branch by branch does not support {asked[0]}")
    segments, mask = _current.get()
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # [T, N or K, D]
    trunk, keys, values = (_picked(states, segments.trunks) for states in rows)
    found = [_flat(F.scaled_dot_product_attention(trunk, keys, values, is_causal=True, **options))]
    if segments.branches.shape[-1]:
        branch, own_keys, own_values = (_picked(states, segments.branches.flatten(0, 1)) for states in rows)
        group = segments.branches.shape[1]
        keys = torch.cat([_repeated(keys, group), own_keys], dim=-2)
        values = torch.cat([_repeated(values, group), own_values], dim=-2)
        found.append(_flat(F.scaled_dot_product_attention(branch, keys, values, attn_mask=mask, **options)))
    out = F.embedding(segments.back, torch.cat(found))
    return out.view(1, len(out), query.shape[1], -1), None


def _picked(states: Tensor, places: Tensor) -> Tensor:
    """[B, N, L, D] of states [T, N, D] at places [B, L]. An embedding look-up sums gradients in a fixed order."""
    found = F.embedding(places, states.reshape(len(states), -1))
    return found.view(*places.shape, *states.shape[1:]).transpose(1, 2)


def _repeated(states: Tensor, times: int) -> Tensor:
    """[B * times, N, L, D]: each of states [B, N, L, D] repeated `times` times."""
    return states[:, None].expand(-1, times, -1, -1, -1).flatten(0, 1)


def _flat(out: Tensor) -> Tensor:
    """[B * L, N * D] of out [B, N, L, D]."""
    return out.transpose(1, 2).flatten(0, 1).flatten(1)


@functools.cache
def _register() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


# Activation checkpointing: the layers of a model keep only their inputs, and are recomputed in the backward pass.
#
# Chen et al. 2016, arXiv:1604.06174. transformers checkpoints a layer only in training mode, which would also turn dropout on;
# here only the layers themselves are marked, and the modules within them stay in evaluation mode.


_MARKS = ("gradient_checkpointing", "_gradient_checkpointing_func", "training")
_ABSENT = object()


def checkpointed_layers(model: Any) -> list[GradientCheckpointingLayer]:
    """The layers of a transformers model that can be recomputed; empty if there are none."""
    from transformers.modeling_layers import GradientCheckpointingLayer  # takes two seconds; planning a sweep does not need it

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def activation_checkpointing(model: Any, attention: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Within this context the layers of `model` keep only their inputs for the backward pass.

    attention: creates a new context in which a layer is recomputed. The backward pass enters it in its own thread, where the
    context of the forward pass may not be set.
    """

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return checkpoint(
            function,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,  # dropout is 0, so no random numbers are drawn
            context_fn=lambda: (nullcontext(), attention()),
        )

    layers = checkpointed_layers(model)
    before = [{name: vars(layer).get(name, _ABSENT) for name in _MARKS} for layer in layers]
    for layer in layers:
        vars(layer).update(zip(_MARKS, (True, run, True), strict=True))
    try:
        yield
    finally:
        for layer, values in zip(layers, before, strict=True):
            for name, value in values.items():
                if value is _ABSENT:
                    del vars(layer)[name]
                else:
                    vars(layer)[name] = value
