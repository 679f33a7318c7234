"""What both sides train: a Llama of random weights, pairs and prompts of random words, a reward; all written to a directory."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Size:
    """A Llama with tied embeddings."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    vocabulary: int


SIZES = {
    "1M": Size(128, 384, 4, 4, 4, 1024),
    "20M": Size(384, 1024, 10, 6, 6, 4096),
    "135M": Size(576, 1536, 30, 9, 3, 49152),  # that of SmolLM2
}


@dataclass(frozen=True)
class Workload:
    """One comparison.

    method: dpo or grpo. prompt_words, completion_words: mean lengths; prompts and the completions of pairs vary by half of it to
    either side. batch: pairs, or completions, of an update. group_size: completions of a prompt. updates: of one round.
    clock: what a round's time is, seconds or cpu_seconds. rank: of a low-rank adapter of all linear layers; 0 trains all weights.
    """

    method: str
    size: str
    prompt_words: int
    completion_words: int
    batch: int
    group_size: int
    updates: int
    rounds: int
    threads: int
    learning_rate: float = 1e-5
    beta: float = 0.1
    clock: str = "seconds"
    rank: int = 0

    @property
    def name(self) -> str:
        """For the table."""
        adapter = f", adapter of rank {self.rank}" if self.rank else ""
        return f"{self.method.upper()}, {self.size} parameters{adapter}, {self.prompt_words}+{self.completion_words} tokens"

    @property
    def pairs(self) -> int:
        """Rows of one round: each round sees every pair, or every prompt, once."""
        return self.updates * self.batch // (1 if self.method == "dpo" else self.group_size)


def even_words(prompt: str, completion: str) -> float:
    """The reward: the share of a completion's words that have an even number."""
    words = completion.split()
    return sum(word[-1] in "02468" for word in words) / max(1, len(words))


def write(workload: Workload, place: Path) -> None:
    """The model, its tokenizer, the data and the workload itself."""
    size = SIZES[workload.size]
    tokenizer = word_tokenizer(size.vocabulary)
    model(size, tokenizer, seed=0).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    rows = with_held_out_last(pairs(workload, size.vocabulary - 3))
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "workload.json").write_text(json.dumps(asdict(workload)))


def read(place: Path) -> Workload:
    """The workload that was written there."""
    return Workload(**json.loads((place / "workload.json").read_text()))


def word_tokenizer(vocabulary: int) -> Any:
    """A fast tokenizer of whole words: `w0 w17 w5`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{number}": number + 3 for number in range(vocabulary - 3)}
    backend = Tokenizer(models.WordLevel(known, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="w0"
    )


def model(size: Size, tokenizer: Any, *, seed: int) -> Any:
    """The model with random weights that `seed` decides."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_key_value_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()


def moved(model: Any, *, seed: int, scale: float = 0.02) -> Any:
    """`model` with noise added to its trained weights: a policy that is not its reference any more."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(model):
            parameter.add_(scale * torch.randn(parameter.shape, generator=noise))
    return model


def trained(model: Any) -> list[Any]:
    """The parameters that are trained, in the order of the model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def pairs(workload: Workload, num_words: int) -> list[dict[str, str]]:
    """Rows with a prompt and two completions of random words; no two prompts are equal."""
    draw = random.Random(0)

    def words(mean: int) -> str:
        return " ".join(f"w{draw.randrange(num_words)}" for _ in range(draw.randint(mean - mean // 2, mean + mean // 2)))

    return [
        {
            "prompt": words(workload.prompt_words),
            "chosen": " " + words(workload.completion_words),
            "rejected": " " + words(workload.completion_words),
        }
        for _ in range(workload.pairs + 1)
    ]


def with_held_out_last(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with the one last that rlx holds out, as it must hold out one: both sides learn from all the others."""
    from rlx.task.base import content_uniform

    last = min(range(len(rows)), key=lambda row: content_uniform(rows[row]["prompt"], salt="held out"))
    return [*rows[:last], *rows[last + 1 :], rows[last]]
