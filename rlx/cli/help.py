"""What `rlx --help` prints: verbs first, then groups and their options, then examples. Reads files only."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlx.cli.line import verbs
from rlx.config.compose import CommandLine, option_node
from rlx.config.groups import tree_of

# The summary of an algorithm's class is read from its source, because help must not import torch.


@dataclass(frozen=True)
class Summary:
    """The kind of an algorithm, what it needs from the task and the run, and a one-line description."""

    kind: str = ""
    needs: tuple[str, ...] = ()
    text: str = ""


def summary_of(option: str, folders: Iterable[Path]) -> Summary:
    """The summary of the class that an option of the group algorithm targets; empty for a class outside rlx."""
    places = list(folders)
    target = str(option_node("algorithm", option, places).get("_target_"))
    module, _, name = target.rpartition(".")
    found = _class(module, name)
    if found is None:
        return Summary(text=comment_of(option, places))
    kind = re.search(r"AlgorithmType\.(\w+)", _declared(found, "kind", module) or "")
    needs = re.findall(r"Need\.(\w+)", _declared(found, "needs", module) or "")
    text = comment_of(option, places) or (ast.get_docstring(found) or "").partition("\n")[0]
    return Summary(kind[1].lower() if kind else "", tuple(sorted(need.lower() for need in needs)), text)


def comment_of(option: str, folders: Iterable[Path]) -> str:
    """The comment at the top of an option's file, if any; an option that builds on another one is described there."""
    files = (folder / "algorithm" / f"{option}.yaml" for folder in folders)
    first = next((file.read_text(encoding="utf-8").partition("\n")[0] for file in files if file.is_file()), "")
    return "" if not first.startswith("# ") or first.startswith("# @") else first.removeprefix("# ")


def _class(module: str, name: str) -> ast.ClassDef | None:
    """A class that a file of rlx declares; None for others."""
    try:
        body = tree_of(module).body if module.startswith("rlx.") else []
    except OSError:  # a config folder of the user may name what rlx does not have
        return None
    return next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)


def _declared(found: ast.ClassDef, name: str, module: str) -> str | None:
    """The source of a class variable's value, looked up along the base classes."""
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name and node.value:
            return ast.unparse(node.value)
    for base in found.bases:
        base_name = ast.unparse(base).partition("[")[0]
        place = _imported_from(module, base_name)
        above = _class(place, base_name)
        if above is not None and (place, base_name) != (module, found.name):
            value = _declared(above, name, place)
            if value is not None:
                return value
    return None


def _imported_from(module: str, name: str) -> str:
    """The module that a name in `module` was imported from; `module` itself if it was not imported."""
    for node in tree_of(module).body:
        if isinstance(node, ast.ImportFrom) and node.module and any((alias.asname or alias.name) == name for alias in node.names):
            return node.module
    return module


# What `rlx --help` prints: verbs first, then groups and their options, then examples. Reads files only.

_EXAMPLES = """\
examples
  rlx train algorithm=custom_dpo
  rlx train algorithm=custom_dpo loss=ipo loss.beta=0.2 num_steps=100
  rlx train task=preference_file task.path=pairs.jsonl policy=pretrained policy.path=DIR
  rlx -m algorithm=custom_dpo,dpo 'seed=range(0,5)'
  rlx train algorithm=my_lab.MyAlgorithm          a class of your own, from my_lab.py in this directory
  rlx train resume=outputs/train/latest
"""

_OPTIONS = """\
options
  -m                    one run for every combination of comma-separated values
  --cfg job             print the composed config and stop (--cfg job --resolve: with interpolations resolved)
  --config-dir DIR      a folder of your own YAML files, laid out in groups as above
  --info                how the config was composed; --info searchpath: from where
  --version
  eval "$(rlx -sc install=bash)"                  completes verbs, groups and keys in this shell
"""


def overview(line: CommandLine | None = None) -> str:
    """The text of `rlx --help`."""
    known = verbs()
    width = max(map(len, known))
    lines = ["usage: rlx [VERB] [key=value ...]", "", "verbs (train, if none is given)"]
    lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in known.items()]
    lines += [
        "",
        _groups((line or CommandLine()).options),
        _algorithms(line or CommandLine()),
        _OPTIONS,
        _EXAMPLES,
        "rlx VERB --help shows the keys of a verb.",
    ]
    return "\n".join(lines)


def node_comments(file: Path) -> str:
    """The text of a YAML file after its defaults list: keys, values and their comments."""
    lines = file.read_text(encoding="utf-8").splitlines()
    keep, in_defaults = [], False
    for line in lines:
        if line.startswith("defaults:"):
            in_defaults = True
        elif in_defaults and line and not line.startswith((" ", "-", "#")):
            in_defaults = False
        if not in_defaults:
            keep.append(line)
    return "\n".join(keep).strip()


def verb_help(verb: str, line: CommandLine | None = None) -> str:
    """The text of `rlx VERB --help`: what the verb does, and every key with its comment."""
    keys = textwrap.indent(node_comments(verbs()[verb].yaml), "  ")
    title = f"rlx {verb}: {verbs()[verb].summary}"
    return "\n".join(
        [title, "", "keys, with their defaults (override: key=value)", keys, "", _groups((line or CommandLine()).options)]
    )


def _algorithms(line: CommandLine) -> str:
    """Each algorithm with its kind, its needs and its description."""
    folders, options = line.folders, line.options.get("algorithm", [])
    width = max(map(len, options), default=0)
    lines = ["algorithms"]
    for option in options:
        found = summary_of(option, folders)
        needs = f"needs {', '.join(found.needs)}" if found.needs else ""
        lines.append(
            f"  {option:<{width}}  " + "; ".join(part for part in (found.kind.replace("_", " "), needs, found.text) if part)
        )
    return "\n".join(lines) + "\n"


def _groups(found: Mapping[str, Sequence[str]]) -> str:
    """Each group with its options, wrapped to the width of the terminal."""
    columns = max(60, shutil.get_terminal_size((100, 24)).columns)
    width = max(map(len, found))
    lines = ["groups (choose: group=option, set: group.key=value)"]
    for group, options in found.items():
        indent = " " * (width + 4)
        text = textwrap.wrap("  ".join(options), columns - width - 4, break_on_hyphens=False)
        lines.append(f"  {group:<{width}}  " + f"\n{indent}".join(text))
    return "\n".join(lines) + "\n"
