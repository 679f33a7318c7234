"""Which way of decoding a model can be trusted with: tried once on a few tokens, against forwards without a cache."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlx.rollout.forward import CachedForward, Forward, PlainForward

_LONGEST_PROBE = 66  # tokens; a sliding window longer than this is not run past
_STEPS = 3
_chosen: weakref.WeakKeyDictionary[Any, tuple[str, str]] = weakref.WeakKeyDictionary()


def forward_for(model: Any) -> tuple[Forward, str]:
    """A fresh `Forward` for the model, and what the user should know about it ("" if nothing)."""
    if model not in _chosen:
        _chosen[model] = _choose(model)
    way, note = _chosen[model]
    return _ways(model)[way](), note


def _ways(model: Any) -> dict[str, Callable[[], Forward]]:
    """Fastest first."""
    return {
        "prepared mask": lambda: CachedForward(model, prepared_mask=True),
        "plain mask": lambda: CachedForward(model, prepared_mask=False),
        "no cache": lambda: PlainForward(model),
    }


def _windows(model: Any) -> list[int]:
    """Lengths of the windows that some layers see no further than."""
    config = model.config.get_text_config(decoder=True)
    names = ("sliding_window", "attention_chunk_size", "local_attention_size", "window_size")
    return [value for name in names if isinstance(value := getattr(config, name, None), int) and value > 0]


def _choose(model: Any) -> tuple[str, str]:
    windows = _windows(model)
    reasons: list[str] = []
    for way, make in _ways(model).items():
        if way == "no cache":
            break
        # a mask made here would override the windows, and only sdpa and eager attention add a four-dimensional mask to their scores
        if way == "prepared mask" and (windows or model.config._attn_implementation not in ("sdpa", "eager")):
            continue
        try:
            difference = _difference(
                make(), PlainForward(model), vocabulary=model.config.get_text_config().vocab_size, windows=windows
            )
        except Exception as error:  # whatever a foreign model raises here, the answer is to do without a cache
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        if difference <= (1e-4 if model.dtype in (torch.float32, torch.float64) else 0.1):
            return way, ""
        reasons.append(f"log-probabilities differ by {difference:.1e}")
    return (
        "no cache",
        f"rollouts of {type(model).__name__} re-read the whole sequence for every token, its cache cannot be used: {reasons[-1]}",
    )


def _difference(cached: Forward, plain: Forward, *, vocabulary: int, windows: list[int]) -> float:
    """Largest difference of log-probabilities over a few steps with prompts of unequal length, of which one row leaves."""
    generator = np.random.default_rng(0)
    longest = min([_LONGEST_PROBE, *[window + 3 for window in windows]]) if windows else 7
    prompts = [generator.integers(0, vocabulary, size=size) for size in (longest, 2, 4)]
    tokens = torch.from_numpy(generator.integers(0, vocabulary, size=(_STEPS, 6)))
    rows, worst = torch.tensor([0, 1, 5, 3, 4]), 0.0
    logits = [forward.start(prompts, group_size=2, max_new_tokens=_STEPS + 1) for forward in (cached, plain)]
    for step in range(_STEPS + 1):
        first, second = (torch.log_softmax(values.double(), dim=-1) for values in logits)
        worst = max(worst, float(torch.nan_to_num(first - second, nan=torch.inf).abs().max()))
        if step == 1:
            for forward in (cached, plain):
                forward.keep(rows.to(logits[0].device))
        if step < _STEPS:
            following = tokens[step, : len(logits[0]) if step != 1 else len(rows)].to(logits[0].device)
            logits = [forward.step(following) for forward in (cached, plain)]
    return worst
