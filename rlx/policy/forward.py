"""One forward pass of a transformers model over the rows of a layout.

Dimensions: B rows of the forward, T tokens of a row, H hidden size, N completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlx.data.layout import Layout
from rlx.errors import RlxError
from rlx.policy.branched import branched_attention
from rlx.policy.checkpointing import activation_checkpointing
from rlx.policy.pieces import HeadInput
from rlx.policy.products import linear_of

ANNOUNCE = "announce_pass"  # the attribute of a model split over ranks that is called before the contexts of a pass are entered


@dataclass(frozen=True)
class ForwardSettings:
    """How a forward pass is computed, whatever its rows.

    autocast: the dtype of matrix products where it is not that of the weights. checkpoints: layers keep no activations for the
    backward pass but their inputs, and are computed again there.
    """

    autocast: torch.dtype | None = None
    checkpoints: bool = False

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        """A new context of torch in which `autocast` holds."""
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
    hidden: where given, the hidden states [N, H] that the head reads there are appended to it.
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
    """What the head reads at the positions that predict a completion token; the head itself runs on a single position."""
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
    """The arguments of the model for these rows."""
    inputs: dict[str, Any] = {"input_ids": layout.tokens, "use_cache": False}
    if layout.attention_mask is not None:
        # Added to the scores rather than true or false: every attention implementation takes that form.
        mask = torch.zeros(layout.attention_mask.shape, dtype=model.dtype, device=layout.attention_mask.device)
        mask.masked_fill_(~layout.attention_mask, torch.finfo(model.dtype).min)
        inputs.update(attention_mask=mask)
    if layout.positions is not None:
        inputs.update(position_ids=layout.positions)
    return inputs


@contextmanager
def _forward_context(model: Any, layout: Layout, settings: ForwardSettings) -> Iterator[None]:
    """The contexts that one forward pass needs: its attention, autocast, and checkpointing where gradients are wanted."""

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

    most: the head reads only so many. A hook rather than a call of the head, so that what a model does to its logits after the
    head (soft-capping) still happens.
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
    """Within this context the rows `predictors` of what the head reads are appended to `hidden`, if that is given."""
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

    A prompt's last position predicts the first token of each of its completions, so rows repeat; an embedding look-up adds up
    their gradients in a fixed order, where plain indexing may not.
    """
    return F.embedding(predictors, hidden.flatten(0, 1))


def vocabulary_size(model: Any) -> int:
    """V, of the model; its tokenizer may know fewer tokens."""
    return int(model.config.get_text_config().vocab_size)


def max_positions(model: Any) -> int | None:
    """The longest sequence that the model has positions for; None if its configuration does not say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def attention_cost(model: Any) -> float:
    """What attending to one more position costs a token, as a share of its matrix products with the weights."""
    config = model.config.get_text_config()
    hidden, layers = int(getattr(config, "hidden_size", 1024)), int(getattr(config, "num_hidden_layers", 24))
    weights: int = sum(parameter.numel() for parameter in model.parameters()) - int(config.vocab_size) * hidden
    return 4 * hidden * layers / (2 * max(weights, hidden * hidden * layers))


def branch_cost(model: Any) -> float:
    """What splitting a row into branches and joining them again costs a token, in the unit of attention_cost.

    With it the fastest rows were chosen, or rows within 3 % of them, for eleven shapes at 1 M and 20 M parameters on a CPU.
    """
    return 40 / int(getattr(model.config.get_text_config(), "hidden_size", 1024))


class ValueHead(nn.Module):
    """The return that is expected from a token on: a linear map of the hidden state that the language-model head reads.

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
        """As forward, with its type."""
        result: Tensor = super().__call__(hidden, *args, **kwargs)
        return result
