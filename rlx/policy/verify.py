"""Chooses the forward pass that is correct for a model, by comparing with plain rows on the model itself when it is loaded.

Some architectures ignore a 4-D mask or the positions silently (sliding windows); others refuse them (ALiBi, recurrent models).
Dimensions: N completion tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.data.layout import Layout, plain_rows, shared_prefix_rows
from rlx.data.sequences import Sequences
from rlx.errors import ConfigError
from rlx.policy.forward import completion_logits, head_input, max_positions, vocabulary_size
from rlx.policy.products import is_linear
from rlx.seeding import Stream

TOLERANCE = 1e-4
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention", "attention_window")
_SHORT = 24  # tokens of a prompt that tests everything except windows
_MOST_WORK = 1e12  # weights times tokens of a comparison beyond a window: about a minute on a CPU


@dataclass(frozen=True)
class ForwardChoice:
    """How log-probabilities are computed.

    gathers_before_head: the head runs on the positions that predict completion tokens, not on all. linear_head: the
    logits are the output of a linear layer, and may be computed in pieces. shared_prefix: the completions of a prompt go through
    the model in one row. branched: such rows may attend branch by branch. notes: what was turned off, and why.
    """

    gathers_before_head: bool = False
    linear_head: bool = False
    shared_prefix: bool = False
    branched: bool = False
    notes: tuple[str, ...] = ()

    def with_plain_rows(self, reason: str = "") -> ForwardChoice:
        """The same choice with one row per completion; a reason is added to the notes."""
        added = (f"each completion is computed with its own copy of the prompt (slower): {reason}",) if reason else ()
        return replace(self, shared_prefix=False, branched=False, notes=self.notes + added)


def choose_forward(model: Any, *, name: str, num_tokens: int, wanted: bool | None) -> ForwardChoice:
    """The fastest forward pass whose logits equal those of plain rows, compared in float32 (float64 if the model is).

    name: of the model, for messages; num_tokens: of its tokenizer's vocabulary.
    wanted: False for plain rows; None for shared-prefix rows if they equal plain rows; True for the same, but without the
    comparison beyond a window if that would take minutes.
    Raises ConfigError for a model with non-finite logits or too few positions, or one that is not causal.
    """
    dtype = next(model.parameters()).dtype
    half = dtype not in (torch.float32, torch.float64)
    if half:
        model.float()
    try:
        with torch.no_grad():
            return _Comparison(model, name, num_tokens).chosen(wanted)
    finally:
        if half:
            model.to(dtype)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """model: compared with itself. num_tokens: of its tokenizer's vocabulary."""

    model: Any
    name: str
    num_tokens: int

    def chosen(self, wanted: bool | None) -> ForwardChoice:
        """The layouts that choose_forward chose."""
        probe = self._probe(_SHORT)
        plain = self._on_device(plain_rows(probe))
        truth = completion_logits(self.model, plain, gathers_before_head=False)
        if not bool(torch.isfinite(truth).all()):
            raise ConfigError(f"{self.name} gives non-finite logits: its weights are damaged")
        self._require_causal(plain, truth)
        choice = self._head(plain, truth)
        if wanted is False:
            return choice
        choice = self._rows(replace(choice, shared_prefix=True, branched=True), probe, truth)
        return self._rows_beyond_windows(choice, trusted=wanted is True)

    def _head(self, plain: Layout, truth: Tensor) -> ForwardChoice:
        """The head on completion positions only, if that gives `truth`."""
        head = self.model.get_output_embeddings()
        if head is None:
            reason = "the model names no output embeddings"
        else:
            reason = self._difference(ForwardChoice(gathers_before_head=True), plain, truth)
        if reason:
            return ForwardChoice(notes=(f"logits are computed at every position: {reason}",))
        linear = is_linear(head) and self._is_head_output(plain, truth)
        return ForwardChoice(gathers_before_head=True, linear_head=linear)

    def _is_head_output(self, plain: Layout, truth: Tensor) -> bool:
        """Whether the logits are the head's output unchanged: some models scale or cap them afterwards."""
        found = head_input(self.model, plain).logits(slice(None))
        return found.shape == truth.shape and float((found - truth).abs().max()) <= TOLERANCE * min(1.0, float(truth.std()))

    def _rows(self, choice: ForwardChoice, probe: Sequences, truth: Tensor) -> ForwardChoice:
        """`choice` without shared-prefix rows, or without branch-by-branch attention, if those do not give `truth`."""
        one_row = np.zeros(len(probe), dtype=np.int64)
        reason = self._difference(choice, shared_prefix_rows(probe, rows_of=one_row), truth)
        if reason:
            return choice.with_plain_rows(reason)
        branched = choice.branched and not self._difference(choice, shared_prefix_rows(probe, branched=True), truth)
        return replace(choice, branched=branched)

    def _rows_beyond_windows(self, choice: ForwardChoice, *, trusted: bool) -> ForwardChoice:
        """The same on a prompt that is longer than any window of the model."""
        window = _longest_window(self.model.config.get_text_config())
        positions = max_positions(self.model)
        length = window + 8 if positions is None else min(window + 8, positions - 16)
        if not choice.shared_prefix or length <= _SHORT:
            return choice
        if sum(parameter.numel() for parameter in self.model.parameters()) * length <= _MOST_WORK:
            probe = self._probe(length)[:1]
            plain = self._on_device(plain_rows(probe))
            truth = completion_logits(self.model, plain, gathers_before_head=choice.gathers_before_head)
            return self._rows(choice, probe, truth)
        if trusted:
            return replace(choice, branched=False)
        return choice.with_plain_rows(
            f"beyond its window of {window} tokens this could not be compared; policy.shared_prefix=true skips the comparison"
        )

    def _require_causal(self, plain: Layout, truth: Tensor) -> None:
        """Raise ConfigError for a model whose predictions depend on the tokens that they predict."""
        first_ones = slice(0, 1)
        tokens = plain.tokens.clone()
        tokens.view(-1)[plain.predictors[first_ones] + 1] += 1
        tokens.remainder_(vocabulary_size(self.model))
        changed = completion_logits(self.model, replace(plain, tokens=tokens), gathers_before_head=False)
        if float((changed - truth)[first_ones].abs().max()) > TOLERANCE:
            raise ConfigError(f"{self.name} reads the tokens that it must predict, so it is not a causal language model")

    def _difference(self, choice: ForwardChoice, layout: Layout, truth: Tensor) -> str:
        """Why the logits of `layout` cannot replace `truth` [N, V]; "" if they can."""
        try:
            values = completion_logits(self.model, self._on_device(layout), gathers_before_head=choice.gathers_before_head)
        except Exception as error:  # any exception means that the model does not support these inputs
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"the model refuses the short cut ({message[:120]})"
        if values.shape != truth.shape:
            return f"logits come out as {tuple(values.shape)} instead of {tuple(truth.shape)}"
        # A common offset does not change the softmax; and for a freshly initialised model that predicts nearly the same for all
        # tokens, differences are relative.
        truth, values = truth - truth.mean(-1, keepdim=True), values - values.mean(-1, keepdim=True)
        gap = float((values - truth).abs().max())
        return "" if gap <= TOLERANCE * min(1.0, float(truth.std())) else f"logits differ by {gap:.2g}"

    def _on_device(self, layout: Layout) -> Layout:
        return layout.to(next(self.model.parameters()).device)

    def _probe(self, prompt_length: int) -> Sequences:
        """Two prompts of different lengths with three completions of different lengths, of random tokens."""
        draw = Stream(0, ("verify", prompt_length)).numpy()
        vocabulary = min(vocabulary_size(self.model), max(2, self.num_tokens))
        limit = max_positions(self.model)
        if limit is not None and limit < 17:
            raise ConfigError(f"{self.name} has {limit} positions; rlx needs at least 17")
        longest = prompt_length if limit is None else min(prompt_length, limit - 16)

        def tokens(length: int) -> np.ndarray:
            return draw.integers(0, vocabulary, length)

        prompts = (tokens(longest), tokens(max(1, longest - 3)))
        return Sequences(prompts, ((tokens(5), tokens(9), tokens(2)), (tokens(4), tokens(1), tokens(7))))


def _longest_window(config: Any) -> int:
    """The longest attention window that the configuration names and uses; 0 without one."""
    layers = getattr(config, "layer_types", None)
    if layers and all(kind == "full_attention" for kind in layers):
        return 0
    windows = [getattr(config, name, None) for name in _WINDOWS]
    return max((window for window in windows if isinstance(window, int)), default=0)
