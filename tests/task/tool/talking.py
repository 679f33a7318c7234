"""Policies whose templates know tools, and a sampler that says what it is told to."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlx.data.tokens import TextEncoder
from rlx.policy.base import Policy
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Sampler
from tests.data.test_conversation import tokenizer_of

TEMPLATES = Path(__file__).parent / "template"
# family: its tokens, its template (None: that of the family), special tokens beside
FAMILIES: dict[str, tuple[str, str | None, list[str]]] = {
    "qwen2_5": ("qwen2_5", None, []),
    "llama3": ("llama3", "llama3_tools", ["<|python_tag|>"]),
    "mistral": ("mistral", "mistral_tools", ["[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]),
}


@functools.cache
def policy_of(family: str, template: str | None = None) -> Policy:
    """A random model that often ends a turn, with a family's tokens and a template that knows tools."""
    tokens, own, more = FAMILIES.get(family, (family, None, []))
    text = template if template is not None else None if own is None else (TEMPLATES / f"{own}.jinja").read_text()
    tokenizer = copy.deepcopy(tokenizer_of(tokens, text))
    if more:
        tokenizer.add_tokens(more, special_tokens=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=3000, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    policy = Policy(LlamaForCausalLM(config), tokenizer, name=family, text=TextEncoder(tokenizer))
    with torch.no_grad():
        policy.model.lm_head.weight[list(policy.eos_token_ids)] *= 3
    return policy


@dataclass(frozen=True, kw_only=True)
class Scripted(Sampler):
    """Says the texts of a script in turn, each with the token that ends a turn; what it sampled has log-probability -1."""

    script: tuple[str, ...] = ()
    said: tuple[int, ...] = (0,)

    @staticmethod
    def of(*script: str) -> Scripted:
        return Scripted(
            temperature=1.0, top_k=None, top_p=None, min_p=None, stop=(), max_new_tokens=None, script=script, said=(0,)
        )

    @property
    def in_process(self) -> Any:
        return self

    def prepare(self, policy: Policy) -> None: ...

    def complete(self, policy: Policy, draw: Any) -> Completions:
        turn = self.said[0]
        object.__setattr__(self, "said", (turn + 1,))
        end = policy.text.turn_end_id if policy.text.turn_end_id is not None else policy.eos_token_ids[0]
        tokens = np.array([*policy.tokenizer(self.script[turn], add_special_tokens=False)["input_ids"], end], dtype=np.int64)
        count = len(draw.keys)
        rows = np.tile(tokens, (count, 1))
        return replace(
            Completions.empty(count, len(tokens)),
            tokens=rows, lengths=np.full(count, len(tokens)), logprobs=np.full(rows.shape, -1.0, dtype=np.float32),
            finished=np.ones(count, dtype=bool),
        )  # fmt: skip
