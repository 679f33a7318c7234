"""Turns an error of a command line into one short message, with the nearest valid name."""

from __future__ import annotations

import errno
import os
import re
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError
from yaml import YAMLError

from rlx.cli.line import quote_override, quoted
from rlx.config.check import interpolation_message, paths_of, unknown_key, unread_loss
from rlx.config.compose import CommandLine, Composed, CompositionOfJobError, compose, group_of, option_node
from rlx.config.groups import GROUPS
from rlx.config.schema import RunConfig
from rlx.config.suggest import did_you_mean, nearest, right_name
from rlx.config.targets import locate
from rlx.errors import ConfigError, RlxError, TrainingError
from rlx.sweep.plan.settings import pop_settings

_MOST_NAMED = 10  # options that have a key

# Messages for unknown keys: what was probably meant, which option has the key, or how to add it.


def wrong_key(key: str, line: CommandLine) -> ConfigError:
    """The error for an unknown key: which option has it, or what was probably meant."""
    bare, _, package = key.lstrip("+~").partition("@")
    raw, choices = _near(line)
    if package:
        places = [
            f"{choice}=NAME" for choice, option in choices.items() if choice.partition("@")[0] == bare and option is not None
        ]
        hint = f"it is chosen by {' or '.join(places)}" if places else "rlx --info defaults lists what can be chosen"
        return ConfigError(f"{key}: nothing at {package} chooses a {bare}; {hint}")
    if bare.partition(".")[0] == "loss" and isinstance(raw, Mapping) and raw.get("loss") is None and "algorithm" in raw:
        return unread_loss(raw["algorithm"])
    known = line.options
    group, _, leaf = bare.partition(".")
    if group in RunConfig.__dataclass_fields__ and isinstance(raw, Mapping) and group not in raw:
        return _key_of_a_run(key, line)
    owner = str(choices[group]) if choices.get(group) else f"rlx {line.verb or 'train'}"
    having = [option for option in known.get(group, ()) if leaf and leaf in option_node(group, option, line.folders)]
    paths = paths_of(raw)
    within = [path for path in paths if leaf and path.startswith(f"{group}.") and path.endswith(f".{leaf}")]
    if within and bare not in within:
        return ConfigError(f"{bare} is not a key of {owner}; it has {' and '.join(within)}")
    if leaf in paths and not choices.get(group):  # max_new_tokens of rlx sample, which is a rollout's in rlx train
        return ConfigError(f"{bare} is not a key of {owner}; did you mean {leaf}?")
    if having and group == "logger":  # several are chosen at once, each with its own node
        return ConfigError(f"{bare} is not a key of {owner}; logger={having[0]} has it, as logger.{having[0]}.{leaf}")
    if having:
        return ConfigError(f"{bare} is not a key of {owner}; {_any_of(group, having)}")
    nested = GROUPS.get(bare)
    if nested is not None and nested.above:
        return ConfigError(f"nothing on this command line chooses a {bare}; {nested.above}={nested.host} does, among others")
    if group == "hydra":
        return ConfigError(f"{bare} is not a key of Hydra; rlx --cfg hydra shows them all")
    untyped = _untyped(raw, group, leaf)
    if untyped:
        return ConfigError(f"{bare} is not a key of {owner}; {untyped}")
    if bare in paths:
        return ConfigError(f"{bare} cannot be taken out of {owner}; leave out ~{bare}, or give it another value")
    place = bare.replace("/", ".")
    chooses = next((choice for choice in choices if choice.partition("@")[2] == place), "")
    if chooses:
        return ConfigError(f"{bare} is not a key of {owner}; {place} is chosen by {chooses}=NAME")
    near = right_name(place, paths)
    if near is None and not leaf:
        near = nearest(bare, [name for name in known if isinstance(raw, Mapping) and name.partition("/")[0] in raw])
    if near is not None and "=" in near:
        return ConfigError(f"{bare} is not a key of {owner}; in rlx it is chosen by, for example, {near}")
    if near is not None and near not in paths and near not in known:
        options = _options_with(near, line)
        return ConfigError(f"{bare} is not a key of {owner}; rlx calls it {near}{f', which {options} has' if options else ''}")
    hint = (
        did_you_mean(near)
        or _option_of_function(bare, paths)
        or _keys_beside(bare, raw)
        or f"; rlx {line.verb or 'train'} --cfg job shows all"
    )
    return ConfigError(f"{bare} is not a key of {owner}{hint}")


def _key_of_a_run(key: str, line: CommandLine) -> ConfigError:
    """The error for a key of a run's config that was given to a verb without that key."""
    said = f"{key.lstrip('+~')} is a key of rlx train, not of rlx {line.verb}"
    asked = next((override for override in line.overrides if override.startswith(f"{key}=")), "")
    if line.verb in ("compare", "runs") and asked:
        return ConfigError(f"{said}; runs are chosen by {shlex.quote(f'where={asked}')}")
    return ConfigError(f"{said}; leave it out")


def loss_of_no_run(text: str, line: CommandLine) -> ConfigError:
    """The error for a loss of the run of a mixture, whose terms have their own, or for a mixture's YAML that does not say so."""
    raw, _ = _near(line)
    if isinstance(raw, Mapping) and "algorithm" in raw and "appears" in text:
        return unread_loss(raw["algorithm"])
    return ConfigError(
        "several algorithms of a mixture bring a loss for the run; end the defaults list of its YAML with "
        "`- override /loss@_global_.loss: null`, and choose the loss of a term by /loss@terms.NAME.algorithm.loss"
    )


def _untyped(raw: object, group: str, name: str) -> str:
    """The message for a class attribute of the user's class without an annotation: only annotated fields are keys."""
    node = raw.get(group) if isinstance(raw, Mapping) else None
    if not isinstance(node, Mapping) or str(node.get("_target_", "rlx.")).startswith("rlx."):
        return ""
    try:
        kind = locate(str(node["_target_"]), group)
    except RlxError:
        return ""
    value = getattr(kind, name, None) if name.isidentifier() else None
    if not isinstance(value, (bool, int, float, str)) or name in getattr(kind, "__dataclass_fields__", {}):
        return ""
    return (
        f"{kind.__name__} has it without a type, and only typed fields are keys: write {name}: {type(value).__name__} = {value!r}"
    )


def _option_of_function(key: str, paths: Sequence[str]) -> str:
    """A hint on how to set an argument of the user's own reward function."""
    function = ".".join([*key.split(".")[:3], "function"])
    if function not in paths:
        return ""
    return f"; an argument of the function itself is added: +{function}.{key.rpartition('.')[2]}=..."


def _keys_beside(key: str, raw: object) -> str:
    """The keys at the place where a key was looked for."""
    place = key.rpartition(".")[0]
    node = raw
    for part in place.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    names = [str(name) for name in node if not str(name).startswith("_")] if isinstance(node, Mapping) else []
    return f"; {place} has {', '.join(names)}" if names and len(names) <= 20 else ""


def _any_of(group: str, having: list[str]) -> str:
    chosen = [f"{group}={option}" for option in having[:_MOST_NAMED]]
    return f"{', '.join(chosen[:-1])} and {chosen[-1]} have it" if len(chosen) > 1 else f"{chosen[0]} has it"


def _options_with(path: str, line: CommandLine) -> str:
    group, _, leaf = path.partition(".")
    having = [option for option in line.options.get(group, ()) if leaf in option_node(group, option, line.folders)]
    return f"{group}={having[0]}" if having else ""


def composed_line(line: CommandLine) -> Composed:
    """The config that a command line composes to, without a Hydra job. Raises ConfigError if the line is wrong."""
    own = [quote_override(override) for override in line.overrides if not override.startswith("hydra.searchpath=")]
    try:
        cfg, hydra = _composed(line, own)
    except Exception as error:
        known = explained(error, line)
        if known is None or known is error:
            raise
        raise known from None
    pop_settings(cfg)
    return line.composed(cfg, hydra)


def _near(line: CommandLine) -> tuple[object, Mapping[str, object]]:
    """The unresolved config, and group -> option, of this command line's choices; of the default ones if those are wrong too."""
    known = line.options
    chosen = [override for override in line.overrides if group_of(override, known) and ("," not in override or "=[" in override)]
    without_loss = [override for override in chosen if group_of(override, ["loss"]) is None]
    for within, overrides in ((line, chosen), (line, without_loss), (line, []), (CommandLine(verb=line.verb), [])):
        with suppress(HydraException, OmegaConfBaseException, RlxError):
            cfg, hydra = _composed(within, overrides)
            return OmegaConf.to_container(cfg, resolve=False), dict(hydra.runtime.choices)
    return {}, {}


def _composed(line: CommandLine, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """The verb's config and Hydra's own config for these overrides, in the folders that the line names."""
    places = [f"'{place}'" for _, place in line.searched]
    search = [f"hydra.searchpath=[{','.join(places)}]"] if places else []
    cfg = compose(line.verb or "train", [*search, *overrides], with_hydra=True)
    with open_dict(cfg):
        return cfg, cfg.pop("hydra")


# From an error to one short message, with the nearest valid name.

_COULD_NOT = re.compile(r"Could not (?:override|delete from config\.|delete) '([^']+)'")
_MERGING = re.compile(r"Error merging override (.+)", re.DOTALL)
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.+?)'\n", re.DOTALL)
_NO_GROUP = re.compile(r"Override (\S+) looks like a config group override, but config group '([^']+)' does not exist")
_FUNCTIONS = ("range", "choice", "interval", "glob", "shuffle", "sort", "tag")
_RLX = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_UNAVAILABLE = re.compile(r"provider=.*?path=(.*?) is not available")


def explained(error: BaseException, line: CommandLine) -> RlxError | None:
    """The error as an RlxError, or None if the user did not cause it."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, CompositionOfJobError):
            line, error = replace(line, overrides=list(cause.overrides)), cause.__cause__ or cause
    for cause in chain:
        if isinstance(cause, RlxError):
            return cause
    if any(isinstance(cause, RecursionError) for cause in chain):
        return ConfigError("a value or a YAML file nests lists or mappings too deeply to be read; write it flat")
    for cause in chain:
        if isinstance(cause, UnicodeDecodeError):
            return ConfigError(f"a YAML file cannot be read: it is not UTF-8 ({cause}); save it as UTF-8")
        if isinstance(cause, YAMLError):
            return ConfigError(f"a YAML file cannot be read: {' '.join(str(cause).split())}")
        if isinstance(cause, OverrideParseException):
            return _grammar(cause)
        if isinstance(cause, MissingConfigException):
            return _missing(cause, line)
        if isinstance(cause, UserWarning) and (found := _UNAVAILABLE.search(str(cause))):
            return ConfigError(f"hydra.searchpath: there is no folder {found[1]}")
    for cause in chain:
        if isinstance(cause, ConfigCompositionException) and str(cause):
            return _composition(cause, chain, line)
    if isinstance(error, OSError) and error.filename is not None:  # Hydra makes the directory of a run with hydra.run.dir
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        said = f"hydra.run.dir: {error.filename} cannot be made: {error.strerror}; choose another place"
        return TrainingError(said) if full else ConfigError(said)
    if unresolved := [cause for cause in chain if isinstance(cause, InterpolationResolutionError)]:
        return _interpolation(unresolved[-1], line)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ConfigError(_first_line(next((cause for cause in reversed(chain) if str(cause)), error)))
    if isinstance(error, OverflowError):  # OmegaConf converts the text of a float key to a float
        large = [word.partition("=")[0] for word in line.overrides if re.search(r"=[+-]?\d{300,}$", word)]
        return ConfigError(f"{large[0]}: a whole number of more than 300 digits is not a finite number") if large else None
    if "No completion plugin" in str(error):
        wanted = line.values.get("shell_completion", "--shell-completion")
        return ConfigError(f"{wanted}: it is install=SHELL or uninstall=SHELL, with bash, fish or zsh")
    if isinstance(error, (ValueError, TypeError)) and _raised_by_hydra(error):
        hint = "; an option of a group is chosen by its name: group=option" if "Config group" in str(error) else ""
        return ConfigError(f"{_first_line(error)}{hint}")
    return _of_hydras_keys(chain, line)


def _interpolation(error: InterpolationResolutionError, line: CommandLine) -> ConfigError:
    """The error for an interpolation without a target; names the override that holds it, else its key."""
    said = interpolation_message(error)
    missing = re.search(r"\$\{\.*([^},]+)", said)
    reads = None if missing is None else re.compile(rf"\$\{{\.*{re.escape(missing[1])}[,}}]")
    holds = [word for word in line.overrides if reads is not None and reads.search(word)]
    return ConfigError(f"{holds[0] if holds else error.full_key or 'the config'}: {said}")


def _of_hydras_keys(chain: Sequence[BaseException], line: CommandLine) -> ConfigError | None:
    """The error that one of Hydra's own keys caused (logging, callbacks, environment variables)."""
    own = [override for override in line.overrides if re.match(r"[+~]*hydra[./]", override)]
    if not (own or line.searched) or not _passed_hydra(chain[0]):
        return None
    said = ": ".join(dict.fromkeys(_first_line(error) for error in chain))
    where = ", ".join(own) or "a key below hydra in your folder of configs"
    return ConfigError(f"{where}: Hydra cannot use this: {said}; rlx --cfg hydra shows its own keys, which need no change")


def _raised_by_hydra(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/hydra/" in frames[-1].filename.replace("\\", "/")


def _passed_hydra(error: BaseException) -> bool:
    """Whether Hydra called the code that raised, without code of rlx in between."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    last_own = max((place for place, file in enumerate(files) if file.startswith(_RLX)), default=-1)
    return any("/hydra/" in file.replace("\\", "/") for file in files[last_own + 1 :])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _first_line(error: BaseException) -> str:
    return next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)


def _grammar(error: OverrideParseException) -> ConfigError:
    override = error.override
    key, equals, value = override.partition("=")
    if not equals:
        return ConfigError(f"{override} is neither a verb nor an override; an override is key=value")
    if key != key.strip() or not key.isascii() or any(mark in key for mark in " ()<>,"):
        return ConfigError(f"{override}: {key!r} is not a key; an override is key=value, without spaces around the =")
    called = re.match(r"(\w+)\(", value)
    if called and called[1] not in _FUNCTIONS and (near := nearest(called[1], _FUNCTIONS)):
        return ConfigError(f"{override}: {called[1]} is not a function of a sweep{did_you_mean(near)}")
    typed = shlex.quote(f"{key}={quoted(value)}") if set(value) & set("\"'\\$") else f"'{key}=\"{value}\"'"
    for opening, closing in ("()", "[]", "{}"):
        if value.count(opening) > value.count(closing) and value.startswith((opening, *(f"{name}(" for name in _FUNCTIONS))):
            return ConfigError(f"{override}: Hydra cannot read this value, a {closing} is missing; else quote it: {typed}")
    return ConfigError(f"{override}: Hydra cannot read this value; quote it for Hydra and for the shell: {typed}")


def _missing(error: MissingConfigException, line: CommandLine) -> ConfigError:
    path = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = path.rpartition("/")
    options = list(error.options or ())
    where = _first_line(error)
    is_typed = any(override.lstrip("+").startswith(f"{group}=") for override in line.overrides)
    in_file = not is_typed and where.startswith("In '") and "/" in where.split(":")[0]
    where = f" (chosen in {where.split(':')[0][4:-1]}.yaml)" if in_file else ""
    if not options:
        options = line.options.get(group, [])
    hint = did_you_mean(nearest(name, options)) or (f"; it is one of {', '.join(options)}" if options else "")
    return ConfigError(f"there is no {group or 'config'} {name}{where}{hint}")


def _composition(error: ConfigCompositionException, chain: list[BaseException], line: CommandLine) -> ConfigError:
    text = str(error)
    if found := _AMBIGUOUS.search(text):
        key, _, value = found[1].partition("=")
        return ConfigError(f"{found[1]} is several values: add -m to sweep over them, or write {key}=[{value}] for one list")
    if found := _NO_GROUP.search(" ".join(text.split())):
        return ConfigError(f"{found[1]}: there is no group {found[2]}{did_you_mean(nearest(found[2], line.options))}")
    if "An item is already at" in text:
        return ConfigError(f"{text.split(chr(39))[1]} is already a key; leave out the +")
    if "loss appears more than once" in text or "Multiple values for loss." in text:  # several terms bring a loss for the run
        return loss_of_no_run(text, line)
    types = next((cause for cause in chain if isinstance(cause, ValidationError)), None)
    merging, could_not = _MERGING.search(text), _COULD_NOT.search(text)
    if merging and not could_not and types is not None:
        return ConfigError(f"{merging[1]}: {_type_message(types)}")
    if merging and not could_not and "=" in merging[1] and merging[1].partition("=")[0].lstrip("+") in paths_of(_near(line)[0]):
        kind = {"{": "mapping", "[": "list"}.get(merging[1].partition("=")[2][:1], "plain value")
        return ConfigError(f"{merging[1].strip()}: this key cannot be a {kind}; rlx --cfg job shows what it takes")
    if found := could_not or merging:
        key = found[1].partition("=")[0].lstrip("+") if found is merging else found[1]
        named = (str(cause.full_key) for cause in chain if isinstance(cause, OmegaConfBaseException))
        return wrong_key(next((name for name in named if name.startswith(f"{key}.") and found is could_not), key), line)
    below = next((cause for cause in chain if isinstance(cause, OmegaConfBaseException)), None)
    if below is not None:
        return _in_file(text, below, line)
    return ConfigError(" ".join(part.strip() for part in text.split("\n")[:2] if "+" not in part))


def _in_file(text: str, error: OmegaConfBaseException, line: CommandLine) -> ConfigError:
    """The error for a key or value of a YAML file that the schema refuses."""
    found = re.search(r"In '([^']+)'", text)
    file = f"{found[1]}.yaml: " if found else ""
    if isinstance(error, ValidationError):
        return ConfigError(f"{file}{error.full_key}: {_type_message(error)}")
    if error.full_key:
        return ConfigError(f"{file}{unknown_key(str(error.full_key), 'rlx', paths_of(_near(line)[0]))}")
    return ConfigError(f"{file}{_first_line(error)}")


def _type_message(error: ValidationError) -> str:
    message = _first_line(error)
    found = re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", message)
    if found:
        names = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"it must be {names.get(found[2], found[2])}"
    if re.match(r"Cannot convert '\w+' to string", message):
        return "it must be text"
    if "is not a ListConfig" in message:
        return "it must be a list, in brackets"
    if "not a valid bool" in message:
        return "it must be true or false"
    if "Incompatible value 'None'" in message or "not Optional" in message:
        return "it cannot be null"
    return message
