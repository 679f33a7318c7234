"""Data sets of the Hugging Face hub, or in its layout: the files of a name, a configuration and a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.errors import DataError

_REMOTE = "hf://datasets/"
NEEDS = "pip install 'rlx[datasets]'"


def hub_files(name: str, parts: Sequence[str], *, key: str) -> tuple[Path, ...]:
    """The files of a data set, downloaded where they are not here yet.

    name: of the hub, or a directory with the hub's layout. parts: () or (split,) or (configuration,) or (configuration, split).
    Without a split the training split is meant; without a configuration the only one, or the default one.
    Raises DataError where the package datasets is missing, or finds no such data set, configuration or split.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"{key}: there is no file {name}, and data of the Hugging Face hub is read by the package datasets; {NEEDS}"
        ) from error
    try:
        configs = [str(config) for config in datasets.get_dataset_config_names(name)]
        config, split = _places(name, parts, configs, key=key)
        files = datasets.load_dataset_builder(name, config).config.data_files
    except DataError:
        raise
    except Exception as error:  # of many kinds: no network, no such name, no permission, no data in it
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{key}: there is no file {name}, and the Hugging Face hub gives no such data set ({first})") from error
    return tuple(Path(_local(str(file), key=key)) for file in _of_split(files or {}, split, name=name, key=key))


def _places(name: str, parts: Sequence[str], configs: Sequence[str], *, key: str) -> tuple[str, str]:
    """(configuration, split). One part alone is a configuration if there is one of that name, else a split."""
    known = f"{name} has the configurations {', '.join(configs)}"
    if len(parts) == 2 or (len(parts) == 1 and parts[0] in configs):
        config, split = parts[0], parts[1] if len(parts) == 2 else "train"
        if config not in configs:
            raise DataError(f"{key}: {known}, not {config}; name one of them: {key}={name}:{configs[0]}:{split}")
        return config, split
    if len(configs) > 1 and "default" not in configs:
        raise DataError(f"{key}: {known}; name one of them: {key}={':'.join((name, configs[0], *parts))}")
    return "default" if "default" in configs else configs[0], parts[0] if parts else "train"


def _of_split(files: Mapping[Any, Sequence[Any]], split: str, *, name: str, key: str) -> Sequence[Any]:
    named = {str(found): list(listed) for found, listed in files.items()}
    if split in named:
        return named[split]
    raise DataError(f"{key}: {name} has no split {split!r}, only {', '.join(named) or 'none'}; name one: {key}={name}:SPLIT")


def _local(file: str, *, key: str) -> str:
    """The path of a file, which is downloaded if it lies on the hub: hf://datasets/OWNER/NAME@REVISION/FILE."""
    if not file.startswith(_REMOTE):
        return file
    from huggingface_hub import hf_hub_download

    repository, _, rest = file.removeprefix(_REMOTE).partition("@")
    revision, _, path = rest.partition("/")
    try:
        return str(hf_hub_download(repository, path, repo_type="dataset", revision=revision))
    except Exception as error:  # of many kinds, as above
        raise DataError(f"{key}: {path} of {repository} cannot be downloaded: {error}") from error


def is_mirror(folder: Path) -> bool:
    """Whether a directory says in its README, as on the hub, which files make which configurations."""
    readme = folder / "README.md"
    if not readme.is_file():
        return False
    with readme.open(encoding="utf-8", errors="replace") as text:
        head = text.read(100_000)
    return head.startswith("---") and "\nconfigs:" in head.partition("\n---\n")[0]
