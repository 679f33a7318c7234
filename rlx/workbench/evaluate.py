"""Scores a checkpoint, or any policy, on a task, and writes the figures to their own record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlx.errors import ConfigError
from rlx.experiment import set_threads, token_store, torch_device
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.record.files import relative
from rlx.record.provenance import provenance
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult
from rlx.training.evaluate import Evaluation, Evaluator
from rlx.training.summary import peak_memory
from rlx.workbench.choice import PolicyChoice

VERB = "evaluate"


@dataclass(frozen=True)
class Scored:
    """An evaluation: its figures, the directory of its record, the policy and the task."""

    evaluation: Evaluation
    directory: Path
    policy: str
    task: str
    num_prompts: int


def evaluate_checkpoint(
    cfg: DictConfig, choice: PolicyChoice, *, command: Sequence[str], overrides: Sequence[str], directory: Path | None = None
) -> Scored:
    """Evaluate `choice` as the config says. directory: of the record, if the caller chose one.

    Raises RlxError; once the policy is loaded, the record then has the status failed.
    """
    start = time.monotonic()
    set_threads(cfg.threads)
    task, sampler = choice.make("task"), choice.make("rollout")
    device = torch_device(cfg.device)
    policy = choice.load(device)
    policy.pair_tokenizer.store = token_store(cfg.cache_dir)
    evaluator = Evaluator(
        task=task,
        reference=Reference(_start(choice, policy, task.score, device), cache_dir=cfg.cache_dir),
        sampler=sampler,
        micro_batch=cfg.micro_batch,
        temperature=cfg.temperature,
        **cfg.evaluation,
    )
    label = policy.name if choice.weights is None else relative(choice.weights)
    recorder = _recorder(cfg, choice, task, command, overrides, directory, label=label)
    try:
        evaluation = evaluator(policy)
        if choice.start is None:
            evaluation = replace(evaluation, metrics=_without_drift(evaluation.metrics))
        seconds = time.monotonic() - start
        figures = {f"eval/{name}": value for name, value in evaluation.metrics.items()}
        steps = _steps(choice)
        recorder.log(steps, {**figures, "time/evaluation_seconds": seconds})
        recorder.samples(steps, evaluation.samples)
        recorder.answers(steps, evaluation.answers, digest=evaluation.digest, completions=evaluation.completions)
        recorder.finish(_result(choice, recorder, figures, seconds, evaluation))
    except BaseException as error:
        recorder.fail(error)
        raise
    count = min(len(task.held_out_prompts()), cfg.evaluation.num_prompts)
    return Scored(evaluation, recorder.directory, label, task.name, count)


def _start(choice: PolicyChoice, policy: Policy, score: str, device: torch.device) -> Policy:
    """The policy that KL and implicit rewards are measured against: the run's initial policy."""
    started = choice.load_start(device)
    if started is not None:
        return started
    if score == "pair_accuracy":
        raise ConfigError(
            "a preference task is scored by how far a policy moved from the one that its run began with, and "
            f"{policy.name} comes without a run; name a RUN or a checkpoint in it"
        )
    return policy


def _without_drift(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures without those measured against a run's initial policy, which would be the policy itself here."""
    return {name: value for name, value in figures.items() if name not in ("kl", "pair_accuracy") and "log_ratio" not in name}


def _steps(choice: PolicyChoice) -> int:
    """The steps behind the policy; for a completed run all its steps, whichever checkpoint was taken."""
    result = choice.record.result if choice.record is not None else None
    steps = result.metadata.get("steps") if result is not None else None
    return int(steps) if isinstance(steps, int) else choice.step


def _recorder(
    cfg: DictConfig,
    choice: PolicyChoice,
    task: Any,
    command: Sequence[str],
    overrides: Sequence[str],
    directory: Path | None,
    *,
    label: str,
) -> Recorder:
    """The record names the run's algorithm, variant and seed, so that it compares as the run would."""
    record = choice.record if choice.weights is not None else None
    nodes = {**choice.nodes, **({"policy": choice.start} if choice.start is not None else {})}
    settings = OmegaConf.to_container(cfg.evaluation, resolve=True)
    config = {
        **(dict(record.config) if record is not None else {}),
        **nodes,
        "evaluation": settings,
        "temperature": cfg.temperature,
        "precision": choice.precision,
        "matmul": choice.matmul,
    }
    evaluated = {"policy": label, "run": None if record is None else str(record.directory), "step": choice.step}
    return Recorder.create(
        directory,
        output_dir=cfg.output_dir,
        verb=VERB,
        command=command,
        config=config,
        config_yaml=OmegaConf.to_yaml(OmegaConf.create(config)),
        overrides=overrides,
        algorithm=label if record is None else record.algorithm,
        variant=label if record is None else record.variant,
        task=task.name,
        seed=0 if record is None else record.seed,
        threads=torch.get_num_threads(),
        provenance={**provenance(), "data": task.content_hash(), "evaluated": evaluated},
    )


def _result(
    choice: PolicyChoice, recorder: Recorder, figures: Mapping[str, float], seconds: float, evaluation: Evaluation
) -> AlgorithmResult:
    return AlgorithmResult(
        algorithm_name=recorder.record.algorithm,
        performance_metrics=dict(figures),
        training_time=seconds,
        metadata={
            "steps": _steps(choice),
            "checkpoint_step": choice.step,
            "tokens_sampled": evaluation.tokens_sampled,
            "peak_memory_bytes": peak_memory(),
            "directory": str(recorder.directory),
        },
    )
