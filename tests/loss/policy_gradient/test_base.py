import pytest
import torch

from rlx.errors import ConfigError, ShapeError
from rlx.loss.policy_gradient.kl import k3
from rlx.loss.policy_gradient.token import clipped, reinforce
from rlx.loss.weight import sequence_mean
from tests.loss.catalogue import golden_rollouts, load

G = golden_rollouts()
MASK = G["completion_mask"]


def test_values_are_zero_outside_of_the_mask_whatever_stands_there():
    dirty = {
        name: torch.where(MASK, G[name], torch.nan) for name in ("token_logprobs", "sampling_logprobs", "reference_logprobs")
    }
    loss = load("grpo", beta=0.1)
    torch.testing.assert_close(loss(**(G | dirty)), loss(**G))
    assert bool((loss(**G)[~MASK] == 0).all())


def test_one_advantage_a_sequence_is_the_same_as_one_at_each_token():
    loss = load("clipped")
    spread = G["advantages"][:, None].expand(MASK.shape)
    torch.testing.assert_close(loss(**(G | {"advantages": spread})), loss(**G))


def test_groups_may_keep_their_axis():
    loss = load("gspo")
    grouped = {name: tensor.reshape(2, 2, *tensor.shape[1:]) for name, tensor in G.items()}
    torch.testing.assert_close(loss(**grouped).reshape(MASK.shape), loss(**G))
    torch.testing.assert_close(loss.weights(MASK.reshape(2, 2, -1)).reshape(MASK.shape), loss.weights(MASK))


def test_beta_adds_the_kl_and_asks_for_a_reference():
    free, held = load("clipped"), load("clipped", beta=0.5, kl_estimator="k3", kl_gradient="plain")
    assert free.needs_reference is False
    assert held.needs_reference is True
    kl = torch.where(MASK, k3(G["token_logprobs"], G["reference_logprobs"]), 0.0)
    torch.testing.assert_close(held(**G), free(**G) + 0.5 * kl)
    with pytest.raises(ShapeError, match="needs reference_logprobs"):
        held(**{name: tensor for name, tensor in G.items() if name != "reference_logprobs"})


def test_the_exact_kl_comes_from_outside_and_takes_a_plain_gradient():
    exact = load("clipped", beta=0.5, kl_estimator="exact", kl_gradient="plain")
    assert exact.requires == {"vocabulary_kl"}
    assert exact.needs_reference is False
    kl = torch.where(MASK, torch.rand(MASK.shape, dtype=torch.float64), 0.0)
    torch.testing.assert_close(exact(**G, vocabulary_kl=kl), load("clipped")(**G) + 0.5 * kl)
    with pytest.raises(ConfigError, match="set kl_gradient=plain"):
        clipped(clip_low=0.2, clip_high=0.2, kl_estimator="exact")


def test_ratios_are_taken_to_the_proximal_policy_only_where_a_modifier_reads_it():
    proximal = G["sampling_logprobs"] - 0.3
    corrected = load("clipped_truncated_correction")
    assert corrected.requires == {"proximal_logprobs"}
    assert not torch.equal(corrected(**G, proximal_logprobs=proximal), load("clipped")(**G))
    torch.testing.assert_close(load("clipped")(**G, proximal_logprobs=proximal), load("clipped")(**G))
    with pytest.raises(ShapeError, match="clipped needs proximal_logprobs"):
        corrected(**G)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"advantages": torch.zeros(3)}, r"advantages is \(3,\), but completion_mask \(4, 5\)"),
        ({"sampling_logprobs": torch.zeros(4, 4)}, "sampling_logprobs is"),
        ({"completion_mask": MASK.long()}, "completion_mask has dtype torch.int64; make it bool"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changed, message):
    with pytest.raises(ShapeError, match=message):
        load("clipped")(**(G | changed))


def test_weighting_and_modifiers_must_be_such():
    with pytest.raises(ConfigError, match="weighting of reinforce is 'token'"):
        reinforce(weighting="token")
    with pytest.raises(ConfigError, match=r"modifiers\.x of reinforce is 3"):
        reinforce(modifiers={"x": 3})
    assert isinstance(reinforce(weighting=sequence_mean(count_empty=False)).weighting, sequence_mean)


def test_figures_count_what_the_clip_stops():
    figures = load("clipped", clip_low=0.2, clip_high=0.2).figures(**G)
    ratio, advantages = (G["token_logprobs"] - G["sampling_logprobs"]).exp(), G["advantages"][:, None]
    torch.testing.assert_close(figures["ratio_mean"], torch.where(MASK, ratio, 0.0))
    assert figures["clip_fraction_high"].sum() == (MASK & (ratio > 1.2) & (advantages > 0)).sum()
    assert figures["clip_fraction_low"].sum() == (MASK & (ratio < 0.8) & (advantages < 0)).sum()
    assert figures["kl"].min() >= 0
    assert set(load("reinforce").figures(**G)) == {"ratio_mean", "kl"}
    exact = load("clipped", beta=0.1, kl_estimator="exact", kl_gradient="plain")
    over_vocabulary = torch.full_like(G["token_logprobs"], 0.3)
    assert exact.figures(**G, vocabulary_kl=over_vocabulary)["kl"].sum().item() == pytest.approx(0.3 * int(MASK.sum()))
    assert load("gmpo", clip_low=0.4, clip_high=0.7).clip_ends() == pytest.approx((torch.e**-0.4, torch.e**0.7))
