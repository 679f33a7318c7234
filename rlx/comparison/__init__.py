"""Compares algorithms over seeds, from run records alone. From Python: `rlx.compare("outputs/sweep/latest", margin=0.02)`."""
