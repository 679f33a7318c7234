"""Run records as the recorder documents them, made up: nothing here trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LOSSES = {"custom_dpo": "Dpo", "hybrid": "Hybrid", "grpo": "Grpo", "dpo": "Dpo"}


def config_of(algorithm: str, *, seed: int, num_steps: int = 100, task: str = "arithmetic", **changes: Any) -> dict[str, Any]:
    """A resolved config; changes are dotted keys with __ for the dot."""
    config: dict[str, Any] = {
        "algorithm": {
            "_target_": f"rlx.algorithm.{algorithm}.X",
            "loss": {"_target_": "rlx.loss.preference.margin.dpo", "beta": 0.1},
        },
        "loss": {"_target_": "rlx.loss.preference.margin.dpo", "beta": 0.1},
        "task": {"_target_": f"rlx.task.{task}.T", "name": task, "max_operand": 99},
        "policy": {"_target_": "rlx.policy.tiny.load_tiny"},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001},
        "seed": seed,
        "num_steps": num_steps,
        "stop_at_score": None,
        "max_seconds": None,
        "evaluation": {"num_prompts": 512, "samples_per_prompt": 1, "num_pairs": 512, "num_shown": 4},
        "output_dir": "outputs",
        "logger": {},
    }
    for name, value in changes.items():
        node = config
        *path, leaf = name.split("__")
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return config


def answers_of(score: float, *, seed: int = 0, prompts: int = 64, spread: float = 0.1) -> list[float]:
    """Real scores per prompt of exactly this mean: the prompts' difficulty, and noise that depends on the seed."""
    difficulty = np.random.default_rng(prompts).normal(0, spread, prompts)
    values = difficulty + np.random.default_rng([seed, 7]).normal(0, spread, prompts)
    return [float(value) for value in values - values.mean() + score]


def write_run(
    directory: Path,
    *,
    algorithm: str = "custom_dpo",
    seed: int = 0,
    score: float | None = 0.5,
    status: str = "completed",
    num_steps: int = 100,
    task: str = "arithmetic",
    curve: list[float] | None = None,
    samples: list[dict[str, Any]] | None = None,
    answers: list[float] | None = None,
    completions: list[dict[str, Any]] | None = None,
    digest: str | None = None,
    tokens: int = 10_000,
    kl: float = 0.4,
    overrides: list[str] | None = None,
    noise: float | None = None,
    record: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """One run directory: run.json, metrics.jsonl, samples.jsonl. `noise`: of train/loss, by which runs of equal score differ."""
    directory.mkdir(parents=True)
    config = config_of(algorithm, seed=seed, num_steps=num_steps, task=task, **changes)
    heights = curve if curve is not None else list(np.linspace(0.3, score, 5)) if score is not None else [0.3]
    steps = np.linspace(0, num_steps if status == "completed" else num_steps * 0.4, len(heights)).round().astype(int)
    jitter = float(np.random.default_rng([seed, 1]).normal()) if noise is None else noise
    rows = [
        {
            "step": int(step),
            "train/loss": 0.7 + 0.01 * jitter,
            "eval/score": float(height),
            "eval/accuracy": float(height),
            "eval/kl": kl,
        }
        for step, height in zip(steps, heights, strict=True)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if samples:
        (directory / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    if answers is not None:
        about = {"prompts": digest} if digest is not None else {}
        (directory / "answers.jsonl").write_text(json.dumps({"step": num_steps, "score": answers, **about}) + "\n")
    if completions is not None:
        lines = [json.dumps({"step": num_steps, **row}) + "\n" for row in completions]
        (directory / "completions.jsonl").write_text("".join(lines))
    result = {
        "algorithm_name": algorithm,
        "performance_metrics": {"eval/score": score if score is None or curve is None else float(heights[-1]), "eval/kl": kl},
        "training_time": 12.5,
        "convergence_steps": None,
        "metadata": {"steps": num_steps, "tokens_sampled": 0, "tokens_trained": tokens},
    }
    values = {
        "schema_version": 1,
        "id": directory.name,
        "status": status,
        "command": ["rlx", "train", f"algorithm={algorithm}", f"seed={seed}"],
        "verb": "train",
        "algorithm": algorithm,
        "variant": algorithm,
        "task": task,
        "seed": seed,
        "threads": 1,
        "config": config,
        "config_hash": f"{algorithm}-{seed}-{sorted(changes.items())}-{task}-{num_steps}",
        "overrides": overrides if overrides is not None else [f"algorithm={algorithm}", f"seed={seed}"],
        "sources": [],
        "provenance": {"rlx": {"version": "0.1.0", "code": "abc"}, "git": {"commit": "0" * 40, "dirty": False}, "host": "here"},
        "started": f"2026-01-01T00:00:{seed:02d}+00:00",
        "ended": "2026-01-01T01:00:00+00:00",
        "error": {"type": "TrainingError", "message": "the loss is not finite", "step": 40} if status == "failed" else None,
        "result": result if status == "completed" else None,
        "process": {},
    }
    (directory / "run.json").write_text(json.dumps({**values, **(record or {})}))
    return directory


def write_sweep(root: Path, scores: dict[str, list[float]], *, with_answers: bool = False, **options: Any) -> Path:
    """One run a score, seeds counting from 0; the keys are algorithms. with_answers: each run keeps answers per prompt."""
    for algorithm, values in scores.items():
        for seed, score in enumerate(values):
            if with_answers:
                options["answers"] = answers_of(score, seed=seed + 1000 * len(algorithm))
            place = root / f"{algorithm}_{seed}_{options.get('task', '')}"
            write_run(place, algorithm=algorithm, seed=seed, score=score, **options)
    return root


def normal_scores(mean: float, spread: float, seeds: int, *, seed: int = 0) -> list[float]:
    """Scores of exactly this mean and standard deviation."""
    values = np.random.default_rng(seed).normal(size=seeds)
    values = (values - values.mean()) / values.std(ddof=1)
    return [float(value) for value in mean + spread * values]
