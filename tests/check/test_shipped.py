"""Whatever rlx ships keeps every law: each loss, each algorithm, and each part that an algorithm is put together of."""

import pytest

import rlx
from rlx.config.compose import compose, groups
from rlx.config.schema import conf_dir
from rlx.experiment import algorithm_of
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from rlx.loss.preference.base import PreferenceLoss
from tests.check.checking import failed, with_loss

pytestmark = pytest.mark.whole

HOSTS = {"advantage": "custom_grpo", "regularizer": "custom_dpo", "value_loss": "ppo", "combine": "mixture"}


def options(group: str) -> list[str]:
    return groups([conf_dir()])[group]


def with_part(group: str, option: str):
    """The plainest algorithm that has such a part, with this one."""
    host = "ppo" if option.startswith("gae") else HOSTS[group]
    chosen = f"[{option}]" if group == "regularizer" else option
    return algorithm_of(compose("check", [f"algorithm={host}", f"algorithm/{group}={chosen}"]))


# (what is shipped, the law that must tell what it does from a fault)
ACCUSED = [
    (lambda: with_loss(rlx.load("loss", "wpo")), "falls"),  # its detached weight rises as the policy learns
    (lambda: with_part("advantage", "reinforce_plus_plus"), "order"),  # whitened in float32, whose sums depend on the order
    (lambda: with_part("advantage", "pass_at_k"), "hyperparameters"),  # never negative: clip_low has nothing to do
    (lambda: rlx.load("algorithm", "reinforce_plus_plus"), "alike"),  # where all rewards are equal, rounding is whitened
]


@pytest.mark.parametrize(("make", "law"), ACCUSED, ids=["wpo", "whitened tokens", "one sign", "equal rewards"])
def test_no_law_takes_rounding_or_a_declared_constant_for_a_fault(make, law):
    assert failed(make(), law) == {}


def test_constants_are_told_from_logprobs_that_are_computed_in_pieces(monkeypatch):
    monkeypatch.setattr("rlx.policy.base.is_large", lambda tokens, vocabulary: True)
    assert failed(with_loss(rlx.load("loss", "wpo")), "falls") == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", options("algorithm"))
def test_an_algorithm_keeps_every_law(name):
    assert failed(rlx.load("algorithm", name)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", options("loss"))
def test_a_loss_keeps_every_law(name):
    loss = rlx.load("loss", name)
    assert isinstance(loss, (PreferenceLoss, PolicyGradientLoss))
    assert failed(with_loss(loss)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in HOSTS for option in options(f"algorithm/{group}")], ids=str
)
def test_a_part_of_an_algorithm_keeps_every_law(group, option):
    assert failed(with_part(group, option)) == {}
