"""Descriptions of a run and its result as plain values, for the record and the terminal."""

from __future__ import annotations

import contextlib
import resource
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlx.comparison.wording import quantity
from rlx.data.survey import brief, brief_of_prompts
from rlx.data.tokenized import TokenizedPairs
from rlx.experiment import Experiment
from rlx.fields import shown
from rlx.record.files import relative
from rlx.record.run import AlgorithmResult, RunRecord
from rlx.record.trust import words_again
from rlx.training.checkpoint import TrainerState
from rlx.training.gradients import TOKENS_AT_ONCE
from rlx.training.memory import AUTO


def opening_facts(cfg: DictConfig, experiment: Experiment, record: RunRecord) -> dict[str, str]:
    """Label -> text of the table shown before the first step of a run."""
    policy, task = experiment.policy, experiment.task
    facts = {
        "task": task.name,
        **task.facts(),
        "score": task.score_facts(),
        "policy": f"{policy.name}, {policy.num_parameters / 1e6:.2f} M parameters, "
        + ("shared-prefix rows" if policy.shared_prefix else "plain rows"),
        "algorithm": f"{record.algorithm} ({type(experiment.algorithm).kind.value}): "
        + hyperparameters_text(cfg.algorithm, skip=("loss",)),
    }
    if cfg.loss is not None:
        facts["loss"] = f"{cfg.loss._target_.rpartition('.')[2]}: {hyperparameters_text(cfg.loss)}"
    if task.has_pairs:
        kind = "demonstrations" if "demonstrations" in task.offers else "pairs"
        held_out = policy.pair_tokenizer(task.held_out_pairs())
        if experiment.algorithm.reads_pairs:
            learn = policy.pair_tokenizer(task.pairs())
            facts[kind] = facts.get(kind, f"{len(learn)} to learn from") + left_out(learn, held_out)
            facts |= brief(task, policy)
        else:
            figure = "pair_accuracy" if kind == "pairs" else "log_likelihood"
            aside = f"held out, for figures such as {figure}; none is learned from"
            facts[kind] = f"{len(held_out)} {aside}" + left_out(held_out)
    if "rewards" in task.offers and not experiment.algorithm.reads_pairs:
        facts |= brief_of_prompts(task, policy.text)
    held = "a part of every weight" if cfg.parallel.mode == "sharded" else "the whole policy"
    several = f", {cfg.ranks} ranks, each with {held}" if cfg.ranks != 1 else ""
    onednn = " with oneDNN" if policy.multiplies_by_onednn else ""
    where = f"{record.threads} threads, {policy.device}{onednn}{several}"
    facts["steps"] = f"{cfg.num_steps}, {rows_text(cfg.micro_batch)} at once, seed {cfg.seed}, {where}"
    facts["record"] = relative(record.directory)
    return facts | {f"note {number}": note for number, note in enumerate([*task.notes(), *policy.notes], start=1)}


def rows_text(micro_batch: int | str | None) -> str:
    """The number of rows per forward pass, as text."""
    if micro_batch is None:
        return f"up to {TOKENS_AT_ONCE:,} tokens"
    return "as many rows as fit" if micro_batch == AUTO else quantity(int(micro_batch), "row")


def left_out(*sides: TokenizedPairs) -> str:
    """How many pairs of a split tokenisation dropped and why, and how many prompts it shortened, as text."""
    dropped = sum((Counter(side.dropped) for side in sides), Counter())
    said = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    leaving = f"; dropped: {said}, leaving {' and '.join(str(len(side)) for side in sides)}" if said else ""
    cut = sum(side.truncated for side in sides)
    return leaving + (f"; {cut} prompts lost their beginning" if cut else "")


def hyperparameters_text(node: Any, *, skip: Sequence[str] = ()) -> str:
    """`name=value` of a node's plain hyperparameters, and the names of its parts (advantage=gae)."""
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    own = {str(name): value for name, value in values.items() if name not in skip and not str(name).startswith("_")}
    texts = [f"{name}={shown(value)}" for name, value in own.items()]
    plain = [text for text in texts if "{" not in text]
    return ", ".join([*plain, *_parts(own)]) or "no hyperparameters"


def _parts(values: Mapping[Any, Any], above: str = "") -> list[str]:
    """`name=class` of the nodes among the values, including nested ones."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and "_target_" in value:
            found.append(f"{above}{name}={value['_target_'].rpartition('.')[2]}")
            found += _parts(value, f"{above}{name}.")
    return found


def convergence_step(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """The first evaluated step whose score is within 1 % of the best."""
    scores = [(line["step"], line["eval/score"]) for line in lines if "eval/score" in line]
    if not scores:
        return None
    best = max(score for _, score in scores)
    return next(int(step) for step, score in scores if score >= best - 0.01 * abs(best))


def result_of(
    record: RunRecord, progress: TrainerState, metrics: Mapping[str, float], lines: Sequence[Mapping[str, Any]]
) -> AlgorithmResult:
    """The result of a completed run."""
    first = next((line for line in lines if "eval/score" in line), {})
    return AlgorithmResult(
        algorithm_name=record.algorithm,
        performance_metrics=dict(metrics),
        training_time=progress.seconds,
        convergence_steps=convergence_step(lines),
        metadata={
            "steps": progress.step,
            **{name: int(total) for name, total in progress.totals.items()},
            "score_before": first.get("eval/score"),
            "best_score": progress.best_score,
            "best_step": progress.best_step,
            "peak_memory_bytes": peak_memory(),
            "directory": str(record.directory),
        },
    )


def peak_memory() -> int:
    """The peak resident memory of this process in bytes."""
    with contextlib.suppress(OSError, StopIteration, ValueError):  # on Linux, getrusage includes the parent's memory
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def closing_summary(record: RunRecord, result: AlgorithmResult, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary shown when a run ends: metrics before and after, speed, and commands to try next."""
    first = next((line for line in lines if "eval/score" in line), {})
    last = result.performance_metrics
    shown = [name for name in last if name in first]
    updates = sum(line.get("time/update_seconds", 0.0) for line in lines)
    return {
        "figures": {name.removeprefix("eval/"): (first[name], last[name]) for name in shown},
        "tokens_per_second": result.metadata.get("tokens_trained", 0) / updates if updates else None,
        "seconds": result.training_time,
        "record": relative(record.directory),
        "next": next_commands(record),
    }


def next_commands(record: RunRecord) -> list[str]:
    """Commands to try after a run: the same run with five seeds, and commands that show the results."""
    output_dir = str(record.config["output_dir"])
    commands = [shlex.join(["rlx", "-m", *words_again(record), "seed=range(0,5)"]), "rlx runs sort=-score"]
    if output_dir != "outputs":
        commands[1] = shlex.join(["rlx", "runs", output_dir, "sort=-score"])
    if "tensorboard" in (record.config["logger"] or {}):
        commands.append(shlex.join(["tensorboard", "--logdir", output_dir]))
    return commands
