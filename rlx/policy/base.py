"""A policy: a transformers causal language model with the few methods that algorithms need.

Dimensions: P prompts, G completions of a prompt, B pairs, T tokens, N completion tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlx.data.layout import Layout, cheapest_rows, plain_rows
from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences, Tokens
from rlx.data.tokenizer import tokenizer_text
from rlx.data.tokens import TextEncoder
from rlx.errors import ConfigError
from rlx.loss.preference.pairs import PairLogprobs
from rlx.optimizer.step import Part
from rlx.policy.adapter import AttachedAdapter, BaseModel, Lora
from rlx.policy.forward import (
    ANNOUNCE,
    ForwardSettings,
    ValueHead,
    attention_cost,
    branch_cost,
    checkpointed_layers,
    completion_logits,
    head_input,
    max_positions,
    vocabulary_size,
)
from rlx.policy.pieces import HasLogits, HeadInput, is_large, statistics_in_pieces
from rlx.policy.precision import HALF, autocast_dtype, slower_note
from rlx.policy.products import OneDnnLinear, is_linear, multiply_by_onednn, uses_onednn
from rlx.policy.reader import Reader
from rlx.policy.statistics import (
    DISTRIBUTION_STATISTICS,
    NO_STATISTICS,
    TokenStatistics,
    pair_logprobs_of,
    statistics_of,
    unflatten,
)
from rlx.policy.verify import ForwardChoice, choose_forward


class Policy(Reader):
    """A causal language model with its tokenizer.

    model: any transformers causal language model, kept in evaluation mode (dropout is 0 in training too).
    text: how text becomes tokens. shared_prefix: the completions of a prompt go through the model in one row; None: decided by
    comparing both forward passes. notes: remarks for the user about how this policy was loaded.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, text: TextEncoder | None = None, shared_prefix: bool | None = None
    ) -> None:
        super().__init__(model, tokenizer, name=name, text=text)
        self.model = model.eval()
        self.forward_choice: ForwardChoice = choose_forward(model, name=name, num_tokens=len(tokenizer), wanted=shared_prefix)
        self.notes = list(self.forward_choice.notes)
        self.forward_settings = ForwardSettings()
        self.adapter: AttachedAdapter | None = None
        self._is_start = False
        self.value_head: ValueHead | None = None
        self._attention_cost, self._branch_cost = attention_cost(model), branch_cost(model)

    # ---- the model -------------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        found: torch.dtype = next(self.model.parameters()).dtype
        return found

    @property
    def is_quantized(self) -> bool:
        """Whether weights are quantised to integers: they cannot be trained, but an adapter on top of them can."""
        return not all(parameter.is_floating_point() for parameter in self.model.parameters())

    @property
    def num_parameters(self) -> int:
        """The number of weights, with tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def vocabulary_size(self) -> int:
        """V of the model; the tokenizer may have fewer tokens."""
        return vocabulary_size(self.model)

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the model has positions for; None if unknown."""
        return max_positions(self.model)

    @property
    def shared_prefix(self) -> bool:
        """Whether the completions of a prompt go through the model in one row."""
        return self.forward_choice.shared_prefix

    def with_plain_rows(self) -> Policy:
        """The same model and weights, with each completion in a separate row."""
        twin = copy.copy(self)
        twin.forward_choice = self.forward_choice.with_plain_rows()
        return twin

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters; tied ones once."""
        if self._is_start:  # its weights are the frozen weights of a shared model
            return []
        head = [] if self.value_head is None else list(self.value_head.parameters())
        return [parameter for parameter in (*self.model.parameters(), *head) if parameter.requires_grad]

    def tensors(self) -> list[Tensor]:
        """Every weight and buffer, including the value head's; tied ones once."""
        modules = [self.model] if self.value_head is None else [self.model, self.value_head]
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    def parts(self) -> list[Part]:
        """The part that each of `parameters()` belongs to."""
        ends = [
            module for module in (self.model.get_input_embeddings(), self.model.get_output_embeddings()) if module is not None
        ]
        known: dict[int, Part] = {id(parameter): "embedding" for module in ends for parameter in module.parameters()}
        if self.value_head is not None:
            known |= {id(parameter): "value_head" for parameter in self.value_head.parameters()}
        return [known.get(id(item), "vector" if item.ndim < 2 else "matrix") for item in self.parameters()]

    def to(self, device: torch.device | str) -> Policy:
        """This policy, moved to `device`."""
        self.model.to(device)
        if self.value_head is not None:
            self.value_head.to(device)
        return self

    def checkpoint_activations(self) -> None:
        """Turn activation checkpointing on: layers keep only their inputs for the backward pass; gradients stay bitwise equal.

        Raises ConfigError if the model has no layers that transformers can checkpoint.
        """
        if not checkpointed_layers(self.model):
            raise ConfigError(
                f"activation_checkpointing=true: transformers cannot checkpoint the layers of {type(self.model).__name__}; "
                "lower micro_batch instead"
            )
        self.forward_settings = replace(self.forward_settings, checkpoints=True)

    def compute_in(self, precision: str) -> None:
        """Compute the model's matrix products in `precision` from now on; weights and log-probabilities stay float32.

        precision: float32 or bfloat16. Raises ConfigError if the policy's device, or the dtype of its weights, forbids it.
        """
        dtype = autocast_dtype(precision, device=self.device, weights=self.dtype)
        self.forward_settings = replace(self.forward_settings, autocast=dtype)
        note = None if dtype is None else slower_note(dtype, self.device)
        if note is not None and note not in self.notes:
            self.notes.append(note)

    def multiply_by(self, matmul: str) -> None:
        """Set the library for float32 matrix products, see rlx.policy.products. Call it when the policy is on its device.

        Raises ConfigError if onednn is requested but not available.
        """
        if uses_onednn(matmul, device=self.device, dtype=self.dtype):
            multiply_by_onednn(self.model)

    @property
    def multiplies_by_onednn(self) -> bool:
        """Whether linear layers use oneDNN where it is faster."""
        return any(isinstance(module, OneDnnLinear) for module in self.model.modules())

    @property
    def is_coarse(self) -> bool:
        """Whether the model computes in 16 bits; log-probabilities then depend on the other rows of a forward pass."""
        return self.forward_settings.autocast is not None or self.dtype in HALF

    def add_value_head(self) -> None:
        """Add a value head, which `token_statistics(requires={"values"})` reads; it starts at 0.

        It is float32 if the model's weights have 16 bits.
        """
        hidden_size = self.model.get_output_embeddings().weight.shape[1]
        dtype = torch.float32 if self.dtype in HALF else self.dtype
        self.value_head = ValueHead(hidden_size).to(self.device, dtype)

    def fingerprint(self) -> str:
        """A hash of weights, architecture and tokenizer: equal fingerprints give equal log-probabilities."""
        if self.adapter is None:
            return fingerprint(self.model, self.tokenizer)
        return self.adapter.start_fingerprint if self._is_start else self.adapter.fingerprint()

    def add_adapter(self, lora: Lora, *, loader: str, arguments: Mapping[str, Any]) -> None:
        """Train a low-rank adapter instead of the weights, which are frozen. loader and arguments: see BaseModel."""
        base = BaseModel(self.name, self.fingerprint(), loader, arguments)
        self.adapter = lora.injected(self.model, base=base)

    def require_trainable(self, *, with_moving_reference: bool = False, merges: bool = False) -> None:
        """Raise ConfigError for settings that an adapter or 4-bit weights do not allow. merges: an export merges the adapter."""
        if with_moving_reference and self.adapter is not None:
            raise ConfigError(
                "a loss whose reference moves (loss=tr_dpo) needs a reference with weights of its own, but with policy/adapter "
                "the reference shares the policy's weights; leave out policy/adapter, or choose another loss"
            )
        if self.is_quantized and self.adapter is None:
            raise ConfigError("weights under policy.quantization cannot be trained; add policy/adapter=lora")
        if self.is_quantized and merges:
            raise ConfigError(
                "export.merge=true would add the adapter to weights in 4 bits, and rounding would erase it; leave it out and "
                "merge the adapter into the base model in 16 bits with peft's merge_and_unload"
            )

    def frozen_copy(self) -> Policy:
        """A policy with the same weights that shares no tensor with this one and has no gradient."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model).requires_grad_(False)
        twin.adapter = None if self.adapter is None else self.adapter.of(twin.model)
        twin.value_head = None
        twin.notes = []
        return twin

    def start(self) -> Policy:
        """The current policy, frozen: a copy, or the shared base if only an adapter is trained.

        A fresh adapter is switched off; a previously trained one is kept as a second, frozen adapter.
        """
        if self.adapter is None:
            return self.frozen_copy()
        self.adapter.freeze_start()
        twin = copy.copy(self)
        twin.value_head, twin.notes, twin._is_start = None, [], True
        return twin

    def _weights(self) -> AbstractContextManager[None]:
        """The context for a forward pass with this policy's weights.

        A model sharded over ranks waits here for the other ranks, before any context of the pass is entered.
        """
        getattr(self.model, ANNOUNCE, lambda: None)()
        return self.adapter.start() if self._is_start and self.adapter is not None else nullcontext()

    # ---- text ------------------------------------------------------------------------------------------------------------------

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a completion; the tokenizer's own first."""
        return self.text.end_ids

    def decode(self, tokens: Tokens | Sequence[int]) -> str:
        """The text of `tokens`, without special tokens."""
        return str(self.tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=True))

    # ---- log-probabilities -----------------------------------------------------------------------------------------------------

    def token_logprobs(self, sequences: Sequences, *, temperature: float = 1.0) -> Tensor:
        """[P, G, T] log-probability of each completion token, 0 outside of the completion mask."""
        return self.token_statistics(sequences, temperature=temperature).token_logprobs

    def token_statistics(
        self,
        sequences: Sequences,
        *,
        temperature: float = 1.0,
        requires: frozenset[str] = NO_STATISTICS,
        reference: HasLogits | None = None,
    ) -> TokenStatistics:
        """Statistics of each completion token under log_softmax(logits / temperature), in float32 (float64 if the model is).

        requires: names of further fields of TokenStatistics; other names are ignored. The KLs need the reference.
        Raises ConfigError for a non-positive temperature, or if values are required without a value head.
        """
        if temperature <= 0:
            raise ConfigError(f"a temperature of {temperature} gives no distribution; use a positive one")
        mask = sequences.completion_mask.to(self.device)
        names = sorted(requires & DISTRIBUTION_STATISTICS)
        if not mask.any():
            empty = torch.zeros(mask.shape, device=self.device, requires_grad=torch.is_grad_enabled())
            return TokenStatistics(empty, **{name: empty.detach() for name in (*names, *(requires & {"values"}))})
        layout = self.layout(sequences)
        if self.computes_in_pieces(layout) and (reference is None or hasattr(reference, "head_input")):
            return self._statistics_in_pieces(layout, sequences, temperature, names, requires, reference)
        hidden: list[Tensor] | None = [] if "values" in requires else None
        logits = self.completion_logits(layout, hidden=hidden)
        values = None if hidden is None else unflatten(self._values(hidden[0]), mask)
        if temperature != 1.0:
            logits = logits / temperature
        if not names:
            return TokenStatistics(unflatten(-F.cross_entropy(logits, layout.targets, reduction="none"), mask), values=values)
        theirs = None
        if reference is not None:
            with torch.no_grad():
                theirs = F.log_softmax(reference.logits(sequences) / temperature, dim=-1)
        found = statistics_of(F.log_softmax(logits, dim=-1), layout.targets, mask, names=names, reference=theirs)
        return found if values is None else replace(found, values=values)

    def _statistics_in_pieces(
        self,
        layout: Layout,
        sequences: Sequences,
        temperature: float,
        names: Sequence[str],
        requires: frozenset[str],
        reference: HasLogits | None,
    ) -> TokenStatistics:
        """Like token_statistics, for logits that are too large to compute at once."""
        mask = sequences.completion_mask.to(self.device)
        with self._weights():
            given = head_input(self.model, layout, settings=self.forward_settings)
        theirs = None if reference is None or not names else reference.head_input(sequences)
        found = statistics_in_pieces(given, layout.targets, names=names, temperature=temperature, reference=theirs)
        if "values" in requires:
            found["values"] = self._values(given.hidden)
        return TokenStatistics(**{name: unflatten(values, mask) for name, values in found.items()})

    def _values(self, hidden: Tensor) -> Tensor:
        if self.value_head is None:
            raise ConfigError(f"{self.name} has no value head; an algorithm that reads values declares Need.VALUES")
        return self.value_head(hidden)

    def pair_logprobs(
        self, batch: PairBatch, requires: frozenset[str] = NO_STATISTICS, *, reference: HasLogits | None = None
    ) -> PairLogprobs:
        """Token log-probabilities of a batch of pairs, and the inputs in `requires`; vocabulary_kl needs the reference."""
        wanted = requires | {"kl_from_reference"} if "vocabulary_kl" in requires else requires
        statistics = self.token_statistics(batch.sequences, requires=wanted, reference=reference)
        mismatched = self.mismatched_logprobs(batch) if "mismatched" in requires else None
        return pair_logprobs_of(batch, statistics, requires, mismatched=mismatched)

    def mismatched_logprobs(self, batch: PairBatch) -> Tensor:
        """[B, 2] log-probabilities of another pair's completions after each row's prompt, without a gradient."""
        with torch.no_grad():
            return Policy.token_statistics(self, batch.mismatched).token_logprobs.sum(dim=-1)

    def logits(self, sequences: Sequences) -> Tensor:
        """[N, V] logits that predict each completion token, in the order of the completion mask."""
        return self.completion_logits(self.layout(sequences))

    def layout(self, sequences: Sequences) -> Layout:
        """The rows of the forward pass, on the policy's device."""
        if self.forward_choice.shared_prefix:
            branch_cost = self._branch_cost if self.forward_choice.branched else None
            rows = cheapest_rows(sequences, attention_cost=self._attention_cost, branch_cost=branch_cost)
        else:
            rows = plain_rows(sequences)
        return rows if self.device.type == "cpu" else rows.to(self.device)

    def completion_logits(self, layout: Layout, *, hidden: list[Tensor] | None = None) -> Tensor:
        """[N, V] logits of each completion token, in float32 (float64 if the model is); hidden: see rlx.policy.forward."""
        with self._weights():
            return completion_logits(
                self.model,
                layout,
                gathers_before_head=self.forward_choice.gathers_before_head,
                hidden=hidden,
                settings=self.forward_settings,
            )

    def head_input(self, sequences: Sequences) -> HeadInput:
        """The input of the LM head for each completion token, for computing logits in pieces."""
        with self._weights():
            return head_input(self.model, self.layout(sequences), settings=self.forward_settings)

    def computes_in_pieces(self, layout: Layout) -> bool:
        """Whether logits of these rows are computed in pieces; never for a sharded model, whose head runs only in its passes."""
        if hasattr(self.model, ANNOUNCE):
            return False
        linear = self.forward_choice.linear_head and is_linear(self.model.get_output_embeddings())
        return linear and is_large(len(layout.targets), self.vocabulary_size)


# Fields of a model's configuration that describe its origin or how it is run, not what it computes.
_NOT_ARCHITECTURE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}


def fingerprint(model: Any, tokenizer: Any) -> str:
    """32 hexadecimal digits that identify the weights, the architecture and the tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_ARCHITECTURE}
    digest.update(json.dumps([type(model).__name__, config], sort_keys=True, default=str).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(tokenizer_text(tokenizer).encode())
    return digest.hexdigest()
