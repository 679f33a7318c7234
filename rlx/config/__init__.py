"""The typed configuration: where it lies, what its keys are, and what may be named in it. Imports no torch."""

from rlx.config.schema import CheckpointConfig, EvaluationConfig, ExportConfig, RunConfig, conf_dir

__all__ = ["CheckpointConfig", "EvaluationConfig", "ExportConfig", "RunConfig", "conf_dir"]
