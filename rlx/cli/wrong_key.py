"""A key that the config does not have: what it was meant to be, which option has it, or how it is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlx.cli.allow import all_folders, searched
from rlx.cli.words import CommandLine
from rlx.config.check import paths_of
from rlx.config.classes import locate
from rlx.config.compose import compose, group_of, groups, option_node
from rlx.config.suggest import did_you_mean, nearest, right_name
from rlx.errors import ConfigError, RlxError


def wrong_key(key: str, line: CommandLine) -> ConfigError:
    """A key that the config does not have: which option has it, or what it was meant to be."""
    bare, _, package = key.lstrip("+~").partition("@")
    if package:
        return ConfigError(f"{key}: nothing at {package} chooses a {bare}; rlx --info defaults lists what can be chosen")
    raw, choices = composed(line)
    known = groups(all_folders(line))
    group, _, leaf = bare.partition(".")
    owner = str(choices[group]) if choices.get(group) else f"rlx {line.verb or 'train'}"
    having = [option for option in known.get(group, ()) if leaf and leaf in option_node(group, option, all_folders(line))]
    if having and group == "logger":  # several are chosen at once, each with a node of its own
        return ConfigError(f"{bare} is no key of {owner}; logger={having[0]} has it, as logger.{having[0]}.{leaf}")
    if having:
        return ConfigError(f"{bare} is no key of {owner}; {_any_of(group, having)}")
    if group == "hydra":
        return ConfigError(f"{bare} is no key of Hydra's; rlx --cfg hydra shows them all")
    untyped = _untyped(raw, group, leaf)
    if untyped:
        return ConfigError(f"{bare} is no key of {owner}; {untyped}")
    paths = list(paths_of(raw))
    if bare in paths:
        return ConfigError(f"{bare} cannot be taken out of {owner}; leave out ~{bare}, or give it another value")
    near = right_name(bare.replace("/", "."), paths)
    if near is None and not leaf:
        near = nearest(bare, known)
    if near is not None and near not in paths and near not in known:
        options = _options_with(near, line)
        return ConfigError(f"{bare} is no key of {owner}; rlx calls it {near}{f', which {options} has' if options else ''}")
    hint = did_you_mean(near) or _option_of_function(bare, paths) or "; rlx --cfg job shows them all"
    return ConfigError(f"{bare} is no key of {owner}{hint}")


def _untyped(raw: object, group: str, name: str) -> str:
    """What to say of an attribute of a class of the user's own that has no annotation, which alone makes a key of it."""
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
        f"{kind.__name__} has it without a type, which alone makes a key of it: write {name}: {type(value).__name__} = {value!r}"
    )


def _option_of_function(key: str, paths: Sequence[str]) -> str:
    """A hint at how an argument of a reward that is a function of the user's own is given."""
    function = ".".join([*key.split(".")[:3], "function"])
    if function not in paths:
        return ""
    return f"; an argument of the function itself is added: +{function}.{key.rpartition('.')[2]}=..."


def _any_of(group: str, having: list[str]) -> str:
    chosen = [f"{group}={option}" for option in having[:5]]
    return f"{', '.join(chosen[:-1])} and {chosen[-1]} have it" if len(chosen) > 1 else f"{chosen[0]} has it"


def _options_with(path: str, line: CommandLine) -> str:
    group, _, leaf = path.partition(".")
    folders = all_folders(line)
    having = [option for option in groups(folders).get(group, ()) if leaf in option_node(group, option, folders)]
    return f"{group}={having[0]}" if having else ""


def composed(line: CommandLine) -> tuple[object, Mapping[str, object]]:
    """The unresolved config, and group -> option, of the choices on this command line; the default ones if they are wrong too."""
    known = groups(all_folders(line))
    chosen = [override for override in line.overrides if group_of(override, known) and ("," not in override or "=[" in override)]
    places = [f"'{place}'" for _, place in searched(line)]
    search = [f"hydra.searchpath=[{','.join(places)}]"] if places else []
    for overrides in ([*search, *chosen], search, []):
        try:
            cfg = compose(line.verb or "train", overrides, with_hydra=True)
        except (HydraException, OmegaConfBaseException, RlxError):
            continue
        choices = cfg.hydra.runtime.choices
        with open_dict(cfg):
            del cfg["hydra"]
        return OmegaConf.to_container(cfg, resolve=False), dict(choices)
    return {}, {}
