"""Trackers beside the record. metrics.jsonl is always written; these only watch."""

from rlx.record.logger.base import Logger

__all__ = ["Logger"]
