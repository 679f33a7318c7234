"""The types of conf/evaluate.yaml and conf/sample.yaml. Values and comments stand in the YAML alone."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlx.config.schema import EvaluationConfig, at_least


@dataclass
class EvaluateConfig:
    """rlx evaluate. task, policy and rollout are None where the run's own are meant, or hold a few keys to change in them."""

    run: str | None = MISSING
    checkpoint: Any = MISSING
    task: Any = None
    policy: Any = None
    rollout: Any = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    temperature: float = MISSING
    micro_batch: int | None = at_least(1)
    threads: int | None = at_least(1)
    device: str = MISSING
    output_dir: str = MISSING
    cache_dir: str = MISSING


@dataclass
class SampleConfig:
    """rlx sample. task, policy and rollout as in EvaluateConfig."""

    run: str | None = MISSING
    checkpoint: Any = MISSING
    prompt: Any = MISSING
    num_prompts: int = at_least(1)
    num_samples: int = at_least(1)
    greedy: bool = MISSING
    temperature: float | None = MISSING
    top_k: int | None = MISSING
    top_p: float | None = MISSING
    min_p: float | None = MISSING
    stop: Any = MISSING
    max_new_tokens: int | None = at_least(1)
    seed: int = at_least(0)
    format: str = field(default=MISSING, metadata={"one_of": ("text", "json")})
    task: Any = None
    policy: Any = None
    rollout: Any = None
    threads: int | None = at_least(1)
    device: str = MISSING
