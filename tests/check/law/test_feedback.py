"""Mistakes that show from one step to the next: in random numbers, averages, adapted weights and warm-ups."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from rlx.algorithm import LossOutput, Need, Term
from tests.check.checking import failed
from tests.check.faulty import Rewards

pytestmark = pytest.mark.whole


@dataclass(frozen=True, kw_only=True)
class SameCoins(Rewards):
    """Learns a random half of the tokens, the same places at every step."""

    def draw(self, lab):
        batch = super().draw(lab)
        coins = lab.rng.child(*self.address(lab)).numpy().random(tuple(batch.weights.shape)) < 0.5
        return batch.with_values(weights=batch.weights * torch.from_numpy(coins))

    def address(self, lab):
        return ("coin",)


class FreshCoins(SameCoins):
    def address(self, lab):
        return ("coin", lab.step)


@dataclass(frozen=True, kw_only=True)
class KeepsTheNew(Rewards):
    """A running baseline whose decay is the share of the new mean."""

    decay: float = 0.9

    def draw(self, lab):
        batch = super().draw(lab)
        before, new = lab.state.get("mean", batch.rewards.mean()), batch.rewards.mean()
        share = self.kept()
        lab.state["mean"] = share * before + (1 - share) * new
        return batch.with_values(advantages=(batch.rewards - before))

    def kept(self):
        return 1 - self.decay


class KeepsTheOld(KeepsTheNew):
    def kept(self):
        return self.decay


@dataclass(frozen=True, kw_only=True)
class FleesTheTarget(Rewards):
    """A KL in the reward whose weight falls where the KL is above its target."""

    needs: ClassVar = frozenset({Need.REWARDS, Need.REFERENCE})
    sign: ClassVar[float] = -1.0
    kl_coef: float = 0.2

    def draw(self, lab):
        batch = super().draw(lab)
        reference = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature).cpu()
        drift = ((batch.sampling_logprobs - reference) * batch.loss_mask).sum(dim=-1)
        weight = lab.state.get("weight", torch.tensor(self.kl_coef))
        lab.state["weight"] = weight * (1 + self.sign * (drift.mean() / 0.05 - 1).clamp(-0.2, 0.2) / 10)
        rewards = batch.rewards - weight * drift
        return batch.with_values(advantages=(rewards - rewards.mean(dim=1, keepdim=True)))


class SeeksTheTarget(FleesTheTarget):
    sign: ClassVar[float] = 1.0


@dataclass(frozen=True, kw_only=True)
class BonusFleesItsTarget(Rewards):
    """An entropy bonus whose weight grows where the entropy is above its target."""

    sign: ClassVar[float] = 1.0

    def draw(self, lab):
        batch = super().draw(lab)
        with torch.no_grad():
            found = lab.policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"entropy"}))
        over = found.entropy.cpu()[batch.loss_mask].mean() - 0.5
        lab.state["weight"] = (lab.state.get("weight", torch.tensor(0.01)) + self.sign * 0.01 * over.sign()).clamp(min=0)
        return batch.with_values(value_weights=batch.weights * lab.state["weight"])

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"entropy"}))
        bonus = Term(-found.entropy, batch.value_weights)
        return LossOutput({**super().compute_loss(policy, reference, batch).terms, "bonus": bonus})


class BonusSeeksItsTarget(BonusFleesItsTarget):
    sign: ClassVar[float] = -1.0


class ColdAfterAll(Rewards):
    """A warm-up whose comparison is turned: the policy learns before it alone."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=batch.advantages * (lab.step < 1))


@dataclass(frozen=True, kw_only=True)
class CriticBeforePolicy(Rewards):
    """The critic learns alone for some steps."""

    needs: ClassVar = frozenset({Need.REWARDS, Need.VALUES})
    warmup: int = 2

    def draw(self, lab):
        batch = super().draw(lab)
        with torch.no_grad():
            found = lab.policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"values"}))
        left = (batch.rewards[..., None] - found.values.cpu()) * batch.loss_mask
        return batch.with_values(advantages=left * (lab.step >= self.warmup))

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"values"}))
        policy_term = Term(-self.log_ratio(policy, batch).exp() * batch.advantages, batch.weights)
        return LossOutput({"policy": policy_term, "critic": Term((found.values - batch.rewards[..., None]) ** 2, batch.weights)})


_AVERAGE: dict[int, Any] = {}


class AverageOfTheModule(Rewards):
    """An average of gradients in a variable of the module, which a gradient like the last one does not move."""

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        for place, new in enumerate(found):
            before = _AVERAGE.get(place, new)
            _AVERAGE[place] = (before + new) / 2 if before.shape == new.shape else new
        return optimizer.step([_AVERAGE[place] for place in range(len(found))], self.clipping)


FAULTY = [
    (SameCoins(), "are the same numbers at the same places"),
    (KeepsTheNew(), "with decay = 0.9 the next draw keeps 0.1 of lab.state['mean']"),
    (FleesTheTarget(), "lab.state['weight'] weighs the KL to the reference, and falls from"),
    (BonusFleesItsTarget(), "lab.state['weight'] weighs the entropy, and rises from"),
    (ColdAfterAll(), "the policy learns at step 0, and nothing at 68 steps from 10 to 100000"),
]
SOUND = [FreshCoins(), KeepsTheOld(), SeeksTheTarget(), BonusSeeksItsTarget(), CriticBeforePolicy()]


@pytest.mark.parametrize(("algorithm", "said"), FAULTY, ids=[type(algorithm).__name__ for algorithm, _ in FAULTY])
def test_a_slip_is_named(algorithm, said):
    assert said in failed(algorithm, "draws")["draws"].wrong


@pytest.mark.parametrize("algorithm", SOUND, ids=[type(algorithm).__name__ for algorithm in SOUND])
def test_the_algorithm_as_it_is_meant_is_not_accused(algorithm):
    assert failed(algorithm, "draws", "credit", "direction") == {}


def test_an_average_of_gradients_in_a_module_is_named():
    assert "keeps something of its own" in failed(AverageOfTheModule(), "update")["update"].wrong
