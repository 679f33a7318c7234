"""Evaluates a run's checkpoint, or any policy, on a task (greedy accuracy, mean reward, pass@k) and records the figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from rlx.config.schema import EvaluationConfig, at_least
from rlx.fields import LEAST_TEMPERATURE, one_of, within
from rlx.record.files import relative

if TYPE_CHECKING:
    from rlx.config.compose import Composed
    from rlx.workbench.evaluate import Scored

WORDS = "run"


@dataclass
class EvaluateConfig:
    """Config of rlx evaluate. task, policy, rollout: None takes the run's own; a mapping of some keys changes those in it."""

    run: str | None = MISSING
    checkpoint: Any = MISSING
    task: Any = None
    policy: Any = None
    rollout: Any = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    temperature: float = within(at_least=LEAST_TEMPERATURE, default=MISSING)
    micro_batch: int | None = at_least(1, optional=True)
    threads: int | None = at_least(1, optional=True)
    device: str = MISSING
    precision: str | None = one_of(("float32", "bfloat16"), optional=True, default=MISSING)
    output_dir: str = MISSING
    cache_dir: str = MISSING


SCHEMA = EvaluateConfig


def run(composed: Composed) -> int:
    """Evaluate what the config names and print the figures; returns the exit code."""
    from rlx.workbench.choice import choose_policy
    from rlx.workbench.evaluate import evaluate_checkpoint

    subject = choose_policy(composed.config, verb="evaluate", allowed=composed.allowed)
    scored = evaluate_checkpoint(
        composed.config,
        subject,
        command=list(composed.command),
        overrides=list(composed.overrides),
        directory=composed.directory,
    )
    print("\n".join(figure_lines(scored)))
    return 0


def figure_lines(scored: Scored) -> list[str]:
    """The figures, and the completions that the evaluation kept, as lines of text."""
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
    facts["record"] = relative(scored.directory)
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {text}" for name, text in facts.items()]
    for row in scored.evaluation.samples:
        reward = f"   reward {row['reward']:g}" if "reward" in row else ""
        lines += ["", f"{row['prompt']!r}", f"  greedy   {row['completion']!r}{reward}", f"  sampled  {row['sampled']!r}"]
    return lines
