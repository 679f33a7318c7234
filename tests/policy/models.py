"""Small random models of many architectures, and sequences for them."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import torch
import transformers

from rlx.data.sequences import Sequences
from rlx.policy.base import Policy
from rlx.policy.tiny import character_tokenizer

VOCABULARY = 99
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2Config", {**_GROUPED, "tie_word_embeddings": True}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "gemma2_full": (
        "Gemma2Config",
        {**_GROUPED, "head_dim": 8, "layer_types": ["full_attention"] * 2, "final_logit_softcapping": 0.5},
    ),
    "mistral_window": ("MistralConfig", {**_GROUPED, "sliding_window": 16}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2}),
    "bert": ("BertConfig", _SIZES),
}


def model_of(architecture: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A random model; transformers' remarks about it (slow kernels and the like) are kept quiet."""
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    name, settings = ARCHITECTURES[architecture]
    config = getattr(transformers, name)(vocab_size=VOCABULARY, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # far from the nearly uniform predictions of usual initial weights
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.to(dtype)


def policy_of(architecture: str, *, dtype: torch.dtype = torch.float32, **settings: Any) -> Policy:
    """A policy with a random model and the character tokenizer."""
    return Policy(model_of(architecture, dtype=dtype), tokenizer(), name=architecture, **settings)


@functools.cache
def tokenizer() -> Any:
    return character_tokenizer()


def sequences_of(
    *, num_prompts: int = 5, group_size: int = 3, seed: int = 0, num_tokens: int = VOCABULARY, longest: int = 9
) -> Sequences:
    """Random sequences; completions of few different tokens often begin alike, and some are empty."""
    draw = np.random.default_rng(seed)
    prompts = tuple(draw.integers(0, num_tokens, draw.integers(1, longest)) for _ in range(num_prompts))
    groups = tuple(
        tuple(draw.integers(0, num_tokens, draw.integers(0, longest)) for _ in range(group_size)) for _ in range(num_prompts)
    )
    return Sequences(prompts, groups)


def naive_logprobs(model: Any, sequences: Sequences) -> torch.Tensor:
    """[P, G, T] one unpadded forward per completion."""
    values = torch.zeros(sequences.completion_mask.shape, dtype=model.dtype)
    for p, (prompt, group) in enumerate(zip(sequences.prompts, sequences.completions, strict=True)):
        for g, completion in enumerate(group):
            tokens = torch.from_numpy(np.concatenate([prompt, completion]))
            logprobs = torch.log_softmax(model(input_ids=tokens[None], use_cache=False).logits[0], dim=-1)
            for t, token in enumerate(completion):
                values[p, g, t] = logprobs[len(prompt) + t - 1, token]
    return values
