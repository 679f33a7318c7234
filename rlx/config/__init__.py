"""The typed configuration: its files, its keys, and the code that it may name. Does not import torch."""

from rlx.config.schema import CheckpointConfig, EvaluationConfig, ExportConfig, RunConfig, conf_dir

__all__ = ["CheckpointConfig", "EvaluationConfig", "ExportConfig", "RunConfig", "conf_dir"]
