"""Models from GGUF files: ordinary models once they are unpacked, which is slow and need be done only once."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from rlx.data.tensor_store import TensorStore
from rlx.data.tokens import tokenizer_text
from rlx.errors import ConfigError

Read = Callable[[Path, str | None], tuple[Any, Any]]  # directory, GGUF file in it or None -> model, tokenizer

_log = logging.getLogger("rlx")


def as_ordinary(model: Any, gguf_file: str) -> None:
    """Makes a model read from a GGUF file an ordinary one: its weights were unpacked on the way, it can be trained and saved."""
    if any(not weight.is_floating_point() for name, weight in model.state_dict().items() if name.endswith("weight")):
        raise ConfigError(f"the weights of {gguf_file} stay packed here and cannot be trained; uninstall the package kernels")
    model.hf_quantizer = None  # transformers refuses to save what has one
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def unpacked_once(file: Path, folder: Path, read: Read, *, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, kept below `folder` as a directory of transformers that later runs read instead.

    read: reads either form. The directory is named by the content of the file; processes that want it at once unpack it once.
    """
    name = _name(file, dtype)
    place = folder / name
    with TensorStore(folder, "unpacked models").claim(name, wait=True):
        if not (place / "config.json").is_file():
            model, tokenizer = read(file.parent, file.name)
            _keep(model, tokenizer, place)
            return model, tokenizer
    return read(place, None)


def _name(file: Path, dtype: str) -> str:
    digest = hashlib.blake2b(f"{transformers.__version__} {dtype}".encode(), digest_size=16)
    with file.open("rb") as content:
        while block := content.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _keep(model: Any, tokenizer: Any, place: Path) -> None:
    """Write the directory whole or not at all; nothing is kept where the tokenizer would come back as another."""
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        tokenizer.save_pretrained(temporary)
        again = transformers.AutoTokenizer.from_pretrained(str(temporary))
        if tokenizer_text(again) != tokenizer_text(tokenizer):
            _log.warning("the unpacked model is not kept: its tokenizer would come back as another; every run unpacks it")
            return
        model.save_pretrained(temporary)
        os.rename(temporary, place)
    except OSError as error:
        _log.warning("the unpacked model cannot be kept in %s (%s); every run unpacks it", place.parent, error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
