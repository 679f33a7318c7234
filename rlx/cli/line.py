"""Parses a command line: flags and their values, the verb, the runs or files after it, the overrides."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import os
import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from hydra.core.config_store import ConfigStore
from omegaconf import ListConfig

from rlx.config.compose import CommandLine, config_folders, groups, opened, read_yaml
from rlx.config.schema import conf_dir
from rlx.config.sources import plugin_packages
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

_LONGEST = 100_000  # characters of one argument
_TAKES_VALUE = {
    "--cfg": "cfg", "-c": "cfg",
    "--package": "package", "-p": "package",
    "--config-dir": "config_dir", "-cd": "config_dir",
    "--config-name": "config_name", "-cn": "config_name",
    "--config-path": "config_path", "-cp": "config_path",
    "--shell-completion": "shell_completion", "-sc": "shell_completion",
    "--experimental-rerun": "experimental_rerun",
}  # fmt: skip
_ALONE = ("--help", "-h", "--hydra-help", "--version", "--multirun", "-m", "--run", "-r", "--resolve")
_REFUSED = {
    "config_name": "the verb says it",
    "config_path": "add a folder with --config-dir",
    "experimental_rerun": "use rerun=RUN",
}
_CFG = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass(frozen=True)
class Verb:
    """One verb: a module with `run(composed) -> exit code`, and its YAML file, in rlx or in an installed plugin.

    The module may also define SCHEMA, the types of its config, which is checked before it runs; WORDS, the key that receives bare
    words; NO_SWEEP, the advice shown when -m is refused; `prepare(line)`, called before Hydra composes; and `narrow(composed)`,
    called before the check.
    """

    name: str
    summary: str
    module: str
    yaml: Path

    def load(self) -> ModuleType:
        """Import the module, and register its schema with Hydra."""
        module = importlib.import_module(self.module)
        if hasattr(module, "SCHEMA"):
            ConfigStore.instance().store(name=f"{self.name}_config", node=module.SCHEMA, provider="rlx")
        return module


def verbs() -> dict[str, Verb]:
    """Every verb by its name: a file with a YAML in rlx/cli/verb, or in a plugin's folder `verb`. Imports none of them."""
    found: dict[str, Verb] = {}
    places = [("rlx.cli.verb", Path(__file__).parent / "verb", conf_dir())]
    for package in plugin_packages():
        base = package.removesuffix(".conf")
        spec = importlib.util.find_spec(base)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            places.append((f"{base}.verb", Path(place) / "verb", Path(place) / "conf"))
    for package, folder, conf in places:
        for file in sorted(folder.glob("*.py")):
            yaml = conf / f"{file.stem}.yaml"
            if yaml.is_file() and file.stem not in found:
                found[file.stem] = Verb(file.stem, _summary(file, file.stat().st_mtime_ns), f"{package}.{file.stem}", yaml)
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "train", name))}


@functools.cache
def _summary(file: Path, _changed: int) -> str:
    """The first line of a module's docstring. _changed: when the file was written, so that a newer one is read again."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def is_override(argument: str) -> bool:
    """Whether Hydra reads the word as an override: key=value, +key=value, ~key."""
    return "=" in argument or argument[:1] in ("~", "+")


def parse_arguments(argv: Sequence[str]) -> CommandLine:
    """The parts of a command line; the first bare word is the verb, wherever it is."""
    for argument in argv:
        _require_text(argument)
    line = CommandLine(argv=list(argv))
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument.lstrip("+~").startswith("="):
            raise ConfigError(f"{argument} has no key; an override is key=value, without spaces around the =")
        if argument.startswith("-") and argument != "-":
            _take_flag(line, argument, rest)
        elif line.verb is not None and is_override(argument) and "/" in argument and os.path.exists(os.path.expanduser(argument)):
            line.words.append(argument)  # a file or folder that exists: outputs/a=b, ~/runs
        elif is_override(argument):
            line.overrides.append(argument)
        elif rest and rest[0].startswith("="):
            value = rest[0][1:] or next(iter(rest[1:]), "value")
            raise ConfigError(f"{argument} {rest[0]}: an override has no spaces around its =; write {argument}={value}")
        elif line.verb is None:
            line.verb = _verb(argument)
        else:
            line.words.append(argument)
    line.is_multirun = bool({"-m", "--multirun"} & set(line.flags))
    return line


def _require_text(argument: str) -> None:
    """Refuse an argument that cannot be part of a file name or a YAML file."""
    if "\0" in argument or any("\ud800" <= mark <= "\udfff" for mark in argument):
        raise ConfigError(f"{argument!a} holds bytes that are not UTF-8 text; write it as text")
    if len(argument) > _LONGEST:
        raise ConfigError(f"{argument[:60]}... has {len(argument)} characters; an argument has at most {_LONGEST}")


def _take_flag(line: CommandLine, argument: str, rest: list[str]) -> None:
    name, equals, value = argument.partition("=")
    if name in ("--info", "-i"):
        if not equals:
            value = rest.pop(0) if rest and rest[0] in _INFO else "all"
        if value not in _INFO:
            raise ConfigError(f"--info {value}: it is one of {', '.join(_INFO)}")
        line.flags += ["--info", value]
    elif name in _TAKES_VALUE:
        if not equals:
            if not rest:
                raise ConfigError(f"{name} needs a value after it")
            value = rest.pop(0)
        _take_value(line, name, value)
    elif argument in _ALONE:
        line.flags.append(argument)
    else:
        raise ConfigError(f"{name} is not an option of rlx{_meant_by_flag(name, equals, value, rest)}")


def _meant_by_flag(name: str, equals: str, value: str, rest: list[str]) -> str:
    """A hint for an unknown flag: the nearest flag, or the override that was written as a flag (--num_steps 3, --num-steps=3)."""
    options = [option for option in (*_ALONE, *_TAKES_VALUE, "--info") if option != name]
    if name in _ALONE:
        return f" with a value; write {name} alone"
    near = nearest(name, options, threshold=0.75 if equals else 0.6)
    follows = value if equals else next((word for word in rest[:1] if not word.startswith("-") and "=" not in word), None)
    key = name.lstrip("-").replace("-", "_")
    if near is None and follows is not None and key.replace(".", "").isidentifier():
        return f"; an override is written without dashes: {key}={follows}"
    return did_you_mean(near)


def _take_value(line: CommandLine, name: str, value: str) -> None:
    meaning = _TAKES_VALUE[name]
    if meaning in _REFUSED:
        raise ConfigError(f"{name} is not an option of rlx: {_REFUSED[meaning]}")
    if meaning == "cfg" and value not in _CFG:
        raise ConfigError(f"{name} {value}: it is one of {', '.join(_CFG)}{did_you_mean(nearest(value, _CFG))}")
    if not value:
        raise ConfigError(f"{name} needs a value after it")
    if meaning == "config_dir" and not Path(value).is_dir():
        siblings = [str(path) for path in Path(value).parent.iterdir() if path.is_dir()] if Path(value).parent.is_dir() else []
        raise ConfigError(f"{name} {value}: there is no such folder{did_you_mean(nearest(value, siblings, threshold=0.75))}")
    if meaning == "shell_completion":
        line.overrides.append(value)  # Hydra reads install=bash as an override
        line.flags.append("--shell-completion")
    else:
        line.flags += [name, value]
    line.values[meaning] = value


def as_override(word: str, after: Sequence[str] = ()) -> str | None:
    """The override that a bare word probably means (an option of a group, or a key before its value), or None."""
    if f"--{word}" in _ALONE:
        return f"--{word}"
    keys = read_yaml(conf_dir() / "train.yaml")
    if word in keys and word != "defaults":
        return f"{word}={after[0] if after else '...'}"
    holding = [group for group, options in groups(config_folders()).items() if word in options and "/" not in group]
    return f"{holding[0]}={word}" if holding else None


def _verb(word: str) -> str:
    known = verbs()
    if word in known:
        return word
    if f"--{word}" in _ALONE:
        raise ConfigError(f"{word} is not a verb of rlx; did you mean rlx --{word}?")
    if word in ("sweep", "search", "tune"):
        raise ConfigError(f"{word} is not a verb of rlx; a sweep is a train with -m: rlx -m algorithm=a,b 'seed=range(0,5)'")
    near = nearest(word, known)
    meant = as_override(word) if near is None else None
    if meant is not None:
        raise ConfigError(f"{word} is not a verb of rlx; did you mean rlx train {meant}?")
    if near is None and Path(word).exists():
        raise ConfigError(f"{word} is a path, and no verb comes before it; the verbs are {', '.join(known)}")
    hint = did_you_mean(near) if near else f"; the verbs are {', '.join(known)}, an override is key=value"
    raise ConfigError(f"{word} is not a verb of rlx{hint}")


# Shell completion is Hydra's own, after the verb is removed from the line.


def cut_verb(environment: MutableMapping[str, str]) -> tuple[str | None, list[str]]:
    """Remove the verb from COMP_LINE and shift COMP_POINT.

    Returns the verb, and the verbs that could complete the word at the cursor.
    """
    line = environment.get("COMP_LINE", "")
    point = int(environment.get("COMP_POINT") or len(line))
    known = verbs()
    start = 0
    words: list[tuple[int, str]] = []
    for word in line.split():
        start = line.index(word, start)
        words.append((start, word))
        start += len(word)
    for place, word in words[1:]:
        ends_before_cursor = place + len(word) < len(line)
        if word in known and ends_before_cursor:
            cut = line[:place] + line[place + len(word) :].lstrip()
            environment["COMP_LINE"] = cut
            environment["COMP_POINT"] = str(max(place, point - (len(line) - len(cut))))
            return word, []
        if not word.startswith("-") and not is_override(word) and ends_before_cursor:
            return None, []
    typed = "" if line.endswith(" ") or len(words) < 2 else words[-1][1]
    return None, [verb for verb in known if verb.startswith(typed)]


def is_query(overrides: list[str]) -> bool:
    """Whether Hydra is asked for completions, not for the script that installs them."""
    return any(override.startswith("query=") for override in overrides) and "COMP_LINE" in os.environ


# Quoting: Hydra's grammar refuses `prompt=12+34=`, `where=score<0.5` and a path with a space unless they are quoted.

_TEXT_KEYS = {"prompt", "where", "fail_if", "out", "resume", "rerun"}
_PATH_ENDINGS = ("path", "_dir", ".dir", "_file")
_SWEEP = re.compile(r"^(choice|glob|range|interval|shuffle|sort|tag|extend_list)\s*\(.*\)$", re.DOTALL)


_MAPPING = re.compile(r"\{\s*\}|\{[^{}]*:.*\}", re.DOTALL)
_QUOTED = re.compile(r"""('(\\.|[^'\\])*'|"(\\.|[^"\\])*")(?=,|$)""", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)


def is_text_key(key: str) -> bool:
    """Whether the value of this key is text or a path, never a number, a list or a Hydra expression."""
    leaf = key.lstrip("+").rpartition(".")[2]
    return leaf in _TEXT_KEYS or key.endswith(_PATH_ENDINGS)


def quote_override(override: str, *, multirun: bool = False) -> str:
    """The same override, with its value in quotes if the key takes text or a path. With -m, commas separate values."""
    key, equals, value = override.partition("=")
    if not equals or not is_text_key(key) or key == "hydra.searchpath" or _stands_for_itself(value):
        return override
    if multirun and _SWEEP.match(value):
        return override
    is_path = key.endswith(_PATH_ENDINGS) or key.lstrip("+") in ("out", "resume", "rerun")
    if is_path and _MAPPING.fullmatch(value):
        raise ConfigError(f"{override}: a path is text, not a mapping; a file of this very name is written {key}=\"'{value}'\"")
    values = _swept_values(value) if multirun else [value]
    return f"{key}={','.join(part if _is_quoted(part) else quoted(part, is_path=is_path) for part in values)}"


def _swept_values(value: str) -> list[str]:
    """The comma-separated values, as Hydra splits them: a comma within a quoted value belongs to it."""
    values, end = [], -1
    while end < len(value):
        found = _QUOTED.match(value, end + 1)
        begin, end = end + 1, found.end() if found else value.find(",", end + 1)
        end = len(value) if end < 0 else end
        values.append(value[begin:end])
    return values


def _is_quoted(value: str) -> bool:
    return len(value) >= 2 and value[0] in "'\"" and value[-1] == value[0]


def _stands_for_itself(value: str) -> bool:
    """Whether the value needs no quotes: empty, null, a list, or already quoted."""
    is_list = value.startswith("[") and value.endswith("]") and not _holds_messages(value)
    return value in ("", "null") or _is_quoted(value) or is_list


def _holds_messages(value: str) -> bool:
    """Whether the value is JSON with chat messages, which Hydra's lists and mappings cannot express."""
    if not value.startswith(("[{", "[[{")):
        return False
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def is_plain(value: str) -> bool:
    """Whether Hydra reads the unquoted value as this text: an ordinary path or word, not a number or null."""
    if not _PLAIN.fullmatch(value) or value.lower() in ("true", "false", "null", "nan", "inf"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def quoted(value: str, *, is_path: bool = False) -> str:
    """A value as a string in Hydra's grammar, quoted if necessary.

    In a path ~ is the home directory and ${...} stays an interpolation.
    """
    if is_plain(value):
        return value
    if is_path:
        value = os.path.expanduser(value)
    elif "${" in value:
        value = value.replace("${", "\\${")
    value = re.sub(r"(\\*)'", r"\1\1\\'", value)
    value = re.sub(r"(\\+)$", r"\1\1", value)
    return f"'{value}'"


# What is passed on to Hydra.


def hydra_overrides(line: CommandLine, verb: Verb, words_key: str | None) -> list[str]:
    """The overrides in Hydra's grammar, with the bare words as the value of the verb's key WORDS."""
    line.overrides = [opened(override) for override in line.overrides]
    line.recorded = frozenset(map(opened, line.recorded))
    quoted_overrides = [quote_override(override, multirun=line.is_multirun) for override in line.overrides]
    return quoted_overrides + words_override(verb, words_key, line.words)


def _as_choice(word: str, verb: Verb) -> str:
    """`my_lab.MyAlgorithm` as the choice of an algorithm, `my_lab.my_loss` as that of a loss, if such a file exists here."""
    module, _, name = word.partition(".")
    if not name.isidentifier() or not Path(f"{module}.py").is_file() or verb.name not in ("train", "check"):
        return ""
    return f"{'loss' if name[0].islower() else 'algorithm'}={word}"


def words_override(verb: Verb, key: str | None, words: Sequence[str]) -> list[str]:
    """The bare words after the verb as the value of `key`, the verb's WORDS."""
    if not words:
        return []
    if key is None:
        meant = as_override(words[0], words[1:]) or _as_choice(words[0], verb)
        hint = f"an override is key=value{f': did you mean {meant}?' if meant else ''}"
        raise ConfigError(f"{words[0]}: rlx {verb.name} takes no further words; {hint}")
    values = [quoted(word, is_path=True) for word in words]
    if isinstance(read_yaml(verb.yaml)[key], ListConfig):
        return [f"{key}=[{','.join(values)}]"]
    if len(words) > 1:
        raise ConfigError(f"rlx {verb.name} takes one {key}, not {len(words)}: {' '.join(words)}")
    return [f"{key}={values[0]}"]
