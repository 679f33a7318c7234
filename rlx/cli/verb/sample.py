"""Prints completions that a checkpoint, or any policy, samples for prompts, with their log-probabilities."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from rlx.config.schema import MOST_SAMPLES, at_least
from rlx.fields import LEAST_TEMPERATURE, one_of, within
from rlx.record.files import prompt_text, turn_lines

if TYPE_CHECKING:
    from rlx.config.compose import Composed
    from rlx.workbench.sample import Completion

WORDS = "run"


@dataclass
class SampleConfig:
    """Config of rlx sample. task, policy and rollout are as in EvaluateConfig."""

    run: str | None = MISSING
    checkpoint: Any = MISSING
    prompt: Any = MISSING
    chat: bool | None = MISSING
    num_prompts: int = at_least(1)
    num_samples: int = at_least(1, at_most=MOST_SAMPLES)
    greedy: bool = MISSING
    temperature: float | None = within(at_least=LEAST_TEMPERATURE, optional=True, default=MISSING)
    top_k: int | None = at_least(1, optional=True)
    top_p: float | None = within(above=0, at_most=1, optional=True, default=MISSING)
    min_p: float | None = within(at_least=0, at_most=1, optional=True, default=MISSING)
    stop: Any = MISSING
    max_new_tokens: int | None = at_least(1, optional=True)
    seed: int = at_least(0)
    format: str = one_of(("text", "json"), default=MISSING)
    task: Any = None
    policy: Any = None
    rollout: Any = None
    threads: int | None = at_least(1, optional=True)
    device: str = MISSING
    precision: str | None = one_of(("float32", "bfloat16"), optional=True, default=MISSING)


SCHEMA = SampleConfig
NO_SWEEP = 'several prompts are a list, \'prompt=["12+34=","5+6="]\''


def run(composed: Composed) -> int:
    """Sample what the config names and print it; returns the exit code."""
    from rlx.workbench.choice import choose_policy
    from rlx.workbench.sample import sample_checkpoint

    cfg = composed.config
    choice = choose_policy(cfg, verb="sample", allowed=composed.allowed)
    groups = sample_checkpoint(cfg, choice, lambda text: print(f"note: {text}", file=sys.stderr, flush=True))
    if cfg.format == "json":
        print("\n".join(json.dumps(item.to_dict(), ensure_ascii=False) for group in groups for item in group))
    else:
        print("\n\n".join("\n".join(completion_lines(group)) for group in groups))
    return 0


def completion_lines(group: Sequence[Completion]) -> list[str]:
    """The prompt (one line per message) and a line for each completion, which begins with its log-probability (nats)."""
    asked = group[0].prompt
    shown = prompt_text(asked)
    lines = [repr(asked)] if shown is asked else shown.splitlines()
    for item in group:
        ending = "" if item.finished else "  (cut off)"
        reward = "" if item.reward is None else f"  reward {item.reward['reward']:g}"
        tokens = f"{item.num_tokens} token{'s' if item.num_tokens != 1 else ''}"
        shown = repr(item.text) if item.turns is None else f"{sum(turn['role'] == 'assistant' for turn in item.turns)} turns"
        lines.append(f"  logprob {item.logprob:9.4f}  {tokens:>10}{reward}  {shown}{ending}")
        lines += [f"    {line}" for turn in turn_lines(item.turns or ()) for line in turn.splitlines()]
    return lines
