"""The embedded policy: a Llama with fewer than 1 M parameters that reads and writes single characters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch

from rlx.data.tokens import TextEncoder
from rlx.errors import ConfigError
from rlx.fields import count
from rlx.policy.adapter import Lora
from rlx.policy.base import Policy
from rlx.seeding import Stream

CHECKPOINT = Path(__file__).parent / "checkpoint"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
MOST_LAYERS = 4096
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")


def load_tiny(
    *,
    chat_template: str = "auto",
    max_length: Annotated[int | None, count(optional=True)] = None,
    max_prompt_length: Annotated[int | None, count(optional=True)] = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    adapter: Lora | None = None,
) -> Policy:
    """The checkpoint that ships with rlx, in float32. adapter: trained instead of the weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlx.policy.files import quiet

    if not (CHECKPOINT / "model.safetensors").is_file():
        raise ConfigError(f"rlx was installed without its checkpoint in {CHECKPOINT}; reinstall it, or use policy=tiny_untrained")
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, local_files_only=True)
    text = TextEncoder(tokenizer, chat_template, max_length, max_prompt_length, chat_template_kwargs or {})
    policy = Policy(model, tokenizer, name="tiny", text=text)
    if adapter is not None:
        policy.add_adapter(adapter, loader="tiny", arguments={})
    return policy


SHAPE = ("seed", "hidden_size", "intermediate_size", "num_layers", "num_heads", "max_positions")  # of build_tiny


def build_tiny(
    *,
    seed: Annotated[int, count(at_least=0)] = 0,
    hidden_size: Annotated[int, count()] = 128,
    intermediate_size: Annotated[int, count()] = 384,
    num_layers: Annotated[int, count(at_most=MOST_LAYERS)] = 3,
    num_heads: Annotated[int, count()] = 4,
    max_positions: Annotated[int, count()] = 512,
    chat_template: str = "auto",
    max_length: Annotated[int | None, count(optional=True)] = None,
    max_prompt_length: Annotated[int | None, count(optional=True)] = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    adapter: Lora | None = None,
) -> Policy:
    """The same architecture with random weights, determined by `seed`. adapter: trained instead of them."""
    shape = dict(zip(SHAPE, (seed, hidden_size, intermediate_size, num_layers, num_heads, max_positions), strict=True))
    from transformers import LlamaConfig, LlamaForCausalLM

    if hidden_size % num_heads:
        raise ConfigError(f"policy.hidden_size={hidden_size} is not a multiple of policy.num_heads={num_heads}")
    tokenizer = character_tokenizer()
    _require_memory(num_layers * (4 * hidden_size + 3 * intermediate_size) * hidden_size + len(tokenizer) * hidden_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws the initial weights from torch's global generator
        model = LlamaForCausalLM(config)
    _initialise(model, Stream(seed, ("policy", "tiny")).torch())
    text = TextEncoder(tokenizer, chat_template, max_length, max_prompt_length, chat_template_kwargs or {})
    policy = Policy(model, tokenizer, name="tiny_untrained", text=text)
    if adapter is not None:
        policy.add_adapter(adapter, loader="tiny_untrained", arguments=shape)
    return policy


def _require_memory(num_parameters: int) -> None:
    """Raise an error if the float32 weights exceed this machine's memory, if that is known."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else 0
    if 0 < memory < 4 * num_parameters:
        raise ConfigError(
            f"policy=tiny_untrained of this size has {num_parameters:.3g} parameters, {4 * num_parameters / 2**30:.3g} GiB, and "
            f"this machine has {memory / 2**30:.3g} GiB of memory; lower policy.num_layers or policy.hidden_size"
        )


def character_tokenizer() -> Any:
    """A fast tokenizer of single characters: printable ASCII and the line break; others become question marks."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.normalizer = normalizers.Replace(Regex(r"[^\n -~]"), "?")
    backend.decoder = decoders.Fuse()
    pad, bos, eos = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


def save_tiny(policy: Policy, directory: Path) -> None:
    """Write `policy` as a transformers directory with float16 weights."""
    import copy

    directory.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(policy.model).half().save_pretrained(directory)
    policy.tokenizer.save_pretrained(directory)


def _initialise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Initialise as GPT-2: normal matrices, deviation 0.02, smaller by depth if they write to the residual stream; gains 1."""
    layers = sum(name.endswith("down_proj.weight") for name, _ in model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            parameter.normal_(0.0, 0.02 / (2 * layers) ** 0.5 if writes else 0.02, generator=generator)
