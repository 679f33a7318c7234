"""The types of conf/check.yaml, conf/new.yaml and conf/bench.yaml. Values and comments stand in the YAML alone."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from rlx.config.schema import at_least


@dataclass
class CheckConfig:
    """rlx check."""

    algorithm: Any = None
    loss: Any = None
    task: Any = MISSING
    policy: Any = MISSING
    optimizer: Any = MISSING
    rollout: Any = MISSING
    laws: Any = None
    seed: int = at_least(0)
    threads: int | None = at_least(1)
    json: bool = MISSING


@dataclass
class NewConfig:
    """rlx new."""

    words: Any = MISSING
    out: str = MISSING
    force: bool = MISSING


@dataclass
class BenchConfig:
    """rlx bench; what it runs is a config of rlx train."""

    algorithm: Any = MISSING
    loss: Any = None
    task: Any = MISSING
    policy: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    rollout: Any = MISSING
    rounds: int = at_least(1)
    tokens: int = at_least(1)
    seconds: float = at_least(0)
    warmup_steps: int = at_least(0)
    num_prompts: int = at_least(1)
    num_steps: int = at_least(1)
    seed: int = at_least(0)
    micro_batch: int | None = at_least(1)
    threads: int | None = at_least(1)
    device: str = MISSING
    profile: bool = MISSING
    plot: bool = MISSING
    out: str = MISSING
    json: bool = MISSING
