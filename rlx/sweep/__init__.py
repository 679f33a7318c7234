"""Sweeps and searches: planned first, run in a pool of processes that have already imported torch, and resumable."""
