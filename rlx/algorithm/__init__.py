"""Algorithms: `draw` says what to learn from, `compute_loss` how wrong the policy is on it."""

from rlx.algorithm.base import Algorithm, AlgorithmType, Batch, Lab, LossOutput, Need, Term, mean_of

__all__ = ["Algorithm", "AlgorithmType", "Batch", "Lab", "LossOutput", "Need", "Term", "mean_of"]
