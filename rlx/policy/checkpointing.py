"""Activation checkpointing: the layers of a model keep their inputs alone, and are computed again in the backward pass.

Chen et al. 2016, arXiv:1604.06174. transformers checkpoints a layer only in training mode, which would also switch dropout on;
here the layers themselves are marked, and the modules within them stay in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers.modeling_layers import GradientCheckpointingLayer

_MARKS = ("gradient_checkpointing", "_gradient_checkpointing_func", "training")
_ABSENT = object()


def checkpointed_layers(model: Any) -> list[GradientCheckpointingLayer]:
    """The layers of a transformers model that can be computed again; empty where there are none."""
    from transformers.modeling_layers import GradientCheckpointingLayer  # two seconds, which a plan of a sweep does not need

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def activation_checkpointing(model: Any, attention: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Within this context the layers of `model` keep no activations for the backward pass but their inputs.

    attention: gives a new context in which a layer is computed again. The backward pass enters it in the thread that it runs in,
    where the context of the forward pass may not be set.
    """

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return checkpoint(
            function,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,  # dropout is 0: nothing is drawn
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
