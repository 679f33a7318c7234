"""Run records: training writes them, comparison and report read them. Reading them does not import torch."""

from rlx.record.files import read_metrics, read_samples
from rlx.record.run import AlgorithmResult, RunRecord, find_runs, read_run

__all__ = ["AlgorithmResult", "RunRecord", "find_runs", "read_metrics", "read_run", "read_samples"]
