"""Algorithms: `draw` makes the batch of a step, `compute_loss` gives the policy's loss on it."""

from rlx.algorithm.base import Algorithm, AlgorithmType, Batch, Lab, LossOutput, Need, Term, mean_of

__all__ = ["Algorithm", "AlgorithmType", "Batch", "Lab", "LossOutput", "Need", "Term", "mean_of"]
