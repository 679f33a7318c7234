"""Sound algorithms that a law took for a fault: no law may accuse one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput
from tests.check.faulty import Preferences


class WorstHalf(Preferences):
    """Learns the half of its pairs that is worst, found by a threshold that is a constant."""

    @property
    def couples_rows(self):
        return True

    def compute_loss(self, policy, reference, batch):
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        values = -F.logsigmoid(self.beta * margin)
        threshold = values.detach().median()
        return LossOutput.of(torch.where(values >= threshold, values, 0.0), batch.weights["preference"])


LOOKALIKES = [WorstHalf]
