"""The text reader of a policy: the tokenizer with the limits and end tokens from the model's files. It needs no weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.data.sequences import Tokens
from rlx.data.tokenized import PairTokenizer
from rlx.data.tokens import TextEncoder
from rlx.policy.forward import max_positions, vocabulary_size

if TYPE_CHECKING:
    from rlx.task.base import Text


# Argument for every transformers load: never run code shipped with a model, and never ask the user whether to.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}


class Reader:
    """How text becomes tokens for a model.

    model: a model, or an `Outline` of one. text: how text becomes tokens; the model's end tokens are added to it.
    pair_tokenizer: tokenises the pairs of a task for this model.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, text: TextEncoder | None = None) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.text = (TextEncoder(tokenizer) if text is None else text).for_model(model)
        self.pair_tokenizer = PairTokenizer(
            self.text, name=name, max_length=max_positions(model), vocabulary_size=vocabulary_size(model)
        )

    def encode_prompt(self, prompt: Text, tools: Sequence[Any] = ()) -> Tokens:
        """int64 [T], at least one token. tools: the tool schemas of the prompt."""
        return self.text.encode_prompt(prompt, tools)


@dataclass(frozen=True)
class Outline:
    """A model without its weights: its configuration and generation settings."""

    config: Any
    generation_config: Any

    @staticmethod
    def of(source: str | Path, gguf_file: str | None = None) -> Outline:
        """Read a directory, a GGUF file in it, or a name on the hub; the settings are those that transformers would use."""
        from transformers import AutoConfig, GenerationConfig

        if gguf_file is not None:
            config = AutoConfig.from_pretrained(str(source), gguf_file=gguf_file, **NO_CODE)
            return Outline(config, GenerationConfig.from_model_config(config))
        config = AutoConfig.from_pretrained(str(source), **NO_CODE)
        try:
            generation = GenerationConfig.from_pretrained(str(source))
        except OSError:
            generation = GenerationConfig.from_pretrained(str(source), config_file_name="config.json", _from_model_config=True)
        return Outline(config, generation)

    @staticmethod
    def kept(directory: Path) -> Outline:
        """Read a directory that `save_pretrained` wrote.

        Does not import the configuration's class, which would load modules of transformers and torch for a second.
        """
        from transformers import GenerationConfig, PreTrainedConfig

        said = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        config = PreTrainedConfig.from_dict(said)
        config.model_type = said["model_type"]  # type: ignore[misc]  # by which transformers chooses the tokenizer's class
        return Outline(config, GenerationConfig.from_pretrained(directory))

    def limits(self) -> tuple[int | None, int, Any]:
        """The facts that a Reader needs: positions, vocabulary size and the tokens that end a completion."""
        return max_positions(self), vocabulary_size(self), self.generation_config.eos_token_id

    def save_pretrained(self, directory: Path) -> None:
        """Write it as a transformers directory."""
        self.config.save_pretrained(directory)
        self.generation_config.save_pretrained(directory)
