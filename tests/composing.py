"""Composing a config takes Hydra a tenth of a second, and thousands of tests compose what another test has composed.

Here the slow steps of a composition are made once in a process: what a choice of groups comes to before values are set in it, and
the parsing of a YAML text. They are made anew where a file, the search path or the schema is another, and for classes as options.
"""

from __future__ import annotations

import copy
import functools
import io
import os
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl, defaults_list
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

_MOST = 300  # results that are kept of each step
_OWN_SOURCES = ("pkg://hydra.conf", "rlx-class://", "structured://")


def install() -> None:
    """From here on this process does not repeat these steps."""
    config_loader_impl.create_defaults_list = _choose_once(defaults_list.create_defaults_list)
    loader = config_loader_impl.ConfigLoaderImpl
    loader._compose_config_from_defaults_list = _merge_once(loader._compose_config_from_defaults_list)
    OmegaConf.load = staticmethod(_parse_once(OmegaConf.load))


def _choose_once(choose: Callable[..., Any]) -> Callable[..., Any]:
    """The defaults list of the overrides that choose options. Overrides that set values are not part of it."""
    kept: dict[Hashable, Any] = {}

    @functools.wraps(choose)
    def chosen(repo: Any, config_name: str | None, overrides_list: list[Any], prepend_hydra: bool, skip_missing: bool) -> Any:
        values = defaults_list.Overrides(repo=repo, overrides_list=overrides_list).config_overrides
        choosing = [item for item in overrides_list if item not in values and not item.is_sweep_override()]
        choices = tuple(item.input_line for item in choosing)
        key = (config_name, choices, prepend_hydra, skip_missing, _state(repo))
        if key in kept:
            return replace(kept[key], config_overrides=values)
        found = choose(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        if not _chooses_a_class(found.defaults):
            _keep(kept, key, found)
        return found

    return chosen


def _merge_once(merge: Callable[..., Any]) -> Callable[..., Any]:
    """The config that a defaults list comes to."""
    kept: dict[Hashable, Any] = {}

    @functools.wraps(merge)
    def merged(self: Any, defaults: list[Any], repo: Any) -> Any:
        key = (tuple(tuple(vars(item).values()) for item in defaults), _state(repo))
        if key in kept:
            return copy.deepcopy(kept[key])
        config = merge(self, defaults=defaults, repo=repo)
        if not _chooses_a_class(defaults):
            _keep(kept, key, copy.deepcopy(config))
        return config

    return merged


def _parse_once(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The config that a YAML text says."""
    kept: dict[Hashable, Any] = {}

    @functools.wraps(load)
    def parsed(file: Any) -> Any:
        text = Path(file).read_text(encoding="utf-8") if isinstance(file, (str, Path)) else file.read()
        if text in kept:
            return copy.deepcopy(kept[text])
        stream = io.StringIO(text)
        stream.name = str(getattr(file, "name", file))  # an error of YAML says where
        config = load(stream)
        _keep(kept, text, copy.deepcopy(config))
        return config

    return parsed


def _keep(kept: dict[Hashable, Any], key: Hashable, found: Any) -> None:
    if len(kept) >= _MOST:
        del kept[next(iter(kept))]
    kept[key] = found


def _chooses_a_class(defaults: list[Any]) -> bool:
    """Whether an option is a class or function, whose module may change; that it was named is noted each time."""
    return any("." in (item.config_path or "") for item in defaults)


def _state(repo: Any) -> Hashable:
    """What a search depends on: the folders with the times of their YAML files, and the schemas by name and class."""
    folders = [source.full_path() for source in repo.get_sources()]
    return tuple((folder, _files(folder)) for folder in folders), _stored(ConfigStore.instance().repo)


def _files(folder: str) -> Hashable:
    if folder in _OWN_SOURCES:
        return ()
    if not folder.startswith("file://"):
        return object()  # equal to nothing
    found = []
    for place, _, names in os.walk(folder.removeprefix("file://")):
        for name in names:
            if name.endswith((".yaml", ".yml")):
                stat = os.stat(os.path.join(place, name))
                found.append((place, name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _stored(store: Any) -> Hashable:
    if isinstance(store, dict):
        return tuple((name, _stored(below)) for name, below in store.items())
    return store.node._metadata.object_type if OmegaConf.is_config(store.node) else store.node
