"""Groups runs into variants: the runs of a variant differ only in the seed, or in nothing that `by` names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlx.comparison.scores import RunScore
from rlx.config.suggest import did_you_mean, nearest, right_name
from rlx.errors import ConfigError
from rlx.record.provenance import short_setting

SCIENCE = ("algorithm", "loss")  # the config nodes that define an algorithm
SOURCE = "source "  # prefix of source-file keys among the facts of a run
REWARDS_WORD = "rewards="  # prefix of the word for a task's rewards in its label
_MISSING = object()


@dataclass(frozen=True)
class Grouping:
    """Labels and the reason for them. keys: the keys that labels distinguish. mixed: label -> keys that differ within a variant.

    beyond: keys outside of algorithm and loss in which variants differ although no label shows it.
    """

    runs: tuple[RunScore, ...]
    labels: tuple[str, ...]
    keys: tuple[str, ...]
    mixed: Mapping[str, tuple[str, ...]]
    beyond: tuple[str, ...]


def group(runs: Sequence[RunScore], *, by: Sequence[str] | None) -> Grouping:
    """Label each run with its variant and its task."""
    tasks = task_labels(runs)
    facts = [_facts(run) for run in runs]
    varying = _differing(facts)
    keys = tuple(_resolve(name, facts) for name in by) if by is not None else None
    names = _labels_by(keys, facts) if keys is not None else _labels_by_difference(facts, varying)
    labelled = tuple(replace(run, variant=name, task=task) for run, name, task in zip(runs, names, tasks, strict=True))
    labels = tuple(dict.fromkeys(names))
    inside: dict[str, list[Mapping[str, Any]]] = {label: [] for label in labels}
    for fact, name in zip(facts, names, strict=True):
        inside[name].append(fact)
    mixed = {}
    for label in labels:
        found = tuple(_differing(inside[label], varying))
        if found:
            mixed[label] = found
    shown = keys if keys is not None else tuple(varying)
    beyond = _confounders(facts, keys, varying)
    return Grouping(labelled, labels, shown, mixed, beyond)


def _facts(run: RunScore) -> dict[str, Any]:
    sources = {
        f"{SOURCE}{item.get('module', item.get('target'))}": item.get("code", item.get("sha256"))
        for item in run.record.sources
        if isinstance(item, Mapping)
    }
    return {**run.compared, **sources, "algorithm": run.record.algorithm}


def _differing(facts: Sequence[Mapping[str, Any]], among: Sequence[str] | None = None) -> list[str]:
    """The keys in which any two differ. among: candidates, known from a larger set of facts; None: all."""
    keys = among if among is not None else dict.fromkeys(key for fact in facts for key in fact)
    return [key for key in keys if _differ([fact.get(key, _MISSING) for fact in facts])]


def _differ(values: Sequence[Any]) -> bool:
    """Whether any two of these values differ; identical objects, the usual case, are recognised without converting to text."""
    first = values[0]
    if all(value is first or (type(value) is type(first) and value == first) for value in values):
        return False
    return len(set(map(_text, values))) > 1


def _labels_by(keys: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    leaves = short_names([key for key in keys if key != "algorithm"])
    return [
        " ".join(
            fact["algorithm"] if key == "algorithm" else f"{leaves[key]}={_shown(fact.get(key, _MISSING), key)}" for key in keys
        )
        for fact in facts
    ]


def _labels_by_difference(facts: Sequence[Mapping[str, Any]], varying: Sequence[str]) -> list[str]:
    """The algorithm's name, a user's own loss, and the settings that distinguish the variants of one algorithm: only keys that
    the variant has, and a source file only if nothing else differs."""
    names: list[str] = [""] * len(facts)
    for algorithm in dict.fromkeys(fact["algorithm"] for fact in facts):
        places = [index for index, fact in enumerate(facts) if fact["algorithm"] == algorithm]
        keys = _decided_by_no_class(_differing([facts[index] for index in places]), [facts[index] for index in places])
        leaves = short_names([key for key in keys if not key.startswith(SOURCE)])
        if not any(key.startswith("loss.") and key.endswith("_target_") for key in leaves) and _has_own_loss(facts[places[0]]):
            leaves = {"loss._target_": "loss", **leaves}
        alike: dict[str, list[int]] = {}
        for index in places:
            own = ((leaf, key, facts[index][key]) for key, leaf in leaves.items() if key in facts[index])
            words = (f"{leaf}={_shown(value, key)}" for leaf, key, value in own)
            alike.setdefault(" ".join([algorithm, *words]), []).append(index)
        for label, members in alike.items():
            sources = _differing([facts[index] for index in members], [key for key in varying if key.startswith(SOURCE)])
            for index in members:
                told = (f"{key}={_shown(facts[index].get(key, _MISSING), key)[:8]}" for key in sources)
                names[index] = " ".join([label, *told])
    return names


def _has_own_loss(fact: Mapping[str, Any]) -> bool:
    """Whether the loss of a run is a user's own, which the name of its algorithm does not show."""
    target = fact.get("loss._target_")
    return isinstance(target, str) and not target.startswith("rlx.")


def swept_keys(configs: Sequence[Mapping[str, Any]], overrides: Iterable[str]) -> list[str]:
    """Keys with several values, except those that come with a different class, class keys, and keys that no override names.

    configs: `RunScore.compared` of each. overrides: of all runs; if they name none of the keys (for example because an
    experiment's YAML sets them), all keys count.
    """
    keys = _decided_by_no_class(_differing(configs), configs)
    keys = [key for key in keys if not key.endswith("_target_") and all(key in config for config in configs)]
    named = {str(text).partition("=")[0].lstrip("+~") for text in overrides}
    return [key for key in keys if any(key == name or key.endswith(f".{name}") for name in named)] or keys


def _decided_by_no_class(keys: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys without those whose values come with a different class, such as loss.tau if loss._target_ differs likewise."""

    def decides(other: str, key: str) -> bool:
        pairs = {(_text(fact.get(other, _MISSING)), _text(fact.get(key, _MISSING))) for fact in facts}
        is_class_of = other.endswith("_target_") and key.startswith(other.removesuffix("_target_"))
        return is_class_of and len(pairs) == len({value for value, _ in pairs})

    kept: list[str] = []
    for key in sorted(keys, key=lambda key: (key.count("."), not key.endswith("_target_"))):
        if not any(decides(other, key) for other in kept):
            kept.append(key)
    return sorted(kept, key=list(keys).index)


def _confounders(facts: Sequence[Mapping[str, Any]], keys: Sequence[str] | None, varying: Sequence[str]) -> tuple[str, ...]:
    """Keys outside of algorithm and loss that always vary with the algorithm, so that their effects cannot be separated."""
    by_algorithm: dict[str, list[Mapping[str, Any]]] = {}
    for fact in facts:
        by_algorithm.setdefault(fact["algorithm"], []).append(fact)
    if len(by_algorithm) < 2:
        return ()
    found = []
    for key in varying:
        if key.split(".")[0] in SCIENCE or key.startswith(SOURCE) or key in (keys or ()):
            continue
        if all(len({_text(fact.get(key, _MISSING)) for fact in group}) == 1 for group in by_algorithm.values()):
            found.append(key)
    return tuple(found)


def task_labels(runs: Sequence[RunScore]) -> list[str]:
    """The task of each run; if one name has several settings, with the task's keys that differ.

    Tasks with different rewards are distinguished by the rewards' names.
    """
    facts = [task_facts(run) for run in runs]
    leaves = {}
    for name in dict.fromkeys(run.record.task for run in runs):
        mine = [fact for run, fact in zip(runs, facts, strict=True) if run.record.task == name]
        keys = _differing(mine)
        if REWARDS_WORD in keys:
            keys = [key for key in keys if not key.startswith("task.rewards") or all(key in fact for fact in mine)]
        leaves[name] = short_names(keys)
    return [
        " ".join(
            [
                name,
                *(
                    f"{REWARDS_WORD}{fact[key]}" if key == REWARDS_WORD else f"{leaf}={_shown(fact[key], key)}"
                    for key, leaf in leaves[name].items()
                    if key in fact
                ),
            ]
        )
        for name, fact in zip((run.record.task for run in runs), facts, strict=True)
    ]


def task_facts(run: RunScore) -> dict[str, Any]:
    """The facts about a run's task in its config, without Hydra's own keys, and with the names of its rewards."""
    own = {key: value for key, value in run.config.items() if key.split(".")[0] == "task"}
    own = {key: value for key, value in own.items() if key.rpartition(".")[2] not in ("_partial_", "_convert_", "_recursive_")}
    rewards = dict.fromkeys(key.split(".")[2] for key in own if key.startswith("task.rewards."))
    return {REWARDS_WORD: "+".join(sorted(rewards)) or "none", **own}


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest unambiguous ending of each key."""
    short = {}
    for key in keys:
        parts = key.split(".")
        if parts[-1] == "_target_" and len(parts) > 1:
            short[key] = ".".join(parts[:-1])
            continue
        for size in range(1, len(parts) + 1):
            ending = ".".join(parts[-size:])
            if sum(other == ending or other.endswith("." + ending) for other in keys) == 1 or size == len(parts):
                short[key] = ending
                break
    return short


def _resolve(name: str, facts: Sequence[Mapping[str, Any]]) -> str:
    """A config key from its full name or an unambiguous ending."""
    known = list(dict.fromkeys(key for fact in facts for key in fact))
    if name in known or f"{name}._target_" in known:
        return name if name in known else f"{name}._target_"
    found = [key for key in known if key.endswith("." + name) or key.startswith(name + ".")]
    if len(found) > 1:
        among = set(_differing(facts))
        differing = [key for key in found if key in among]
        shallow = [key for key in differing if key.count(".") == min(other.count(".") for other in differing)]
        found = shallow if len(shallow) == 1 else differing or found
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"by={name}: several keys are called so: {', '.join(sorted(found)[:6])}; give one in full")
    if name == "seed":
        raise ConfigError("by=seed: seeds are what a comparison averages over; group by what was changed on purpose")
    near = right_name(name, known) or nearest(name, known)
    raise ConfigError(f"by={name}: no run has this key in its config{did_you_mean(near)}")


def find_label(name: str, labels: Sequence[str], *, key: str) -> str:
    """The variant that a user means, by any unambiguous description.

    Tried in this order: its label, its algorithm, words of its label (`beta=0.1`, or only the value), a part of its label; case
    is ignored. Raises ConfigError, with what can be typed, if none or several match.
    """
    wanted = name.strip().lower()
    words = wanted.split()

    def has(label: str, word: str) -> bool:
        return any(word in (own, own.partition("=")[2]) or word.endswith("." + own) for own in label.lower().split())

    ways = [
        [label for label in labels if label.lower() == wanted],
        [label for label in labels if label.lower().split(" ")[0] == wanted],
        [label for label in labels if words and all(has(label, word) for word in words)],
        [label for label in labels if wanted and wanted in label.lower()],
    ]
    found = next((way for way in ways if way), [])
    if len(found) == 1:
        return found[0]
    typed = "; ".join(shortest_name(label, labels) for label in (found or labels)[:12])
    if found:
        raise ConfigError(f"{key}: several variants are {name}; type one of: {typed}")
    raise ConfigError(f"{key}: {name} is none of the variants{did_you_mean(nearest(name, labels))}; type one of: {typed}")


def shortest_name(label: str, labels: Sequence[str]) -> str:
    """The shortest text for which `find_label` finds only this variant: its algorithm, one word of its label, or the label."""
    words = label.split()
    others = [other.split() for other in labels if other != label]
    if all(words[0] != other[0] for other in others):
        return words[0]
    alone = [word for word in words[1:] if all(word not in other for other in others)]
    return min(alone, key=len) if alone else label


def _text(value: Any) -> str:
    """A value as text for comparison, in which 1 equals 1.0."""
    if value is _MISSING:
        return "\0missing"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, (bool, int, float)):
        return str(value)
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any, key: str) -> str:
    if value is _MISSING:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return short_setting(value.rpartition(".")[2] if key.endswith("_target_") else value)
    if value is None:
        return "null"
    return short_setting(json.dumps(value, default=str) if isinstance(value, (list, dict)) else str(value))
