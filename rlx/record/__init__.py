"""The shelf between the learning and the evidence wing: run records. Reading them needs the standard library alone."""

from rlx.record.run import AlgorithmResult, RunRecord, find_runs, read_metrics, read_run, read_samples

__all__ = ["AlgorithmResult", "RunRecord", "find_runs", "read_metrics", "read_run", "read_samples"]
