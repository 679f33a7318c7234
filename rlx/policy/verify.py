"""Which forward pass a model can be trusted with: tried on the model itself when it is loaded.

Some architectures ignore a 4-D mask or the positions without a word (sliding windows),
others refuse them (ALiBi, recurrent ones).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlx.data.layout import plain_rows, shared_prefix_rows
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError, RlxError
from rlx.seeding import Stream

if TYPE_CHECKING:
    from rlx.policy.base import Policy

TOLERANCE = 1e-4
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention", "attention_window")


def choose_layout(policy: Policy, *, wanted: bool | None) -> None:
    """Set how `policy` computes log-probabilities: head on completion positions only, completions of a prompt in one row.

    wanted: False for plain rows; None or True for shared-prefix rows where they equal plain rows. Each short cut that fails is
    turned off and said in `policy.notes`.
    """
    dtype = policy.dtype
    half = dtype not in (torch.float32, torch.float64)
    if half:
        policy.model.float()
    try:
        with torch.no_grad():
            for length in _lengths(policy.model.config.get_text_config()):
                _compare(policy, _probe(policy, length), shared=wanted is not False, first=length == _SHORT)
    finally:
        if half:
            policy.model.to(dtype)


_SHORT = 24


def _compare(policy: Policy, probe: Sequences, *, shared: bool, first: bool) -> None:
    """Compare both short cuts with the model's own logits on `probe`, and turn off what differs."""
    plain = plain_rows(probe).to(policy.device)
    truth: Tensor | None = None
    if first:
        policy.gathers_before_head = False
        truth = _logprobs(policy, plain)
        policy.gathers_before_head = policy.model.get_output_embeddings() is not None
        reason = _difference(policy, plain, truth) if policy.gathers_before_head else "the model names no output embeddings"
        if reason:
            policy.gathers_before_head = False
            policy.notes.append(f"logits are computed at every position: {reason}")
        _require_causal(policy, plain, truth)
        policy.shared_prefix = shared
    if policy.shared_prefix:
        truth = _logprobs(policy, plain) if truth is None else truth
        reason = _difference(
            policy, shared_prefix_rows(probe, rows_of=np.zeros(len(probe), dtype=np.int64)).to(policy.device), truth
        )
        if reason:
            policy.shared_prefix = False
            policy.notes.append(f"each completion is computed with its own copy of the prompt (slower): {reason}")


def _require_causal(policy: Policy, plain: Any, truth: Tensor) -> None:
    """Refuse a model whose predictions change with the tokens that they predict."""
    first_ones = slice(0, 1)
    tokens = plain.tokens.clone()
    tokens.view(-1)[plain.predictors[first_ones] + 1] += 1
    tokens.remainder_(policy.vocabulary_size)
    changed = _logprobs(policy, replace(plain, tokens=tokens))
    if float((changed - truth)[first_ones].abs().max()) > TOLERANCE:
        raise ConfigError(f"{policy.name} sees the tokens that it is to predict: it is no causal language model")


def _difference(policy: Policy, layout: Any, truth: Tensor) -> str:
    """Why the log-probabilities of `layout` cannot be used in place of `truth` [N, V]; empty if they can."""
    try:
        values = _logprobs(policy, layout)
    except Exception as error:  # whatever a model raises on inputs that it does not support means the same
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"the model refuses the short cut ({message[:120]})"
    if values.shape != truth.shape:
        return f"logits come out as {tuple(values.shape)} instead of {tuple(truth.shape)}"
    # A freshly initialised model says nearly the same everywhere; its differences count in proportion.
    scale = float(truth.std(dim=0).mean().clamp(1e-3, 1.0))
    gap = float((values - truth).abs().max())
    return "" if gap <= TOLERANCE * scale else f"log-probabilities differ by {gap:.2g}"


def _logprobs(policy: Policy, layout: Any) -> Tensor:
    """[N, V]."""
    return torch.log_softmax(policy.completion_logits(layout), dim=-1)


def _lengths(config: Any) -> list[int]:
    """Prompt lengths to try: a short one, and one beyond any window of the configuration, if the model has the positions."""
    windows = [getattr(config, name, None) for name in _WINDOWS]
    longest = max((window for window in windows if isinstance(window, int)), default=0)
    positions = getattr(config, "max_position_embeddings", None)
    room = positions - 16 if isinstance(positions, int) and positions > 0 else None
    short, long = _SHORT, longest + 8
    if room is not None and room < 1:
        raise RlxError(f"the model has {positions} positions; rlx needs at least 17")
    if room is not None:
        long = min(long, room)
    return [short] if long <= short else [short, long]


def _probe(policy: Policy, prompt_length: int) -> Sequences:
    """Two prompts of different lengths with three completions of different lengths, of random tokens."""
    draw = Stream(0, ("verify", prompt_length)).numpy()
    vocabulary = min(policy.vocabulary_size, max(2, len(policy.tokenizer)))
    limit = policy.max_length
    longest = prompt_length if limit is None else min(prompt_length, limit - 16)

    def tokens(length: int) -> np.ndarray:
        return draw.integers(0, vocabulary, length)

    prompts = (tokens(longest), tokens(max(1, longest - 3)))
    return Sequences(prompts, ((tokens(5), tokens(9), tokens(2)), (tokens(4), tokens(1), tokens(7))))
