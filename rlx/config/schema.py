"""Types and ranges of conf/train.yaml. Values and comments are in the YAML file only."""

import math
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from rlx.errors import ConfigError
from rlx.fields import non_empty, one_of, within

MOST_SAMPLES = 100_000  # completions of one prompt


def at_least(
    smallest: float, *, at_most: float = math.inf, whole: bool = True, optional: bool = False, also: tuple[str, ...] = ()
) -> Any:
    """A number, set in the YAML file, that must be at least this. optional: null is also allowed; also: so are these values."""
    return within(at_least=smallest, at_most=at_most, whole=whole, optional=optional, also=also, default=MISSING)


@dataclass
class EvaluationConfig:
    """How much is measured at each evaluation."""

    num_prompts: int = at_least(1)
    samples_per_prompt: int = at_least(1, at_most=MOST_SAMPLES)
    num_pairs: int = at_least(1)
    num_shown: int = at_least(0)
    pass_at_k: list[int] | None = MISSING


@dataclass
class ParameterGroupsConfig:
    """Separate learning rates and weight decay for parts of the weights."""

    decay_norms_and_biases: bool = MISSING
    embedding_rate: float = at_least(0, whole=False)
    value_head_rate: float = at_least(0, whole=False)


@dataclass
class CheckpointConfig:
    """When checkpoints are written, and which ones are kept."""

    every: int | None = at_least(1, optional=True)
    keep_last: int = at_least(1)
    keep_best: bool = MISSING


@dataclass
class ExportConfig:
    """Where the final weights are written, as a transformers directory."""

    path: str | None = MISSING
    dtype: str = one_of(("float32", "float16", "bfloat16"), default=MISSING)
    merge: bool = MISSING


@dataclass
class ParallelConfig:
    """How the ranks of a run share the work; conf/parallel has its options."""

    mode: str = one_of(("replicated", "sharded"), default=MISSING)
    timeout: float = at_least(1, whole=False)


@dataclass
class RunNodes:
    """The nodes of a run's config. Each is checked against the class that it names."""

    algorithm: Any = MISSING
    loss: Any = None
    task: Any = MISSING
    policy: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    rollout: Any = MISSING


@dataclass
class RunConfig(RunNodes):
    """The top level of a run's config."""

    logger: dict[str, Any] = field(default_factory=dict)
    sweep: Any = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    seed: int = at_least(0)
    num_steps: int = at_least(1)
    eval_every: int | None = at_least(1, optional=True)
    micro_batch: int | str | None = at_least(1, optional=True, also=("auto",))
    precision: str = one_of(("float32", "bfloat16"), default=MISSING)
    matmul: str = one_of(("auto", "torch", "onednn"), default=MISSING)
    activation_checkpointing: bool = MISSING
    threads: int | None = at_least(1, optional=True)
    device: str = MISSING
    ranks: Any = MISSING
    parameter_groups: ParameterGroupsConfig = field(default_factory=ParameterGroupsConfig)
    stop_at_score: float | None = within(optional=True, default=MISSING)
    max_seconds: float | None = within(above=0, optional=True, default=MISSING)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    output_dir: str = non_empty(default=MISSING, advice="give a folder, or leave it out")
    cache_dir: str = non_empty(default=MISSING, advice="give a folder, or leave it out")
    plan: bool = MISSING
    resume: str | None = MISSING
    rerun: str | None = MISSING
    allow_changed: list[str] = one_of(("data", "code"), each=True, default=list)  # noqa: RUF009


def conf_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"the folder conf with train.yaml lies neither in {package} nor beside it; install rlx again")


# Registered on import, so that a sweep's worker processes have it too; cached, so that all jobs see their sweep's token.
OmegaConf.register_new_resolver("rlx_token", lambda: secrets.token_hex(3), use_cache=True, replace=True)
