"""Measures algorithms on one task, policy and budget: their speed, time per phase, and the score they reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from rlx.comparison.wording import quantity
from rlx.config.schema import RunNodes, at_least
from rlx.errors import ConfigError, RlxError, TrainingError
from rlx.fields import one_of
from rlx.record.files import full_disk_explained

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlx.config.compose import CommandLine, Composed

_KEYS = (
    "algorithm",
    "loss",
    "task",
    "policy",
    "optimizer",
    "scheduler",
    "rollout",
    "num_steps",
    "micro_batch",
    "threads",
    "device",
    "precision",
    "matmul",
)
_NAMES, _RANKS, _AHEAD = "algorithms", "ranks", "ahead"


@dataclass
class BenchConfig(RunNodes):
    """Config of rlx bench. Each measured run has its own config of rlx train."""

    rounds: int = at_least(1)
    tokens: int = at_least(1)
    seconds: float = at_least(0, whole=False)
    warmup_steps: int = at_least(0)
    num_prompts: int = at_least(1)
    num_steps: int = at_least(1)
    seed: int = at_least(0)
    micro_batch: int | None = at_least(1, optional=True)
    threads: int | None = at_least(1, optional=True)
    device: str = MISSING
    precision: str = one_of(("float32", "bfloat16"), default=MISSING)
    matmul: str = one_of(("auto", "torch", "onednn"), default=MISSING)
    ranks: int = at_least(1)
    profile: bool = MISSING
    plot: bool = MISSING
    out: str = MISSING
    json: bool = MISSING


SCHEMA = BenchConfig
NO_SWEEP = "it takes several algorithms itself: rlx bench algorithm=a,b"


def prepare(line: CommandLine) -> None:
    """Split `algorithm=a,b` before Hydra composes, because Hydra would read the comma as a sweep."""
    for place, override in enumerate(line.overrides):
        key, equals, value = override.partition("=")
        if key == "algorithm" and equals:
            names = [name.strip() for name in value.strip("[]").split(",")]
            if not all(names):
                raise ConfigError(f"{override}: a name is missing; write algorithm=a,b")
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ConfigError(f"{override} names {twice} twice; each round measures it once, and rounds=N sets how often")
            line.values[_NAMES] = ",".join(names)
            line.overrides[place] = f"algorithm={names[0]}"
        if key == "ranks" and "," in value:
            numbers = [number.strip() for number in value.strip("[]").split(",")]
            if not all(number.isdigit() and int(number) for number in numbers) or len(set(numbers)) < len(numbers):
                raise ConfigError(f"{override}: give different numbers of processes: ranks=1,2")
            line.values[_RANKS] = ",".join(numbers)
            line.overrides[place] = f"ranks={numbers[0]}"
        if key == "rollout.ahead" and "," in value:
            if sorted(value.strip("[]").replace(" ", "").split(",")) != ["0", "1"]:
                raise ConfigError(f"{override}: to compare draws in the same step and one step ahead, write rollout.ahead=0,1")
            line.values[_AHEAD] = "0,1"
            line.overrides[place] = "rollout.ahead=0"


def run(composed: Composed) -> int:
    """Measure the algorithms alternately in several rounds, print the results and return the exit code."""
    cfg = composed.config
    names = composed.values.get(_NAMES, composed.algorithm).split(",")
    configs = {
        name: training_config(composed if name == composed.algorithm else with_algorithm(name, composed)) for name in names
    }
    numbers = [int(number) for number in composed.values.get(_RANKS, str(cfg.ranks)).split(",")]
    if numbers != [1]:
        if cfg.profile:
            raise ConfigError("profile=true traces one process alone; leave out ranks")
        configs = {f"{name}, {quantity(ranks, 'rank')}": {**configs[name], "ranks": ranks} for name in names for ranks in numbers}
        names = list(configs)
    if _AHEAD in composed.values:
        configs = {
            f"{name}, ahead by {ahead}": {**configs[name], "rollout": {**configs[name]["rollout"], "ahead": int(ahead)}}
            for name in names
            for ahead in composed.values[_AHEAD].split(",")
        }
        names = list(configs)
    with full_disk_explained(Path(cfg.out), key="out=DIR"):  # before minutes of measuring, not after
        Path(cfg.out).mkdir(parents=True, exist_ok=True)
    rounds: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}
    for number in range(cfg.rounds):
        for name in names:
            trace = str(Path(cfg.out) / f"trace_{file_name(name)}.json") if cfg.profile and number == 0 else None
            rounds[name].append(measured_round(configs[name], cfg, number, trace))
            if not cfg.json:
                print(f"round {number + 1} of {cfg.rounds}: {name}: {round_text(rounds[name][-1])}", flush=True)
    show(composed, rounds)
    return 0


def with_algorithm(name: str, composed: Composed) -> Composed:
    """The same command line with another algorithm, checked: an error is raised before the first measurement."""
    from rlx.cli.failure import composed_line
    from rlx.config.compose import CommandLine

    own = [f"algorithm={name}" if override.startswith("algorithm=") else override for override in composed.overrides]
    values = {key: value for key, value in composed.values.items() if key != _NAMES}
    found = composed_line(CommandLine(argv=list(composed.command[1:]), verb="bench", overrides=own, values=values))
    found.check(BenchConfig)
    return found


def training_config(composed: Composed) -> dict[str, Any]:
    """The config of rlx train with which an algorithm is measured."""
    from omegaconf import OmegaConf, open_dict

    from rlx.config.compose import compose

    train = compose("train", ["logger=[]", "checkpoint.every=null", "eval_every=null"])
    with open_dict(train):
        del train["sweep"]
        for key in _KEYS:
            train[key] = composed.config[key]
        train.evaluation.num_prompts = train.evaluation.num_pairs = composed.config.num_prompts
        train.evaluation.num_shown = 0
    config = OmegaConf.to_container(train, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def measured_round(config: Mapping[str, Any], cfg: DictConfig, number: int, trace: str | None) -> Mapping[str, Any]:
    """The measurements of one round of one algorithm, which runs in its own process, or as several ranks."""
    budget = {"tokens": cfg.tokens, "seconds": cfg.seconds, "warmup_steps": cfg.warmup_steps, "trace": trace}
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps({"config": {**config, "seed": cfg.seed + number}, "budget": budget}))
        _measure(config, [str(asked), str(answer)])
        found: dict[str, Any] = json.loads(answer.read_text())
    if "error" in found:
        error = RlxError(*found["error"].splitlines())
        error.exit_code = found["exit_code"]
        raise error
    return found


def _measure(config: Mapping[str, Any], files: list[str]) -> None:
    """Run what measures. files: its request, and the answer that it writes. Raises TrainingError if it writes none."""
    module, several = "rlx.workbench.bench", config["ranks"] > 1
    if several:
        from rlx.parallel.launch import launch

        outcome = launch(
            files, ranks=config["ranks"], timeout=config["parallel"]["timeout"], threads=config["threads"], module=module
        )
        code, lines = outcome.code, outcome.message.splitlines()
    else:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-m", module, *files]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        code, lines = done.returncode, done.stderr.strip().splitlines()[-12:]
    if code or not Path(files[1]).exists():
        what = "processes" if several else "process"
        raise TrainingError(f"the measuring {what} ended with exit code {code}{'; the last lines:' if lines else ''}", *lines)


def show(composed: Composed, rounds: Mapping[str, list[Mapping[str, Any]]]) -> None:
    """Write the files, and print the results as a table or as JSON."""
    cfg = composed.config
    import platform

    import torch

    from rlx.record.files import write_atomic
    from rlx.report.bench import bench_lines, write_plot
    from rlx.workbench.bench import summarised

    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": cfg.threads or torch.get_num_threads(),
        "torch": torch.__version__,
    }
    budget = {key: cfg[key] for key in ("rounds", "tokens", "seconds", "num_prompts", "warmup_steps", "seed")}
    result = {
        "command": list(composed.command),
        "task": str(cfg.task.name),
        "machine": machine,
        "budget": budget,
        "algorithms": {name: {"summary": summarised(each), "rounds": each} for name, each in with_efficiency(rounds).items()},
    }
    text = json.dumps(result, indent=1)
    directory = Path(cfg.out)
    with full_disk_explained(directory, key="out=DIR"):
        write_atomic(directory / "bench.json", text + "\n")
        if cfg.plot:
            write_plot(result, directory / "bench.png")
    if cfg.json:
        print(text)
        return
    print("\n".join(["", *bench_lines(result)]))
    files = [
        "bench.json",
        *(["bench.png"] if cfg.plot else []),
        *(f"trace_{file_name(name)}.json" for name in rounds if cfg.profile),
    ]
    print(f"\nwritten: {', '.join(str(directory / file) for file in files)}")


def with_efficiency(rounds: Mapping[str, list[Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rounds, each with its efficiency: tokens per second and device, relative to the first number of ranks.

    A device is a GPU, or a CPU thread: two ranks of one thread have as many as one rank of two.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, each in rounds.items():
        algorithm, _, ranks = name.partition(", ")
        first = next(other for label, other in rounds.items() if label.partition(", ")[0] == algorithm)
        speeds = [one["tokens_per_second"] / one["devices"] for one in each]
        own = [one["tokens_per_second"] / one["devices"] for one in first]
        shown = [speed / other if ranks else None for speed, other in zip(speeds, own, strict=True)]
        found[name] = [{**one, "efficiency": value} for one, value in zip(each, shown, strict=True)]
    return found


def round_text(found: Mapping[str, Any]) -> str:
    """The measurements of one round in one line, printed as soon as it ends."""
    return f"{found['tokens_per_second']:,.0f} tokens/s, {found['steps']} steps in {found['seconds']:.1f} s"


def file_name(name: str) -> str:
    """An algorithm's name, reduced to characters that are valid in a file name."""
    return "".join(character if character.isalnum() or character in "._-" else "_" for character in name)
