"""A reward model: a transformers sequence classifier that reads prompt and completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlx.errors import ConfigError
from rlx.fields import count, one_of
from rlx.task.base import Prompt, Text
from rlx.task.reward.base import Reward

TEMPLATES = ("auto", "chat", "plain", "pair")


@dataclass(frozen=True, kw_only=True)
class RewardModel(Reward):
    """The logit of a classifier for prompt and completion. It is loaded at the first call and runs in this process.

    path: a directory, or a name on the Hugging Face hub.
    label: the output whose logit is the reward, by name or index; null for a model with one output.
    template: how prompt and completion become its input. chat: its chat template, as user and assistant; plain: concatenated;
    pair: two texts, which its tokenizer joins; auto: chat if it has a chat template, else plain.
    max_length: longest input in tokens; longer ones lose their beginning; null: the model's positions.
    batch_size: texts per forward pass. device: auto (a GPU if there is one), cpu, cuda, cuda:N.
    """

    path: str
    label: str | int | None
    template: str = one_of(TEMPLATES)
    max_length: int | None = count(optional=True)
    batch_size: int = count()
    device: str

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        return float(self.score_all([(Prompt(prompt, columns), completion)])[0])

    def score_all(self, samples: Sequence[tuple[Prompt, str]]) -> list[Any]:
        """The logits in the order of the samples; samples of similar length share a batch."""
        model, tokenizer, place = self._loaded
        rows = [self._encoded(tokenizer, prompt.text, completion, model) for prompt, completion in samples]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
        values: list[Any] = [None] * len(rows)
        for first in range(0, len(order), self.batch_size):
            taken = order[first : first + self.batch_size]
            for row, value in zip(taken, self._logits(model, tokenizer, [rows[row] for row in taken], place), strict=True):
                values[row] = value
        return values

    @cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        """(model, tokenizer, index of the output)."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                self.path, output_loading_info=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        except Exception as error:  # readers raise various types for damaged files
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise ConfigError(f"task.rewards: no sequence classifier can be loaded from {self.path}: {first}") from error
        finally:
            logging.set_verbosity(verbosity)
        missing = sorted(report["missing_keys"])
        if missing:
            raise ConfigError(
                f"task.rewards: the weights in {self.path} lack {', '.join(missing[:3])} of {type(model).__name__}, so its "
                "values would be random; give a model that was trained as a reward model"
            )
        wanted = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return model.eval().requires_grad_(False).to(wanted), tokenizer, self._place(model.config)

    def _place(self, config: Any) -> int:
        names = {int(place): str(name) for place, name in config.id2label.items()}
        if self.label is None:
            if len(names) == 1:
                return 0
            raise ConfigError(
                f"task.rewards: {self.path} has the outputs {', '.join(names.values())}; say which one with label=..."
            )
        places = [place for place, name in names.items() if self.label in (place, name)]
        if not places:
            raise ConfigError(f"task.rewards: {self.path} has no output {self.label}, only {', '.join(names.values())}")
        return places[0]

    def _encoded(self, tokenizer: Any, prompt: Text, completion: str, model: Any) -> dict[str, list[int]]:
        """The tokens of prompt and completion; only the last ones if there are too many."""
        chat = self.template == "chat" or (self.template == "auto" and tokenizer.chat_template is not None)
        if chat:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            text = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": completion}], tokenize=False)
            encoded = tokenizer(text, add_special_tokens=False)
        else:
            before = prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)
            encoded = tokenizer(before, completion) if self.template == "pair" else tokenizer(before + completion)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limit = self.max_length if self.max_length is not None else positions if isinstance(positions, int) else None
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
        return {name: list(encoded[name])[-limit if limit else None :] for name in names}

    def _logits(self, model: Any, tokenizer: Any, rows: Sequence[dict[str, list[int]]], place: int) -> list[float]:
        """One logit per row. Rows are padded on the right, as a causal classifier finds the last token by the padding token."""
        import torch

        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else model.config.pad_token_id
        if padding is None:
            if len(rows) > 1:  # without a padding token the model cannot find the end of a text
                return [value for row in rows for value in self._logits(model, tokenizer, [row], place)]
            padding = 0
        elif model.config.pad_token_id is None:
            model.config.pad_token_id = padding
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": padding, "attention_mask": 0, "token_type_ids": 0}
        batch = {
            name: torch.tensor([row[name] + [fill[name]] * (width - len(row[name])) for row in rows], device=model.device)
            for name in rows[0]
        }
        with torch.no_grad():
            return [float(value) for value in model(**batch).logits[:, place].float().cpu()]
