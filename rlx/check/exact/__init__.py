"""Exact expectations: with a very small vocabulary every completion is enumerated, and expectations are sums."""
