"""The shelf between the learning and the evidence wing: run records. Reading them needs the standard library alone."""

from rlx.record.lines import read_metrics, read_samples
from rlx.record.run import AlgorithmResult, RunRecord, find_runs, read_run

__all__ = ["AlgorithmResult", "RunRecord", "find_runs", "read_metrics", "read_run", "read_samples"]
