"""The exact laboratory: a vocabulary so small that every completion is enumerated, and expectations are sums."""
