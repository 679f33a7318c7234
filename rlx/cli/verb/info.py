"""Prints an option of a group: its formula, its paper, and its keys with their current values."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rlx.config.check import check_node, paths_of, plain_config, unknown_key
from rlx.config.compose import groups, option_node
from rlx.config.groups import GROUPS, RUN_GROUPS
from rlx.config.schema import RunConfig
from rlx.config.sources import default_loss
from rlx.config.targets import check_targets, locate, parameters_of
from rlx.errors import ConfigError
from rlx.fields import shown

if TYPE_CHECKING:
    from rlx.config.compose import CommandLine, Composed


NO_SWEEP = "name all options that you want to see: rlx info loss=dpo task=arithmetic"


def prepare(line: CommandLine) -> None:
    """If the line names only a nested group, add an algorithm that has it: rlx info algorithm/advantage=gae.

    Bare words that are groups ask for their options: rlx info algorithm/advantage.
    """
    known = line.options
    if line.words and all(word in known for word in line.words):
        line.values["listed"] = " ".join(line.words)
        line.words = []
    for group in GROUPS.values():
        is_asked = bool(group.above) and any(override.startswith(f"{group.name}=") for override in line.overrides)
        if is_asked and not any(override.startswith(f"{group.above}=") for override in line.overrides):
            line.overrides = [f"{group.above}={group.host}", *line.overrides]
            line.values["part"] = group.name


def run(composed: Composed) -> int:
    """Print what the command line chooses; returns the exit code."""
    known = [item.name for item in fields(RunConfig)]
    for key in composed.config:
        if key not in known:
            raise unknown_key(str(key), "rlx info", known)
    part = composed.values.get("part", "")
    named = composed.named(*RUN_GROUPS)
    asked = [part if part and GROUPS[part].above == name else name for name in named]
    listed = composed.values.get("listed", "").split()
    if not asked and not listed:
        raise ConfigError(
            "no option is named: rlx info GROUP lists those of a group, rlx info loss=NAME, algorithm=NAME, "
            "algorithm/advantage=NAME, task=NAME shows one; rlx --help lists all groups"
        )
    pages = [option_list(group, composed.folders) for group in listed]
    for group in asked:
        for name, node in nodes_of(composed, group):
            check_targets({group: node}, composed.allowed)
            pages.append(page(node, name, group, heading_of(group, name, composed.folders)))
        if group == "algorithm" and composed.config.loss is not None:
            pages[-1] += values_in_force(_resolved(composed.config, "loss"), "loss")
    print("\n\n".join("\n".join(lines) for lines in pages))
    return 0


def option_list(group: str, folders: Iterable[Path]) -> list[str]:
    """The options of a group, each with the first line of its YAML file, else of the docstring of its class or function."""
    places = list(folders)
    options = groups(places)[group]
    width = max(map(len, options))
    lines = [f"{group}: choose one with {group}={'[NAME]' if group in GROUPS and GROUPS[group].several else 'NAME'}"]
    for option in options:
        lines.append(f"  {option:<{width}}  {heading_of(group, option, places) or _first_line(group, option, places)}".rstrip())
    shows = group in GROUPS and (group in RUN_GROUPS or GROUPS[group].host)
    return [*lines, f"rlx info {group}={options[0]} shows one"] if shows else lines


def _first_line(group: str, option: str, folders: list[Path]) -> str:
    """The first sentence of an option's docstring; empty for the user's own option, which is not imported for this.

    The docstring of a formula begins with the formula; its first sentence comes after it.
    """
    node = option_node(group, option, folders)
    target = _made_of(node, group).get("_target_")
    if group not in GROUPS or not isinstance(target, str) or not target.startswith(("rlx.", "torch.optim.")):
        return ""
    kind = locate(target, group)
    first, _, below = (inspect.getdoc(kind) or "").partition("\n")
    paragraph = " ".join(below.strip().partition("\n\n")[0].split())
    sentence = re.split(r"(?<!\bDr)\. ", paragraph)[0].removesuffix(".")
    is_formula = hasattr(kind, "formula") and sentence != "" and re.match(r"\w+: ", sentence) is None
    return f"{sentence}." if is_formula else first


def _made_of(node: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    """The node of the function that an option is made of, if the group wraps functions in a class; else the node itself."""
    function = node.get("function")
    is_wrapped = group in GROUPS and GROUPS[group].wrapper != "" and node.get("_target_") == GROUPS[group].wrapper
    return function if is_wrapped and isinstance(function, Mapping) else node


def nodes_of(composed: Composed, group: str) -> list[tuple[str, Any]]:
    """(option, node) of each option that the config has chosen in a group."""
    node = _resolved(composed.config, GROUPS[group].place.removesuffix(".{}"))
    return list(node.items()) if GROUPS[group].several else [(str(composed.choices[group]), node)]


def _resolved(cfg: DictConfig, place: str) -> dict[str, Any]:
    """A node with its interpolations resolved; if one refers to a key without a value, the node as it is written."""
    node = OmegaConf.select(cfg, place)
    values = OmegaConf.to_container(node, resolve=False)
    with suppress(ConfigError):  # an interpolation reads a key whose value is ???
        whole: Any = plain_config(cfg)
        for key in place.split("."):
            whole = whole[key]
        values = whole
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if not _is_unnamed(value)}


def _is_unnamed(value: Any) -> bool:
    """A node of a class that is named by a key whose value is ???."""
    return isinstance(value, Mapping) and str(value.get("_target_", "")).startswith("${")


def heading_of(group: str, name: str, folders: Iterable[Path]) -> str:
    """The comment at the top of an option's YAML file; empty if it has none, or if the option is a class without a file."""
    files = [folder / group / f"{name}.yaml" for folder in folders]
    lines = next((file.read_text(encoding="utf-8").splitlines() for file in files if file.is_file()), [])
    first = next((text for text in lines if not text.startswith("# @package")), "")
    if group == "loss" and not first and (own := default_loss(name)) is not None:
        return f"The loss that algorithm={name} has by default: loss={own}"
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def page(node: Mapping[str, Any], name: str, group: str, heading: str) -> list[str]:
    """The lines on one option: the card of its formula if it has one, else the docstring of its class."""
    from rlx.experiment import make
    from rlx.report.card import card_of

    key = group.replace("/", ".")
    if group == "loss":
        check_node(node, key, paths_of(node, key), group=group)
    elif not hasattr(locate(str(node["_target_"]), group), "formula"):
        return class_page(node, name, group)
    return card_of(make(OmegaConf.create(dict(node)), key=key), name=name, heading=heading).lines()


def class_page(node: Mapping[str, Any], name: str, group: str) -> list[str]:
    """The docstring of a node's class, and the node's keys with their values."""
    kind = locate(str(_made_of(node, group)["_target_"]), group)
    suffix = "" if name.rpartition(".")[2] == kind.__name__ else f" ({kind.__qualname__})"
    lines = [f"{group} {name}{suffix}", *(f"  {text}".rstrip() for text in _docstring(kind).splitlines())]
    facts = {
        "kind": getattr(getattr(kind, "kind", None), "value", ""),
        "needs": ", ".join(sorted(need.value for need in getattr(kind, "needs", ()))),
        "offers": ", ".join(sorted(getattr(kind, "offers", ()))),
    }
    lines += [f"  {key}: {text}" for key, text in facts.items() if text]
    if group == "task/tool":
        lines += ["schema, as a chat template gets it", *textwrap.indent(_schema(node), "  ").splitlines()]
    return [*lines, "values in force", *values_in_force(node, GROUPS[group].place.format(name))]


def _docstring(kind: type) -> str:
    """The docstring of a class; empty if it is only the signature that dataclass generates."""
    said = inspect.getdoc(kind) or ""
    return "" if said.startswith(f"{kind.__name__}(") else said


def _schema(node: Mapping[str, Any]) -> str:
    """The JSON schema of a tool."""
    from rlx.experiment import make

    return json.dumps(make(OmegaConf.create(dict(node)), key="task.tool").schema, indent=2, ensure_ascii=False)


def values_in_force(node: Mapping[str, Any], path: str) -> list[str]:
    """One line for each key of a node and of the nodes in it: its value as typed on a command line, and its allowed range."""
    kind = locate(str(node["_target_"]), path)
    known = parameters_of(kind, ranges=GROUPS[path].ranges if path in GROUPS else {}) or {}
    order = [*(key for key in known if key in node), *(key for key in node if key not in known and not key.startswith("_"))]
    lines = [] if "." not in path and path != "loss" else [f"  {path} = {kind.__name__}"]
    for key in order:
        value, place = node[key], f"{path}.{key}"
        nodes = {place: value} if isinstance(value, Mapping) else {}
        if nodes and value and "_target_" not in value:
            nodes = {f"{place}.{name}": item for name, item in value.items()}
        if nodes and all(isinstance(item, Mapping) and "_target_" in item for item in nodes.values()):
            lines += [line for below, item in nodes.items() for line in values_in_force(item, below)]
        else:
            allowed = known[key].allowed if key in known else None
            lines.append(f"  {place} = {shown(value)}{f' ({allowed})' if allowed is not None else ''}")
    return lines
