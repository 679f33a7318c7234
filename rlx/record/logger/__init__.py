"""Experiment trackers in addition to the record; metrics.jsonl is always written."""

from rlx.record.logger.base import Logger

__all__ = ["Logger"]
