"""Reads run records. A run is a directory with a `run.json` and a `metrics.jsonl`; a sweep holds its runs and a `sweep.json`.

Does not import torch.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.errors import DataError
from rlx.record.digest import LOGS
from rlx.record.directory import is_lost
from rlx.record.files import follow_latest, number, read_regular

SCHEMA_VERSION = 1
PLAN = "sweep.json"
STATUSES = ("running", "completed", "failed", "interrupted")


@dataclass(frozen=True)
class AlgorithmResult:
    """The result of a run.

    performance_metrics: the last value of every evaluation metric, including `eval/score`.
    training_time: seconds. convergence_steps: first evaluated step whose score is within 1 % of the best, or None.
    metadata: steps, tokens sampled and trained, peak memory, ...
    """

    algorithm_name: str
    performance_metrics: Mapping[str, float]
    training_time: float
    convergence_steps: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """The content of a `run.json`; `directory` is where it was read from.

    config: resolved. overrides: of the command line. variant: the run's name apart from its seed. sources: the user's own files
    that the run used (target, file, sha256, copy). process: the one that writes it. resumed: the step and the time of every
    resume. error: type and message, and the step if there is one. logs: of a completed run, the size and digest of each file of
    logged lines (see rlx.record.digest).
    """

    id: str
    status: str
    command: Sequence[str]
    verb: str
    algorithm: str
    variant: str
    task: str
    seed: int
    threads: int | None
    config: Mapping[str, Any]
    config_hash: str
    overrides: Sequence[str]
    sources: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    started: str
    ended: str | None = None
    error: Mapping[str, Any] | None = None
    result: AlgorithmResult | None = None
    process: Mapping[str, Any] = field(default_factory=dict)
    resumed: Sequence[Mapping[str, Any]] = ()
    logs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    directory: Path = field(default=Path(), compare=False)

    @property
    def score(self) -> float | None:
        """The score of the result: the last `eval/score`; None while there is no result."""
        return None if self.result is None else self.result.performance_metrics.get("eval/score")

    def to_dict(self) -> dict[str, Any]:
        """The keys and values of `run.json`, the schema version first."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "directory"}
        values["result"] = None if self.result is None else dataclasses.asdict(self.result)
        return {"schema_version": values.pop("schema_version"), **values}


_FIELDS = {item.name: item for item in dataclasses.fields(RunRecord) if item.name != "directory"}
_OPTIONAL = {"ended", "error", "result", "process", "resumed", "logs", "schema_version"}
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "status", "verb", "algorithm", "variant", "task", "config_hash", "started"), (str,)),
    **dict.fromkeys(("config", "provenance", "process", "logs"), (dict,)),
    **dict.fromkeys(("command", "overrides", "sources", "resumed"), (list,)),
    "seed": (int,),
    "ended": (str, type(None)),
    "threads": (int, type(None)),
    "error": (dict, type(None)),
    "result": (dict, type(None)),
}
_ITEMS = {"command": str, "overrides": str, "sources": dict, "resumed": dict}


def run_file(path: str | os.PathLike[str]) -> Path:
    """The `run.json` of a run directory or a `latest`, or the file itself."""
    place = follow_latest(Path(path))
    return (follow_latest(place.parent) if place.name == "run.json" else place) / "run.json"


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """The record in a run directory. A run with the status running whose process is dead or lost is read as interrupted."""
    file = run_file(path)
    values = _read_object(file)
    version = values.get("schema_version")
    if not isinstance(version, int):
        raise DataError(f"{file}: no schema_version, so this is not a run record of rlx")
    if version > SCHEMA_VERSION:
        raise DataError(f"{file}: written by a newer rlx (schema {version}, this one reads up to {SCHEMA_VERSION}); upgrade rlx")
    missing = [name for name in _FIELDS if name not in values and name not in _OPTIONAL]
    if missing:
        raise DataError(f"{file}: the record lacks {', '.join(missing)}; it was damaged or written by another program")
    known = {name: value for name, value in values.items() if name in _FIELDS}
    for name, types in _TYPES.items():
        if name in known and not isinstance(known[name], types):
            raise DataError(f"{file}: {name} is {known[name]!r:.60}, not {types[0].__name__}; the record was damaged")
    odd = [(name, item) for name, kind in _ITEMS.items() for item in known.get(name, ()) if not isinstance(item, kind)]
    odd += [("provenance.rlx", made)] if not isinstance(made := known["provenance"].get("rlx", {}), dict) else []
    odd += [("logs", {name: log}) for name, log in known.get("logs", {}).items() if name not in LOGS or not _is_log(log)]
    if odd:
        raise DataError(f"{file}: {odd[0][0]} holds {odd[0][1]!r:.60}; the record was damaged")
    if known["status"] not in STATUSES:
        raise DataError(f"{file}: status is {known['status']!r}, not one of {', '.join(STATUSES)}")
    known["config"] = up_to_date(known["config"])
    known["result"] = _result(known.get("result"), file)
    if known["status"] == "running" and is_lost(known.get("process", {}), file):
        known["status"] = "interrupted"
    return RunRecord(**known, directory=file.parent)


def written_by(record: RunRecord) -> str:
    """The process that writes a record, for messages."""
    return f"process {record.process.get('pid')} on {record.process.get('host')}"


def _is_log(log: Any) -> bool:
    return isinstance(log, dict) and isinstance(log.get("bytes"), int) and isinstance(log.get("sha256"), str)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_regular(file))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{file.parent}: no run here (no {file.name}); `rlx runs` lists those there are") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno}: not JSON ({error.msg}); the record was damaged") from None
    except (ValueError, RecursionError) as error:  # not text, a number with thousands of digits, nesting thousands of levels deep
        raise DataError(f"{file}: not JSON ({error}); the record was damaged") from None
    if not isinstance(values, dict):
        raise DataError(f"{file}: not a JSON object; the record was damaged")
    return values


def _result(values: Any, file: Path) -> AlgorithmResult | None:
    if values is None:
        return None
    names = {item.name for item in dataclasses.fields(AlgorithmResult)}
    try:
        result = AlgorithmResult(**{name: value for name, value in values.items() if name in names})
        if not isinstance(result.metadata, dict):
            raise TypeError(f"metadata is {result.metadata!r:.60}")
        figures = {name: number(value) for name, value in result.performance_metrics.items()}
        if odd := [name for name, value in figures.items() if not isinstance(value, (int, float, type(None)))]:
            raise TypeError(f"{odd[0]} is {figures[odd[0]]!r:.60}")
    except (TypeError, AttributeError) as error:
        raise DataError(f"{file}: result is not that of a run ({error}); the record was damaged") from None
    return dataclasses.replace(result, performance_metrics=figures, training_time=number(result.training_time))


def find_run_directories(where: str | os.PathLike[str]) -> list[Path]:
    """Every directory with a `run.json` at or below a path or a glob pattern, sorted; links below it are not followed."""
    text = os.fspath(where)
    if os.path.lexists(text):
        starts = [Path(text)]
    else:
        starts = [Path(found) for found in sorted(glob.glob(text, recursive=True))]
        if not starts:
            raise DataError(
                f"{text}: no such file or directory; `rlx train` and `rlx -m` make runs, `rlx runs` lists those there are"
            )
    found: dict[str, Path] = {}
    for start in starts:
        place = follow_latest(start)
        for directory in _walk(os.fspath(place.parent if place.name == "run.json" else place)):
            found.setdefault(os.path.realpath(directory), Path(directory))
    return [found[key] for key in sorted(found)]


def _walk(directory: str) -> Iterator[str]:
    """Directories with a run.json; the inside of a run (checkpoints, trackers' files) is not searched."""
    try:
        with os.scandir(directory) as entries:
            content = list(entries)
    except NotADirectoryError:
        return
    except OSError as error:
        raise DataError(f"{directory}: cannot be read: {error.strerror}") from error
    if any(entry.name == "run.json" for entry in content):
        yield directory
        return
    for entry in content:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _walk(entry.path)


def find_runs(where: str | os.PathLike[str]) -> list[RunRecord]:
    """Every run at or below a path or a glob pattern, oldest first. Raises an error for a damaged record."""
    runs = [read_run(directory) for directory in find_run_directories(where)]
    return sorted(runs, key=lambda run: (run.started, str(run.directory)))


def read_plan(directory: Path) -> dict[str, Any] | None:
    """The content of a sweep's `sweep.json`, including its list of jobs; None if there is no readable one."""
    try:
        found = json.loads(read_regular(directory / PLAN))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"jobs": list, "command": list, "sources": list, "process": dict}
    usable = (
        isinstance(found, dict)
        and "jobs" in found
        and all(isinstance(found.get(key, kind()), kind) for key, kind in kinds.items())
    )
    return found if usable else None


# Conversion of configs recorded by earlier versions to the current form.


def up_to_date(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config in the current form: classes have their current names, and a loss is in one place only.

    Older records repeat the run's loss in the algorithm's node, and have the loss of a mixture's term next to its algorithm.
    """
    config = with_current_targets(config)
    kept = {key: _with_one_loss(value) if key == "algorithm" else value for key, value in config.items()}
    algorithm = kept.get("algorithm")
    if isinstance(algorithm, dict) and kept.get("loss") is not None and "loss" in algorithm:
        kept["loss"] = algorithm.pop("loss")
    return kept


def _with_one_loss(node: Any) -> Any:
    """An algorithm's node in which the terms of a mixture have their loss inside their algorithm, not next to it."""
    if not isinstance(node, Mapping):
        return node
    within = node.get("algorithm")
    is_twice = isinstance(within, Mapping) and "loss" in within
    return {key: _with_one_loss(value) for key, value in node.items() if not (is_twice and key == "loss")}


# Old module of a class -> current module; names are unchanged.
_CLASSES = {
    "rlx.algorithm.hybrid": "rlx.algorithm.mixture",
    "rlx.algorithm.online_dpo": "rlx.algorithm.dpo",
    "rlx.loss.correction": "rlx.loss.policy_gradient.modifier",
    "rlx.loss.divergence": "rlx.loss.preference.modifier",
    "rlx.loss.entropy": "rlx.loss.policy_gradient.modifier",
    "rlx.loss.modifier": "rlx.loss.preference.modifier",
    "rlx.loss.moving_reference": "rlx.policy.reference",
    "rlx.task.labelled_file": "rlx.task.pair_file",
    "rlx.task.preference_file": "rlx.task.pair_file",
    "rlx.task.reward_math": "rlx.task.reward.math",
    "rlx.task.reward_model": "rlx.task.reward.model",
    "rlx.task.reward_text": "rlx.task.reward.text",
    "rlx.task.rewarded_demonstrations": "rlx.task.rewarded_file",
    "rlx.task.rewarded_preferences": "rlx.task.rewarded_file",
}
# Old module of a class -> module of the function that replaces it: KlCov -> kl_cov.
_FUNCTIONS = {
    "rlx.algorithm.regularizer": "rlx.algorithm.regularizer",
    "rlx.loss.advantage": "rlx.loss.advantage.completion",
    "rlx.loss.advantage_baseline": "rlx.loss.advantage.completion",
    "rlx.loss.policy_gradient": "rlx.loss.policy_gradient.token",
    "rlx.loss.policy_gradient_covariance": "rlx.loss.policy_gradient.covariance",
    "rlx.loss.policy_gradient_detached": "rlx.loss.policy_gradient.token",
    "rlx.loss.policy_gradient_sequence": "rlx.loss.policy_gradient.sequence",
    "rlx.loss.policy_gradient_soft": "rlx.loss.policy_gradient.token",
    "rlx.loss.preference": "rlx.loss.preference.margin",
    "rlx.loss.preference_absolute": "rlx.loss.preference.completion",
    "rlx.loss.preference_batch": "rlx.loss.preference.batch",
    "rlx.loss.preference_curve": "rlx.loss.preference.margin",
    "rlx.loss.preference_likelihood": "rlx.loss.preference.reference_free",
    "rlx.loss.preference_margin": "rlx.loss.preference.margin",
    "rlx.loss.preference_reference_free": "rlx.loss.preference.reference_free",
    "rlx.loss.preference_scored": "rlx.loss.preference.scored",
    "rlx.loss.preference_target": "rlx.loss.preference.margin",
    "rlx.loss.token_advantage": "rlx.loss.advantage.token",
    "rlx.loss.value": "rlx.loss.value",
    "rlx.loss.weight": "rlx.loss.weight",
}
_OTHERS = {
    "rlx.loss.advantage_baseline.PassAtK": "rlx.loss.advantage.completion.best_of_group",
    "rlx.loss.advantage_baseline.ReMax": "rlx.loss.advantage.completion.remax",
    "rlx.loss.mixture.Mixture": "rlx.loss.preference.mixture.LossMixture",
    "rlx.loss.mixture.Part": "rlx.loss.preference.mixture.LossPart",
    "rlx.loss.token_advantage.Gae": "rlx.loss.advantage.token.Gae",
}
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def current_target(target: str) -> str:
    """The current dotted name of a class or function; a name that is current, or outside rlx, is unchanged."""
    module, _, name = target.rpartition(".")
    if target in _OTHERS:
        return _OTHERS[target]
    if module in _FUNCTIONS and name[:1].isupper():
        return f"{_FUNCTIONS[module]}.{_WORD.sub('_', name).lower()}"
    return f"{_CLASSES[module]}.{name}" if module in _CLASSES else target


def with_current_targets(node: Any) -> Any:
    """A config in which every `_target_` has its current name."""
    if isinstance(node, Mapping):
        return {
            key: current_target(value) if key == "_target_" and isinstance(value, str) else with_current_targets(value)
            for key, value in node.items()
        }
    return [with_current_targets(item) for item in node] if isinstance(node, (list, tuple)) else node
