"""Small random models of several architectures, and a policy's face around them without a tokenizer."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import transformers

from rlx.data.sequences import Sequences
from rlx.policy.forward import ForwardSettings
from rlx.policy.statistics import TokenStatistics
from rlx.rollout.transformers import TransformersSampler
from rlx.seeding import Stream
from rlx.task.base import Prompt, Task

VOCABULARY = 41
COMMON = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def config_of(architecture: str, **changes: Any) -> Any:
    """A small config of one of the architectures below."""
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    bloom = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
    mamba = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "llama": (transformers.LlamaConfig, WIDTHS),
        "gpt2": (transformers.GPT2Config, gpt2),
        "qwen2": (transformers.Qwen2Config, {**WIDTHS, "num_key_value_heads": 2}),
        "mistral": (transformers.MistralConfig, {**WIDTHS, "num_key_value_heads": 2, "sliding_window": 5}),
        "bloom": (transformers.BloomConfig, bloom),
        "mamba": (transformers.MambaConfig, mamba),
    }
    kind, widths = kinds[architecture]
    return kind(**{**COMMON, **widths, **changes})


def model_of(architecture: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config_of(architecture, **changes)).eval()


class StandIn:
    """A policy whose tokens read as letters: 0 is "a", and so on."""

    def __init__(self, model: Any, *, eos: tuple[int, ...] = (1,)) -> None:
        self.model = model
        self.eos_token_ids = eos
        self.notes: list[str] = []
        self.name = "stand_in"
        self.max_length = getattr(model.config, "max_position_embeddings", None)
        self.vocabulary_size = model.config.vocab_size
        self.adapter = None
        self.forward_settings = ForwardSettings()

    is_coarse = False

    def frozen_copy(self) -> StandIn:
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        return twin

    def encode_prompt(self, prompt: str, tools: tuple = ()) -> np.ndarray:
        return np.array([ord(letter) - ord("a") for letter in prompt], dtype=np.int64)

    def decode(self, tokens: Any) -> str:
        return "".join(chr(ord("a") + int(token)) for token in tokens if token not in self.eos_token_ids)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def token_statistics(self, sequences: Sequences, *, temperature: float = 1.0, requires: Any = frozenset()) -> TokenStatistics:
        found = torch.zeros(sequences.token_mask.shape)
        entropy = torch.zeros(sequences.token_mask.shape)
        for row, prompt in enumerate(sequences.prompts):
            for column, completion in enumerate(sequences.completions[row]):
                exact = exact_logprobs(self.model, np.concatenate([prompt, completion]), temperature=temperature)[
                    len(prompt) - 1 : -1
                ]
                found[row, column, : len(completion)] = exact.gather(1, torch.from_numpy(completion)[:, None])[:, 0]
                entropy[row, column, : len(completion)] = -(exact * exact.exp()).sum(dim=-1)
        return TokenStatistics(found, entropy=entropy)


def sampler_of(**changes: Any) -> TransformersSampler:
    """The settings of conf/rollout/transformers.yaml, with changes."""
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "stop": (),
        "max_new_tokens": 8,
        "batch_tokens": 100_000,
    }
    return TransformersSampler(**{**settings, **changes})


def prompts_of(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    """Random prompts without special tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(2, VOCABULARY, size=length) for length in lengths]


def exact_logprobs(model: Any, tokens: np.ndarray, *, temperature: float = 1.0) -> torch.Tensor:
    """[T, V] log-probabilities of what follows each token, by a forward of this sequence alone without a cache."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(np.asarray(tokens))[None], use_cache=False).logits[0]
    return torch.log_softmax(logits.double() / temperature, dim=-1)


class Letters(Task):
    """Rewards a completion for its letters: 1 for each of the good ones, so that random completions differ."""

    offers: ClassVar[frozenset[str]] = frozenset({"rewards"})
    score: ClassVar[str] = "accuracy"

    def prompts(self) -> list[Prompt]:
        return [Prompt(text, {"good": "cdefghijklmnop"}) for text in ("bcd", "q", "hello", "za", "mmmm")]

    def reward(self, prompt: Prompt, completion: str) -> dict[str, float]:
        good = float(sum(letter in prompt.columns["good"] for letter in completion))
        return {"reward": good - 0.5 * len(completion), "good": good, "length": float(len(completion))}


@dataclass(frozen=True)
class Bench:
    """What rollouts are drawn from."""

    policy: Any
    sampler: Any = field(default_factory=sampler_of)
    task: Task = field(default_factory=lambda: Letters(name="letters", max_new_tokens=6))
    step: int = 0
    rng: Stream = field(default_factory=lambda: Stream(0))
