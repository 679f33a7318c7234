"""What `rlx --help` prints: verbs first, then groups and their options, then examples. Reads files only."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable

from rlx.cli.summary import summary_of
from rlx.cli.words import verbs
from rlx.config.compose import config_folders, groups, node_comments
from rlx.config.schema import conf_dir

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


def overview(config_dirs: Iterable[str] = ()) -> str:
    """The text of `rlx --help`."""
    known = verbs()
    width = max(map(len, known))
    lines = ["usage: rlx [VERB] [key=value ...]", "", "verbs (train, if none is given)"]
    lines += [f"  {verb:<{width}}  {summary}" for verb, summary in known.items()]
    lines += [
        "",
        _groups(config_dirs),
        _algorithms(config_dirs),
        _OPTIONS,
        _EXAMPLES,
        "rlx VERB --help shows the keys of a verb.",
    ]
    return "\n".join(lines)


def verb_help(verb: str, config_dirs: Iterable[str] = ()) -> str:
    """The text of `rlx VERB --help`: what it does and every key with its comment."""
    keys = textwrap.indent(node_comments(conf_dir() / f"{verb}.yaml"), "  ")
    title = f"rlx {verb}: {verbs()[verb]}"
    return "\n".join([title, "", "keys, with their defaults (override: key=value)", keys, "", _groups(config_dirs)])


def _algorithms(config_dirs: Iterable[str]) -> str:
    """Each algorithm with its kind, what it needs and what it is."""
    folders = config_folders(config_dirs)
    options = groups(folders).get("algorithm", [])
    width = max(map(len, options), default=0)
    lines = ["algorithms"]
    for option in options:
        found = summary_of(option, folders)
        needs = f"needs {', '.join(found.needs)}" if found.needs else ""
        lines.append(
            f"  {option:<{width}}  " + "; ".join(part for part in (found.kind.replace("_", " "), needs, found.text) if part)
        )
    return "\n".join(lines) + "\n"


def _groups(config_dirs: Iterable[str]) -> str:
    """Group and options, wrapped to the width of the terminal."""
    columns = max(60, shutil.get_terminal_size((100, 24)).columns)
    found = groups(config_folders(config_dirs))
    width = max(map(len, found))
    lines = ["groups (choose: group=option, set: group.key=value)"]
    for group, options in found.items():
        indent = " " * (width + 4)
        text = textwrap.wrap("  ".join(options), columns - width - 4, break_on_hyphens=False)
        lines.append(f"  {group:<{width}}  " + f"\n{indent}".join(text))
    return "\n".join(lines) + "\n"
