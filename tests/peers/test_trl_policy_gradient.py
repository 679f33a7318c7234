"""TRL's own policy-gradient losses on random tensors: the same values and gradients."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.loss.catalogue import load
from tests.peers.stand_in import Model, trainer

pytest.importorskip("trl", reason="make peers installs TRL in an environment of its own and runs these")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

B, T, LENGTH = 8, 7, 11
CLIPS = {"clip_low": 0.2, "clip_high": 0.3}


def batch(seed: int) -> SimpleNamespace:
    """Random completions, at least one token each, sampled by a policy half a nat a token away."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=rng)

    def near(values: Tensor, spread: float) -> Tensor:
        noise = spread * torch.randn(B, T, generator=rng, dtype=torch.float64)
        return torch.where(mask, (values + noise).clamp(max=-0.01), 0.0)

    policy = torch.where(mask, -2 * torch.rand(B, T, generator=rng, dtype=torch.float64), 0.0)
    return SimpleNamespace(
        mask=mask,
        policy=policy,
        sampling=near(policy, 0.5),
        reference=near(policy, 0.5),
        entropy=3 * torch.rand(B, T, generator=rng, dtype=torch.float64),
        correction=0.4 * torch.randn(B, T, generator=rng, dtype=torch.float64),
        advantages=torch.randn(B, generator=rng, dtype=torch.float64),
    )


def ours(name: str, data: SimpleNamespace, **overrides: object) -> tuple[Tensor, Tensor]:
    """(loss, gradient with respect to the token log-probabilities)."""
    loss, leaf = load(name, **overrides), data.policy.clone().requires_grad_()
    given = {"entropy": data.entropy, "proximal_logprobs": data.sampling}
    required = {key: given[key] for key in loss.requires}
    # With a correction TRL takes its ratio to the trainer's log-probabilities and corrects for the sampler's.
    sampling = data.sampling - data.correction if "proximal_logprobs" in loss.requires else data.sampling
    values = loss(leaf, sampling, data.advantages, data.mask, data.reference, **required)
    total = (loss.weights(data.mask) * values).sum()
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def theirs(data: SimpleNamespace, loss_type: str, *, kind: str = "grpo", **settings: object) -> tuple[Tensor, Tensor]:
    """The same of TRL's GRPOTrainer, or of its GMPOTrainer."""
    from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer
    from trl.trainer.grpo_trainer import GRPOTrainer

    leaf = data.policy.clone().requires_grad_()
    arguments = {
        "delta": None,
        "use_bias_correction_kl": False,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
        "steps_per_generation": 1,
    }
    fields = {
        "loss_type": loss_type,
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.3,
        "importance_sampling_level": "token",
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "max_completion_length": LENGTH,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "use_adaptive_entropy": False,
        "entropy_coef": 0.0,
        "_get_per_token_logps_and_entropies": lambda *_, **__: (leaf, data.entropy, None),
        "get_gamma_weights": GRPOTrainer.get_gamma_weights,
        "get_off_policy_mask": GRPOTrainer.get_off_policy_mask,
    }
    changed = {name: settings.pop(name) for name in list(settings) if name in arguments}
    extra = settings.pop("inputs", {})
    stand_in = trainer(**(fields | settings), args=SimpleNamespace(**(arguments | changed)))
    stand_in.get_high_entropy_mask = lambda *given: GRPOTrainer.get_high_entropy_mask(stand_in, *given)
    mask = data.mask.to(torch.float64)
    prompt = {"prompt_ids": torch.zeros(B, 1), "prompt_mask": torch.ones(B, 1), "completion_ids": torch.zeros(B, T)}
    logprobs = {"old_per_token_logps": data.sampling, "ref_per_token_logps": data.reference}
    inputs = {
        "completion_mask": mask,
        "advantages": data.advantages,
        "num_items_in_batch": mask.sum(),
        **prompt,
        **logprobs,
        **extra,
    }
    method = {"grpo": GRPOTrainer, "gmpo": GMPOTrainer}[kind]._compute_loss
    total = method(stand_in, Model(), inputs)
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def assert_same(mine: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], tolerance: float = 1e-9) -> None:
    for left, right in zip(mine, other, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


SEQUENCE = {"importance_sampling_level": "sequence"}
NAMED = [
    ("grpo", CLIPS, "grpo", {}),
    ("dapo", CLIPS, "dapo", {}),
    ("clipped", CLIPS, "bnpo", {}),
    ("dr_grpo", {**CLIPS, "weighting": {"length": LENGTH}}, "dr_grpo", {}),
    ("capped", {**CLIPS, "ratio_cap": 1.4}, "dapo", {"delta": 1.4}),
    ("gspo", CLIPS, "grpo", SEQUENCE),
    ("luspo", CLIPS, "luspo", SEQUENCE),
    ("cispo_cap", {"ratio_cap": 1.3}, "cispo", {"epsilon_high": 1.3}),
    ("sapo", {}, "sapo", {}),
    ("vespo", {}, "vespo", {}),
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "overrides", "loss_type", "settings"), NAMED, ids=[case[0] for case in NAMED])
def test_every_loss_type_of_the_grpo_trainer(name, overrides, loss_type, settings, seed):
    data = batch(seed)
    tolerance = 1e-6 if name == "sapo" else 1e-9  # TRL holds sapo's temperatures in float32
    assert_same(ours(name, data, **overrides), theirs(data, loss_type, **settings), tolerance)


def test_gmpo():
    data = batch(1)
    mine = ours("gmpo", data, **CLIPS)
    assert_same(mine, theirs(data, "grpo", kind="gmpo"))


@pytest.mark.parametrize(("gradient", "corrected"), [("plain", False), ("importance_weighted", True)])
def test_the_kl_to_the_reference(gradient, corrected):
    data = batch(2)
    mine = ours("grpo", data, **CLIPS, beta=0.07, kl_estimator="k3", kl_gradient=gradient)
    assert_same(mine, theirs(data, "grpo", beta=0.07, use_bias_correction_kl=corrected))


def test_off_policy_sequence_masking():
    data = batch(3)
    node = {"_target_": "rlx.loss.policy_gradient.modifier.StaleNegativeMask", "threshold": 0.05}
    assert_same(ours("dapo", data, **CLIPS, modifiers={"stale": node}), theirs(data, "dapo", off_policy_mask_threshold=0.05))


def test_high_entropy_tokens():
    data = batch(4)
    data.entropy = data.entropy.float().double()  # TRL finds its quantile in float32
    node = {"_target_": "rlx.loss.policy_gradient.modifier.HighEntropyTokens", "share": 0.35}
    assert_same(ours("dapo", data, **CLIPS, modifiers={"entropy": node}), theirs(data, "dapo", top_entropy_quantile=0.35))


def test_truncated_correction_between_sampler_and_trainer():
    data = batch(5)
    node = {"_target_": "rlx.loss.policy_gradient.modifier.TruncatedCorrection", "cap": 1.2}
    ratio = data.correction.exp().clamp(max=1.2)
    settings = {"use_vllm": True, "vllm_importance_sampling_correction": True, "inputs": {"importance_sampling_ratio": ratio}}
    assert_same(ours("dapo", data, **CLIPS, modifiers={"correction": node}), theirs(data, "dapo", **settings))


def test_the_entropy_bonus_with_token_weights():
    data = batch(6)
    node = {"_target_": "rlx.loss.policy_gradient.modifier.EntropyBonus", "coefficient": 0.2}
    mine = ours("dapo", data, **CLIPS, modifiers={"bonus": node})
    assert_same(mine, theirs(data, "dapo", _entropy_bonus_enabled=True, entropy_coef=0.2))


def test_rloo_on_policy():
    from trl.trainer.rloo_trainer import RLOOTrainer

    data = batch(7)
    leaf = data.policy.clone().requires_grad_()
    forward = {"_get_per_token_logps_and_entropies": lambda *_, **__: (leaf, data.entropy, None)}
    mask = data.mask.to(torch.float64)
    inputs = {"prompt_ids": torch.zeros(B, 1), "prompt_mask": torch.ones(B, 1), "completion_ids": torch.zeros(B, T)}
    inputs |= {"completion_mask": mask, "advantages": data.advantages, "old_logps": data.policy.sum(dim=1)}
    total = RLOOTrainer._compute_loss(trainer(epsilon_low=0.2, epsilon_high=0.2, **forward), Model(), inputs)
    torch.testing.assert_close(ours("rloo", data)[1], torch.autograd.grad(total, leaf)[0])
