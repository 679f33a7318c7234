"""Scores a run's checkpoint, or any policy, on a task: greedy accuracy, mean reward, pass@k; and records it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlx.cli.line import CommandLine
    from rlx.workbench.evaluate import Scored

WORDS = "run"


def run(cfg: DictConfig, line: CommandLine) -> int:
    """Evaluate what the config names and print the figures; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig

    from rlx.cli.line import allowed_targets
    from rlx.config.check import check_keys, paths_of, plain
    from rlx.config.schema import EvaluateConfig

    values = plain(cfg)
    check_keys(values, EvaluateConfig, "", list(paths_of(values)), owner="rlx evaluate")

    from rlx.workbench.choice import choose_policy
    from rlx.workbench.evaluate import evaluate_checkpoint

    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    directory = Path(hydra.runtime.output_dir) if line.is_multirun or hydra.run.dir != "." else None
    subject = choose_policy(cfg, allowed=allowed_targets(line))
    command = ["rlx", "evaluate", *overrides] if line.is_multirun else ["rlx", *line.argv]
    scored = evaluate_checkpoint(cfg, subject, command=command, overrides=overrides, directory=directory)
    print("\n".join(shown(scored)))
    return 0


def shown(scored: Scored) -> list[str]:
    """The figures and some completions as lines of text."""
    figures = scored.evaluation.metrics
    facts = {
        "policy": scored.policy,
        "task": f"{scored.task}, {scored.num_prompts} held-out prompts" if scored.num_prompts else scored.task,
    }
    errors = {name: value for name, value in figures.items() if name.endswith("_standard_error")}
    for name, value in figures.items():
        if name not in errors:
            error = errors.get(f"{name}_standard_error")
            facts[name] = f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g} (standard error over prompts)"
    inside = scored.directory.is_relative_to(Path.cwd())
    facts["record"] = str(scored.directory.relative_to(Path.cwd()) if inside else scored.directory)
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {text}" for name, text in facts.items()]
    for row in scored.evaluation.samples:
        reward = f"   reward {row['reward']:g}" if "reward" in row else ""
        lines += ["", f"{row['prompt']!r}", f"  greedy   {row['completion']!r}{reward}", f"  sampled  {row['sampled']!r}"]
    return lines
