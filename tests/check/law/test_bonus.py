"""What is called a bonus is raised."""

from dataclasses import dataclass

from rlx.algorithm import LossOutput, Term
from tests.check.checking import failed
from tests.check.faulty import Rewards


@dataclass(frozen=True, kw_only=True)
class EntropyIsAdded(Rewards):
    entropy_bonus: float = 0.01

    sign = 1

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"entropy"}))
        output = super().compute_loss(policy, reference, batch)
        return LossOutput({**output.terms, "entropy": Term(self.sign * found.entropy, batch.weights, self.entropy_bonus)})


class EntropyIsTakenAway(EntropyIsAdded):
    sign = -1


@dataclass(frozen=True, kw_only=True)
class EntropyIsMinimised(Rewards):
    """Called a cost, it may be added (arXiv:2505.15134)."""

    entropy_cost: float = 0.01

    def compute_loss(self, policy, reference, batch):
        return EntropyIsAdded(entropy_bonus=self.entropy_cost).compute_loss(policy, reference, batch)


def test_a_bonus_with_a_plus_is_named_and_a_cost_is_not():
    assert "though that is the name of a bonus" in failed(EntropyIsAdded(), "direction")["direction"].wrong
    assert failed(EntropyIsTakenAway(), "direction") == {}
    assert failed(EntropyIsMinimised(), "direction") == {}
