"""The files of a model: a directory, a run of rlx, a GGUF file, or a name on the Hugging Face hub.

A model from a GGUF file is unpacked once and cached as a directory that later runs read.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import transformers

from rlx.client import hub_unreached
from rlx.data.stores import TensorStore
from rlx.data.tokenizer import tokenizer_text
from rlx.errors import ConfigError
from rlx.policy.adapter import ADAPTER_CONFIG
from rlx.policy.reader import Outline

_WRITTEN = "unpacked.json"  # file names and sizes of an unpacked model
_PARTS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")  # of a model
_CHAT = re.compile(r"(^|[-_.])(chat|instruct|it)($|[-_.])", re.IGNORECASE)  # in the names of chat models


def lacking_parts(source: str, path: str, tokenizer: Any) -> list[str]:
    """A note for a model whose files do not say how it ends texts or formats conversations."""
    name, template = Path(path).name, getattr(tokenizer, "chat_template", None)
    config = Path(source, "tokenizer_config.json")
    if Path(source).is_dir() and not config.is_file() and not list(Path(source).glob("*.gguf")):
        said = (
            f"{path} has no {config.name}: texts end with {tokenizer.eos_token or 'no token'}, and conversations have "
            f"{'no' if template is None else 'a'} chat template; copy it (and chat_template.jinja, special_tokens_map.json) from "
            "where the model comes from"
        )
        return [said]
    if template is None and _CHAT.search(name):
        said = (
            f"{path} has the name of a chat model but no chat template: conversations are written in rlx's plain form; copy "
            "chat_template.jinja from where the model comes from, or give policy.chat_template=FILE"
        )
        return [said]
    return []


def require_parts(directory: Path) -> None:
    """Raise ConfigError for a file that transformers would ignore: a broken link, a pipe, or one that is not a JSON object."""
    for file in (directory / name for name in _PARTS if os.path.lexists(directory / name)):
        try:
            text = file.read_text(encoding="utf-8") if file.is_file() else None
            is_right = text is not None and (file.suffix != ".json" or isinstance(json.loads(text), dict))
            problem = "" if is_right else "there is no such file" if text is None else "it is not a JSON object"
        except (OSError, ValueError, RecursionError) as error:
            problem = str(error)
        if problem:
            raise ConfigError(f"{file} cannot be read: {problem}; put it back, or delete it if the model has none")


def locate_model(path: str, gguf_file: str | None = None) -> tuple[str, str | None]:
    """The directory or hub name that transformers reads, and the GGUF file in it, if any.

    Raises ConfigError for a path that does not exist, naming the nearest one that does.
    """
    try:
        return _located(path, gguf_file)
    except PermissionError as error:
        raise ConfigError(f"policy.path={path} cannot be read: {error.strerror}; make it readable") from error
    except OSError as error:  # a name that is too long
        raise ConfigError(f"policy.path={path:.80} cannot be read: {error.strerror}") from error


def _located(path: str, gguf_file: str | None) -> tuple[str, str | None]:
    if not path.strip():
        raise ConfigError("policy.path names no model; give a directory, a name on the Hugging Face hub, or a GGUF file")
    local = Path(path).expanduser()
    if local.is_file():
        if local.suffix != ".gguf":
            raise ConfigError(f"policy.path={path} is a file, but not a GGUF file; give the directory that holds config.json")
        return str(local.parent), local.name
    if local.is_dir():
        if gguf_file is not None and not (local / gguf_file).is_file():
            raise ConfigError(f"policy.gguf_file={gguf_file} is not in {local}{nearest_model(local / gguf_file)}")
        return str(local if gguf_file else _model_directory(local)), gguf_file
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith(".gguf"):
        raise ConfigError(f"policy.path={path} does not exist{nearest_model(local)}")
    return path, gguf_file


def _model_directory(directory: Path) -> Path:
    """The directory itself, or the last checkpoint if it is a run of rlx."""
    if (directory / "config.json").is_file():
        return directory
    checkpoint = _last_checkpoint(directory, "config.json")
    if checkpoint is not None:
        return checkpoint
    files = sorted(file.name for file in directory.glob("*.gguf"))
    if files:
        raise ConfigError(f"{directory} holds GGUF files; choose one of them: policy.path={directory / files[0]}")
    if (directory / "run.json").is_file():
        raise ConfigError(f"policy.path={directory} is a run without a checkpoint (it writes one when it ends); name another run")
    raise ConfigError(f"{directory} has no config.json, so it is not a model directory of transformers")


def adapter_directory(path: str) -> Path | None:
    """The directory of an adapter: `path` itself, or the last checkpoint of a run of rlx; None if it holds no adapter."""
    local = Path(path).expanduser()
    if not os.path.isdir(local) or (local / "config.json").is_file():  # os.path does not raise for names that are too long
        return None
    if (local / ADAPTER_CONFIG).is_file():
        return local
    return _last_checkpoint(local, ADAPTER_CONFIG)


def _last_checkpoint(run: Path, holds: str) -> Path | None:
    """The last checkpoint of a run that contains a file of that name."""
    checkpoints = [entry for entry in run.glob("checkpoint/step_*") if (entry / holds).is_file()]
    return max(checkpoints, key=lambda entry: int(entry.name.removeprefix("step_")), default=None)


def nearest_model(path: Path) -> str:
    """A hint for an error message: the directory or GGUF file beside `path` with the most similar name; "" if there is none."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    entries = parent.iterdir() if parent.is_dir() else ()
    names = [entry.name for entry in entries if entry.suffix == ".gguf" or entry.is_dir()]
    close = get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean {parent / close[0]}?" if close else ""


def require_hub(path: str) -> None:
    """Raise ConfigError immediately if the hub does not answer: its client would retry for a long time."""
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(path, "config.json"), str):
        return
    if unreached := hub_unreached():
        raise ConfigError(
            f"policy.path={path} is not a directory here{nearest_model(Path(path))}, and the Hugging Face hub cannot be reached "
            f"({unreached}); download the model elsewhere and give its directory"
        )


Read = Callable[[str | Path, str | None], tuple[Any, Any]]  # directory, GGUF file in it or None -> model, tokenizer

_log = logging.getLogger("rlx")


def as_ordinary(model: Any, gguf_file: str) -> None:
    """Make a model read from a GGUF file trainable and savable; its weights are already unpacked."""
    if any(not weight.is_floating_point() for name, weight in model.state_dict().items() if name.endswith("weight")):
        raise ConfigError(
            f"the package kernels leaves the weights of {gguf_file} packed, so they cannot be trained; uninstall it"
        )
    model.hf_quantizer = None  # transformers refuses to save a model that has one
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def unpacked_once(file: Path, folder: Path, read: Read, *, kind: str) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, cached below `folder` as a transformers directory that later runs read instead.

    read: reads either form. kind: how the file is read, such as the dtype of the weights. The directory is named after the
    content of the file. If several processes need it at the same time, one of them unpacks it. A directory with a missing file,
    or one of a different size than was written, is unpacked again with a warning.
    """
    name = _name(file, kind)
    place = folder / name
    with TensorStore(folder, "unpacked models").claim(name, wait=True):
        gone = _gone(place)
        if gone:
            if place.is_dir():
                _log.warning("%s of the unpacked model in %s is missing or cut; it is unpacked again", gone, place)
            model, tokenizer = read(file.parent, file.name)
            _keep(model, tokenizer, place, read)
            return model, tokenizer
    try:
        return read(place, None)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; {file} was unpacked into {place}: delete this directory, and it is unpacked again"
        ) from error


def _gone(place: Path) -> str:
    """The first file of an unpacked model that is missing or has another size; "" if there is none."""
    try:
        written: dict[str, int] = json.loads((place / _WRITTEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _WRITTEN
    sizes = {name: (place / name).stat().st_size for name in written if (place / name).is_file()}
    return next((name for name, size in written.items() if sizes.get(name) != size), "")


def _name(file: Path, kind: str) -> str:
    digest = hashlib.blake2b(f"{transformers.__version__} {kind}".encode(), digest_size=16)
    with file.open("rb") as content:
        while block := content.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _keep(model: Any, tokenizer: Any, place: Path, read: Read) -> None:
    """Write the directory completely or not at all; keep nothing if the tokenizer would be read back differently."""
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        tokenizer.save_pretrained(temporary)
        if isinstance(model, Outline):
            model.save_pretrained(temporary)
            outline, again = read(temporary, None)
            if outline.limits() != model.limits():
                return
        else:
            again = transformers.AutoTokenizer.from_pretrained(str(temporary))
        if type(again) is not type(tokenizer) or tokenizer_text(again) != tokenizer_text(tokenizer):
            _log.warning("the unpacked model is not kept: its tokenizer would be read back differently; every run unpacks it")
            return
        if not isinstance(model, Outline):
            model.save_pretrained(temporary)
        written = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        (temporary / _WRITTEN).write_text(json.dumps(written), encoding="utf-8")
        if place.exists():
            shutil.rmtree(place)
        os.rename(temporary, place)
    except OSError as error:
        _log.warning("the unpacked model cannot be kept in %s (%s); every run unpacks it", place.parent, error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers while files are read; rlx checks and reports what matters."""
    from transformers.utils import logging as remarks

    verbosity = remarks.get_verbosity()
    remarks.set_verbosity(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        remarks.set_verbosity(verbosity)
