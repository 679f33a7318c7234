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

from rlx.data.layout import Layout, plain_rows, shared_prefix_rows
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError
from rlx.seeding import Stream

if TYPE_CHECKING:
    from rlx.policy.base import Policy

TOLERANCE = 1e-4
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention", "attention_window")
_SHORT = 24  # tokens of a prompt that tries everything but windows
_MOST_WORK = 1e12  # weights times tokens of a comparison beyond a window: a minute or so of a CPU


def choose_layout(policy: Policy, *, wanted: bool | None) -> None:
    """Set how `policy` computes log-probabilities: head on completion positions only, completions of a prompt in one row.

    wanted: False for plain rows; None for shared-prefix rows where they equal plain rows; True for the same, but without a
    comparison beyond a window where that would take minutes. Each short cut that fails is turned off and said in `policy.notes`.
    """
    dtype = policy.dtype
    half = dtype not in (torch.float32, torch.float64)
    if half:
        policy.model.float()
    try:
        with torch.no_grad():
            probe = _probe(policy, _SHORT)
            plain = plain_rows(probe).to(policy.device)
            truth = _logits(policy, plain)
            if not bool(torch.isfinite(truth).all()):
                raise ConfigError(f"{policy.name} gives logits that are no finite numbers: its weights are damaged")
            _require_causal(policy, plain, truth)
            _choose_head(policy, plain, truth)
            policy.shared_prefix = policy.branched = wanted is not False
            _compare(policy, probe, truth)
            _compare_beyond_windows(policy, trusted=wanted is True)
    finally:
        if half:
            policy.model.to(dtype)


def _choose_head(policy: Policy, plain: Layout, truth: Tensor) -> None:
    """Run the head on completion positions only, if that gives `truth`."""
    policy.gathers_before_head = policy.model.get_output_embeddings() is not None
    reason = _difference(policy, plain, truth) if policy.gathers_before_head else "the model names no output embeddings"
    if reason:
        policy.gathers_before_head = False
        policy.notes.append(f"logits are computed at every position: {reason}")


def _compare(policy: Policy, probe: Sequences, truth: Tensor) -> None:
    """Turn shared-prefix rows off if they do not give `truth`; and attention branch by branch, where it does not."""
    if policy.shared_prefix:
        one_row = np.zeros(len(probe), dtype=np.int64)
        reason = _difference(policy, shared_prefix_rows(probe, rows_of=one_row).to(policy.device), truth)
        if reason:
            _use_plain_rows(policy, reason)
    if policy.branched:
        branches = shared_prefix_rows(probe, branched=True).to(policy.device)
        policy.branched = not _difference(policy, branches, truth)


def _compare_beyond_windows(policy: Policy, *, trusted: bool) -> None:
    """The same on a prompt that is longer than any window of the model."""
    window = _longest_window(policy.model.config.get_text_config())
    length = window + 8 if policy.max_length is None else min(window + 8, policy.max_length - 16)
    if not policy.shared_prefix or length <= _SHORT:
        return
    if policy.num_parameters * length <= _MOST_WORK:
        probe = _probe(policy, length)[:1]
        _compare(policy, probe, _logits(policy, plain_rows(probe).to(policy.device)))
        return
    policy.branched = False
    if not trusted:
        _use_plain_rows(
            policy,
            f"beyond its window of {window} tokens this could not be compared in short; policy.shared_prefix=true trusts it",
        )


def _use_plain_rows(policy: Policy, reason: str) -> None:
    policy.shared_prefix = policy.branched = False
    policy.notes.append(f"each completion is computed with its own copy of the prompt (slower): {reason}")


def _require_causal(policy: Policy, plain: Layout, truth: Tensor) -> None:
    """Refuse a model whose predictions change with the tokens that they predict."""
    first_ones = slice(0, 1)
    tokens = plain.tokens.clone()
    tokens.view(-1)[plain.predictors[first_ones] + 1] += 1
    tokens.remainder_(policy.vocabulary_size)
    changed = _logits(policy, replace(plain, tokens=tokens))
    if float((changed - truth)[first_ones].abs().max()) > TOLERANCE:
        raise ConfigError(f"{policy.name} sees the tokens that it is to predict: it is no causal language model")


def _difference(policy: Policy, layout: Layout, truth: Tensor) -> str:
    """Why the log-probabilities of `layout` cannot be used in place of `truth` [N, V]; empty if they can."""
    try:
        values = _logits(policy, layout)
    except Exception as error:  # whatever a model raises on inputs that it does not support means the same
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"the model refuses the short cut ({message[:120]})"
    if values.shape != truth.shape:
        return f"logits come out as {tuple(values.shape)} instead of {tuple(truth.shape)}"
    # Softmax does not see a common offset; and where a freshly initialised model says nearly the same of all tokens, differences
    # count in proportion.
    truth, values = truth - truth.mean(-1, keepdim=True), values - values.mean(-1, keepdim=True)
    gap = float((values - truth).abs().max())
    return "" if gap <= TOLERANCE * min(1.0, float(truth.std())) else f"logits differ by {gap:.2g}"


def _logits(policy: Policy, layout: Layout) -> Tensor:
    """[N, V]."""
    return policy.completion_logits(layout)


def _longest_window(config: Any) -> int:
    """The longest attention window that the configuration names and uses; 0 without one."""
    layers = getattr(config, "layer_types", None)
    if layers and all(kind == "full_attention" for kind in layers):
        return 0
    windows = [getattr(config, name, None) for name in _WINDOWS]
    return max((window for window in windows if isinstance(window, int)), default=0)


def _probe(policy: Policy, prompt_length: int) -> Sequences:
    """Two prompts of different lengths with three completions of different lengths, of random tokens."""
    draw = Stream(0, ("verify", prompt_length)).numpy()
    vocabulary = min(policy.vocabulary_size, max(2, len(policy.tokenizer)))
    limit = policy.max_length
    if limit is not None and limit < 17:
        raise ConfigError(f"{policy.name} has {limit} positions; rlx needs at least 17")
    longest = prompt_length if limit is None else min(prompt_length, limit - 16)

    def tokens(length: int) -> np.ndarray:
        return draw.integers(0, vocabulary, length)

    prompts = (tokens(longest), tokens(max(1, longest - 3)))
    return Sequences(prompts, ((tokens(5), tokens(9), tokens(2)), (tokens(4), tokens(1), tokens(7))))
