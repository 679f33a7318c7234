"""Says what a loss, algorithm, task or another choice is: formula, paper, keys with the values in force."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rlx.config.check import check_node, paths_of, plain
from rlx.config.classes import GROUP_BASE, Parameter, check_targets, locate, parameters_of
from rlx.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlx.cli.line import CommandLine


# Whose node shows an algorithm's part that is asked for alone: rlx info algorithm/advantage=gae.
HOST = {"advantage": "custom_grpo", "value_loss": "custom_grpo", "regularizer": "custom_dpo", "combine": "hybrid"}


def prepare(line: CommandLine) -> None:
    """Choose an algorithm that has the part which is asked for, where none is named."""
    part = next((part for part in HOST if any(override.startswith(f"algorithm/{part}=") for override in line.overrides)), None)
    if part is not None and not any(override.startswith("algorithm=") for override in line.overrides):
        line.overrides = [f"algorithm={HOST[part]}", *line.overrides]
        line.values["part"] = part


def run(cfg: DictConfig, line: CommandLine) -> int:
    """Print what the command line chooses; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from rlx.cli.line import allowed_targets

    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    groups = [group for group in GROUP_BASE if any(re.match(rf"\+*{group}[.=@]", override) for override in overrides)]
    if not groups:
        raise ConfigError(
            "say of what: rlx info loss=NAME, algorithm=NAME, algorithm/advantage=NAME, task=NAME; rlx --help lists the names"
        )
    whole = OmegaConf.to_container(cfg, resolve=False)
    pages = []
    for group in groups:
        option = hydra.runtime.choices[group]
        node = _resolved(whole, group)
        if group == "algorithm" and "part" in line.values:
            asked = line.values["part"]
            group, option, node = f"algorithm/{asked}", hydra.runtime.choices[f"algorithm/{asked}"], node[asked]
        for name, part in node.items() if group == "logger" else [(option, node)]:
            check_targets({group: part}, allowed_targets(line))
            pages.append(page(part, str(name), group, heading_of(group, str(name), line)))
        if group == "algorithm" and cfg.loss is not None:
            pages[-1] += [f"  {path} = {value}" for path, value in leaves(_resolved(whole, "loss"), "loss")]
    print("\n\n".join("\n".join(lines) for lines in pages))
    return 0


def _resolved(whole: Any, group: str) -> dict[str, Any]:
    """The group's node with its interpolations resolved; what has no value stays ???."""
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(whole)
    values = OmegaConf.to_container(cfg[group], resolve=False)
    with suppress(ConfigError):  # a key without a value that another one reads: shown as it is written
        values = plain(cfg)[group]
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]


def heading_of(group: str, name: str, line: CommandLine) -> str:
    """The comment that an option's YAML begins with; empty where it has none, or is a class."""
    from rlx.cli.line import all_folders
    from rlx.config.sources import default_loss

    files = [folder / group / f"{name}.yaml" for folder in all_folders(line)]
    first = next((file.read_text(encoding="utf-8").partition("\n")[0] for file in files if file.is_file()), "")
    if group == "loss" and not first and (own := default_loss(name)) is not None:
        return f"The loss that algorithm={name} has by default: loss={own}"
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def page(node: Mapping[str, Any], name: str, group: str, heading: str) -> list[str]:
    """The card of what has a formula, else what its class says of it."""
    from omegaconf import OmegaConf

    from rlx.experiment import make
    from rlx.report.card import card_of

    key = group.replace("/", ".")
    if group == "loss":
        check_node(node, key, list(paths_of(node, key)), group=group)
    elif not hasattr(locate(str(node["_target_"]), group), "formula"):
        return described(node, name, group)
    return card_of(make(OmegaConf.create(dict(node)), key=key), name=name, heading=heading).lines()


def described(node: Mapping[str, Any], name: str, group: str) -> list[str]:
    """What the class of a node says of itself, and its keys with their values."""
    kind = locate(str(node["_target_"]), group)
    shown = "" if name.rpartition(".")[2] == kind.__name__ else f" ({kind.__qualname__})"
    lines = [f"{group} {name}{shown}", *(f"  {text}".rstrip() for text in (inspect.getdoc(kind) or "").splitlines())]
    facts = {
        "kind": getattr(getattr(kind, "kind", None), "value", ""),
        "needs": ", ".join(sorted(need.value for need in getattr(kind, "needs", ()))),
        "offers": ", ".join(sorted(getattr(kind, "offers", ()))),
    }
    lines += [f"  {key}: {text}" for key, text in facts.items() if text]
    lines.append("values in force")
    known = parameters_of(kind) or {}
    order = [*(key for key in known if key in node), *(key for key in node if key not in known and not key.startswith("_"))]
    shown_leaves = (leaf for key in order for leaf in leaves(node[key], key, known.get(key)))
    return lines + [f"  {group}.{path} = {value}" for path, value in shown_leaves]


def leaves(value: Any, path: str, parameter: Parameter | None = None) -> Iterator[tuple[str, str]]:
    """(dotted path, value as one types it with its range) of a value; a node is shown by its class, then its own keys."""
    if isinstance(value, Mapping) and value:
        known: Mapping[str, Parameter] = {}
        if "_target_" in value:
            yield path, str(value["_target_"]).rpartition(".")[2]
            known = parameters_of(locate(str(value["_target_"]), path)) or {}
        for key, item in value.items():
            if not str(key).startswith("_"):
                yield from leaves(item, f"{path}.{key}", known.get(str(key)))
    else:
        from rlx.config.check import shown

        allowed = "" if parameter is None or parameter.allowed is None else f" ({parameter.allowed})"
        yield path, f"{shown(value)}{allowed}"
