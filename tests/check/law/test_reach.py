"""Laws of reach: a critic's values in the term of the policy, and weights that an adapter shares with the reference."""

from dataclasses import replace

import pytest
import torch

import rlx
from rlx.algorithm.custom_dpo import CustomDpo
from rlx.check.checker import LAWS, check_algorithm
from rlx.policy.adapter import Lora
from rlx.policy.tiny import build_tiny
from tests.check.checking import failed, subject
from tests.check.faulty import AdvantageIsLive
from tests.check.sound import BothInOneTerm, PathConsistency


def test_an_advantage_that_is_not_detached_is_named_with_its_term():
    assert failed(AdvantageIsLive(), "belongs")["belongs"].wrong.startswith("term policy multiplies log-probabilities by values")


def test_one_squared_error_for_both_and_one_term_for_both_are_not_accused():
    assert failed(PathConsistency(), "belongs") == {}
    assert failed(BothInOneTerm(), "belongs") == {}


def with_adapter(algorithm, *laws):
    """As `failed`, on a policy whose weights are frozen under an adapter."""
    policy = build_tiny(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
    policy.add_adapter(Lora(rank=2, alpha=4), loader="rlx.policy.tiny.build_tiny", arguments={})
    wanted = {name: LAWS[name] for name in laws}
    verdicts = check_algorithm(replace(subject(algorithm), policy=policy), laws=wanted)
    return {verdict.law: verdict.finding for verdict in verdicts if verdict.failed}


@pytest.mark.parametrize("name", ["custom_dpo", "grpo"])
def test_a_reference_that_shares_weights_under_an_adapter_is_no_fault(name):
    assert with_adapter(rlx.load("algorithm", name), "belongs", "reached") == {}


class Unfreezes(CustomDpo):
    """Trains the weights under the adapter too."""

    def compute_loss(self, policy, reference, batch):
        reference.model.requires_grad_(True)
        return super().compute_loss(policy, reference, batch)


class MovesTheBase(CustomDpo):
    """Changes the weights under the adapter, which the reference computes with."""

    def draw(self, lab):
        with torch.no_grad():
            lab.reference.model.get_input_embeddings().weight.mul_(1.01)
        return super().draw(lab)


@pytest.mark.parametrize(("kind", "said"), [(Unfreezes, "were made trainable"), (MovesTheBase, "under the adapter moved")])
def test_weights_under_an_adapter_that_are_trained_or_moved_are_named(kind, said):
    plain = rlx.load("algorithm", "custom_dpo")
    faulty = kind(**{name: value for name, value in vars(plain).items() if not name.startswith("_")})
    assert said in with_adapter(faulty, "belongs")["belongs"].wrong
