"""Laws of tokens: what is said of rows that teach nothing."""

import torch

from rlx.check.checker import LAWS, check_algorithm
from tests.check.checking import subject
from tests.check.faulty import Preferences


def test_rows_that_weigh_nothing_are_counted():
    class EverySecond(Preferences):
        def draw(self, lab):
            batch = super().draw(lab)
            return batch.with_weights(preference=torch.arange(len(batch)) % 2 / len(batch))

    (verdict,) = check_algorithm(subject(EverySecond()), laws={"tokens": LAWS["tokens"]})
    assert verdict.finding.number.endswith("; 4 of 8 rows weigh 0")
