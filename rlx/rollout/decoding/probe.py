"""Finds the fastest decoding method that is correct for a model, by comparison with uncached forward passes on a few tokens.

A model that accepts a cache but computes different values with it (it ignores a mask, or counts positions differently) fails
silently; the comparison detects this for any architecture.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.policy.adapter import moved_adapters
from rlx.rollout.decoding.forward import CachedForward, Forward, PlainForward
from rlx.rollout.decoding.llama import LlamaForward, supports_llama_forward

_LONGEST_PROBE = 66  # tokens; sliding windows longer than this are not tested
_SPLITS = ([0, 1, 2, 1, 0], [0, 1, 4, 3], [0, 1, 2, 3])  # the row that each row of a step continues
_continues: weakref.WeakKeyDictionary[Any, tuple[type, bool]] = weakref.WeakKeyDictionary()
_chosen: weakref.WeakKeyDictionary[Any, tuple[type, str, str]] = weakref.WeakKeyDictionary()


def forward_for(model: Any) -> tuple[Forward, str]:
    """A new `Forward` of the model, and a note for the user ("" if there is none)."""
    if model not in _chosen or _chosen[model][0] is not type(model):  # the type changes when weights are sharded over ranks
        _chosen[model] = (type(model), *_choose(model))
    _, way, note = _chosen[model]
    return _ways(model)[way](), note


def continues(model: Any) -> bool:
    """Whether the model continues correctly from keys and values of an earlier batch (`Forward.states`)."""
    if model not in _continues or _continues[model][0] is not type(model):
        try:
            found = _difference_after_a_turn(model) <= _tolerance(model)
        except Exception:  # whatever the model raises, its conversations are recomputed at each turn
            found = False
        _continues[model] = (type(model), found)
    return _continues[model][1]


def _tolerance(model: Any) -> float:
    """The largest allowed difference for any vocabulary token, in nats. Rounding causes up to 2.4e-4 for SmolLM2."""
    return 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1


@torch.no_grad()
def _difference_after_a_turn(model: Any) -> float:
    """Largest difference of log-probabilities over a few steps that continue an earlier batch; infinite if it keeps no states.

    Rows differ in the lengths of their cached and new tokens, and one row has no cached tokens.
    """
    generator = np.random.default_rng(0)
    vocabulary = model.config.get_text_config().vocab_size
    prompts = [generator.integers(0, vocabulary, size=size) for size in (7, 2, 4)]
    said = generator.integers(0, vocabulary, size=(2, 3))
    first, plain = forward_for(model)[0], PlainForward(model)
    first.start(prompts, max_rows=3, max_new_tokens=4)
    for tokens in said:
        first.step(torch.arange(3, device=model.device), torch.from_numpy(tokens).to(model.device))
    past = [None if row == 1 else first.states(row) for row in range(3)]
    if past[0] is None:
        return float("inf")
    news = [generator.integers(0, vocabulary, size=size) for size in (1, 2, 5)]
    histories = [np.concatenate([prompt, said[:, row], news[row]]) for row, prompt in enumerate(prompts)]
    second = forward_for(model)[0]
    logits = [
        second.start(histories, max_rows=5, max_new_tokens=len(_SPLITS) + 1, past=past),
        plain.start(histories, max_rows=5, max_new_tokens=len(_SPLITS) + 1),
    ]
    return max(_distance(*logits), _steps_apart(second, plain, model, generator))


def _ways(model: Any) -> dict[str, Callable[[], Forward]]:
    """Name -> decoding method, fastest first."""
    return {
        "own arithmetic": lambda: LlamaForward(model),
        "prepared mask": lambda: CachedForward(model, prepared_mask=True),
        "plain mask": lambda: CachedForward(model, prepared_mask=False),
        "no cache": lambda: PlainForward(model),
    }


def _as_tried(model: Any, way: str) -> list[Forward]:
    """A decoding method in each variant that a draw may use."""
    if way == "own arithmetic":
        return [LlamaForward(model, shares_prompts=shares) for shares in (False, True)]
    return [_ways(model)[way]()]


def _windows(model: Any) -> list[int]:
    """Lengths of the sliding windows of attention."""
    config = model.config.get_text_config(decoder=True)
    names = ("sliding_window", "attention_chunk_size", "local_attention_size", "window_size")
    return [value for name in names if isinstance(value := getattr(config, name, None), int) and value > 0]


def _choose(model: Any) -> tuple[str, str]:
    windows = _windows(model)
    reason = ""
    for way in ("own arithmetic", "prepared mask", "plain mask"):
        if way == "own arithmetic" and (windows or not supports_llama_forward(model)):
            continue
        # a prepared mask would override the windows, and only these two attention kinds add a four-dimensional mask
        if way == "prepared mask" and (windows or model.config._attn_implementation not in ("sdpa", "eager")):
            continue
        try:
            with moved_adapters(model) if way == "own arithmetic" else nullcontext():  # the others use the model's own layers
                difference = max(_difference(of, PlainForward(model), model, windows) for of in _as_tried(model, way))
        except Exception as error:  # whatever the model raises, it is decoded without a cache
            reason = f"{type(error).__name__}: {error}"
            continue
        if difference <= _tolerance(model):
            return way, ""
        reason = f"log-probabilities differ by {difference:.1e}"
    name = type(model).__name__
    return "no cache", f"sampling from {name} computes the whole sequence for every token, its cache cannot be used: {reason}"


@torch.no_grad()
def _difference(cached: Forward, plain: Forward, model: Any, windows: Sequence[int]) -> float:
    """Largest difference of log-probabilities over a few steps on prompts of different lengths, with rows that split and end."""
    generator = np.random.default_rng(0)
    vocabulary = model.config.get_text_config().vocab_size
    longest = min([_LONGEST_PROBE, *(window + 3 for window in windows)]) if windows else 7
    prompts = [generator.integers(0, vocabulary, size=size) for size in (longest, 2, 4)]
    logits = [forward.start(prompts, max_rows=5, max_new_tokens=len(_SPLITS) + 1) for forward in (cached, plain)]
    return max(_distance(*logits), _steps_apart(cached, plain, model, generator))


def _steps_apart(cached: Forward, plain: Forward, model: Any, generator: np.random.Generator) -> float:
    """Largest difference of log-probabilities over the steps of _SPLITS."""
    worst, vocabulary = 0.0, model.config.get_text_config().vocab_size
    for split in _SPLITS:
        tokens = torch.from_numpy(generator.integers(0, vocabulary, size=len(split))).to(model.device)
        parents = torch.tensor(split, device=model.device)
        logits = [forward.step(parents, tokens) for forward in (cached, plain)]
        worst = max(worst, _distance(*logits))
    return worst


def _distance(first: Tensor, second: Tensor) -> float:
    """Largest difference between the log-probabilities of logits [B, V]; infinite if one is NaN."""
    difference = torch.log_softmax(first.double(), dim=-1) - torch.log_softmax(second.double(), dim=-1)
    return float(torch.nan_to_num(difference, nan=torch.inf).abs().max())
