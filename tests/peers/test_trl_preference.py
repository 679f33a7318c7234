"""TRL's own preference losses on random tensors: the same values and gradients."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rlx.loss import PairLogprobs
from tests.loss.catalogue import load
from tests.peers.stand_in import Model, trainer

pytest.importorskip("trl", reason="make peers installs TRL in an environment of its own and runs these")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

B, T, BETA = 6, 8, 0.3


def batch(seed: int, dtype: torch.dtype = torch.float64) -> SimpleNamespace:
    """Random pairs: B chosen rows, then B rejected ones, as TRL stacks them; the first two tokens are the prompt's."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T - 2, (2 * B,), generator=rng)
    mask = (torch.arange(T) >= 2) & (torch.arange(T) < 2 + lengths[:, None])

    def logprobs() -> Tensor:
        return torch.where(mask, -3 * torch.rand(2 * B, T, generator=rng, dtype=torch.float64), 0.0).to(dtype)

    squares = torch.rand(2 * B, T, generator=rng, dtype=torch.float64).to(dtype)
    mismatched = [-5 * torch.rand(2 * B, generator=rng, dtype=torch.float64) for _ in range(2)]
    return SimpleNamespace(mask=mask, policy=logprobs(), reference=logprobs(), squares=squares, mismatched=mismatched)


def ours(name: str, data: SimpleNamespace, **overrides: object) -> tuple[Tensor, Tensor]:
    """(loss, gradient with respect to the token log-probabilities)."""
    loss, leaf, mask = load(name, **overrides), data.policy.clone().requires_grad_(), data.mask

    def pairs(logprobs: Tensor, mismatched: Tensor) -> PairLogprobs:
        return PairLogprobs(
            logprobs[:B],
            logprobs[B:],
            mask[:B],
            mask[B:],
            chosen_sum_p_squared=data.squares[:B],
            rejected_sum_p_squared=data.squares[B:],
            mismatched=torch.stack([mismatched[:B], mismatched[B:]], dim=1),
        )

    values = loss(pairs(leaf, data.mismatched[0]), pairs(data.reference, data.mismatched[1]))
    total = (loss.weights(torch.stack([mask[:B], mask[B:]], dim=1)) * values).sum()
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def theirs(data: SimpleNamespace, loss_types: list[str], **settings: object) -> tuple[Tensor, Tensor]:
    """The same of TRL's DPOTrainer."""
    from trl.trainer.dpo_trainer import DPOTrainer

    leaf = data.policy.clone().requires_grad_()
    model = Model(log_probs=torch.where(data.mask, leaf, 0.0), log_sum_sq_probs=data.squares.log(), **statistics())
    fields = {
        "loss_types": loss_types,
        "loss_weights": [1.0] * len(loss_types),
        "beta": BETA,
        "label_smoothing": 0.1,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
        "ref_model": Model(log_probs=data.reference),
        "args": SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
    }
    mask = torch.cat([torch.zeros(2 * B, 1, dtype=torch.long), data.mask.long()], dim=1)
    inputs = {"input_ids": torch.zeros(2 * B, T + 1, dtype=torch.long), "completion_mask": mask, "attention_mask": mask}
    total = DPOTrainer._compute_loss(trainer(**(fields | settings)), model, inputs, False)
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def statistics() -> dict[str, Tensor]:
    """What TRL logs of a forward pass."""
    zeros = torch.zeros(2 * B, T)
    return {"entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool()}


def assert_same(mine: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], tolerance: float = 1e-9) -> None:
    for left, right in zip(mine, other, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance, check_dtype=False)


SMOOTHED = {"beta": BETA, "label_smoothing": 0.1}
PAIRED = [
    ("dpo", "sigmoid", {"beta": BETA}),
    ("hinge", "hinge", {"beta": BETA}),
    ("ipo_normalized", "ipo", {"beta": BETA}),
    ("exo", "exo_pair", SMOOTHED),
    ("nca", "nca_pair", {"beta": BETA}),
    ("dpo_robust", "robust", SMOOTHED),
    ("bco", "bco_pair", {"beta": BETA}),
    ("sppo", "sppo_hard", {"beta": BETA}),
    ("aot", "aot", SMOOTHED),
    ("aot_unpaired", "aot_unpaired", SMOOTHED),
    ("apo_zero", "apo_zero", {"beta": BETA}),
    ("apo_down", "apo_down", {"beta": BETA}),
    ("discopop", "discopop", {"beta": BETA}),
    ("nll", "sft", {}),
    ("dpo_normalized", "sigmoid_norm", {"beta": BETA}),
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "loss_type", "overrides"), PAIRED, ids=[name for name, _, _ in PAIRED])
def test_every_loss_type_of_the_dpo_trainer(name, loss_type, overrides, seed):
    data = batch(seed)
    tolerance = 1e-6 if name == "exo" else 1e-9  # TRL holds exo's label smoothing in float32
    assert_same(ours(name, data, **overrides), theirs(data, [loss_type]), tolerance)


WITH_DIVERGENCE = {"dpo", "hinge", "ipo_normalized", "exo", "dpo_robust", "discopop", "dpo_normalized"}
TAKES_DIVERGENCE = [case for case in PAIRED if case[0] in WITH_DIVERGENCE]
DIVERGENCES = [
    ("forward_kl", {"_target_": "rlx.loss.preference.modifier.ForwardKl"}),
    ("js_divergence", {"_target_": "rlx.loss.preference.modifier.JensenShannon"}),
    ("alpha_divergence", {"_target_": "rlx.loss.preference.modifier.AlphaDivergence", "alpha": 0.5}),
]


@pytest.mark.parametrize(("kind", "node"), DIVERGENCES, ids=[kind for kind, _ in DIVERGENCES])
@pytest.mark.parametrize(("name", "loss_type", "overrides"), TAKES_DIVERGENCE, ids=[name for name, _, _ in TAKES_DIVERGENCE])
def test_f_divergences(name, loss_type, overrides, kind, node):
    data = batch(1, torch.float32)
    mine = ours(name, data, modifiers={"divergence": node}, **overrides)
    assert_same(mine, theirs(data, [loss_type], f_divergence_type=kind), 1e-4)


@pytest.mark.parametrize("name", ["dpo", "ipo_normalized", "aot", "apo_zero"])
def test_length_desensitising(name):
    node = {"_target_": "rlx.loss.preference.modifier.LengthDesensitized", "alpha": 0.3}
    overrides = next(given for own, _, given in PAIRED if own == name)
    loss_type = next(kind for own, kind, _ in PAIRED if own == name)
    data = batch(2)
    assert_same(ours(name, data, modifiers={"length": node}, **overrides), theirs(data, [loss_type], ld_alpha=0.3))


@pytest.mark.parametrize("name", ["dpo", "ipo_normalized", "apo_zero", "nca"])
def test_wpo_weighting(name):
    node = {"_target_": "rlx.loss.preference.modifier.PolicyWeighting"}
    loss_type = next(kind for own, kind, _ in PAIRED if own == name)
    data = batch(3)
    assert_same(ours(name, data, beta=BETA, modifiers={"weighting": node}), theirs(data, [loss_type], use_weighting=True))


def test_the_mixture_of_mpo():
    data = batch(4)
    beta = {"loss": {"beta": BETA}}
    mine = ours("mixture", data, parts={"dpo": beta, "bco": beta})
    assert_same(mine, theirs(data, ["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]))


def sequence_loss(method, data: SimpleNamespace, *, mean: bool, sign: float = 1.0, **fields: object) -> tuple[Tensor, Tensor]:
    """A method of a trainer that takes the sequence log-probabilities of chosen and rejected."""
    leaf = data.policy.clone().requires_grad_()
    sums = torch.where(data.mask, leaf, 0.0).sum(dim=1) / (data.mask.sum(dim=1) if mean else 1)
    total = sign * method(trainer(**fields), sums[:B], sums[B:])[0].mean()
    return total.detach(), torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_simpo(label_smoothing):
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    data = batch(5)
    fields = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": label_smoothing, "alpha": 0.0}
    mine = ours("simpo", data, beta=2.0, gamma=0.7, label_smoothing=label_smoothing)
    assert_same(mine, sequence_loss(CPOTrainer.cpo_loss, data, mean=True, **fields))


@pytest.mark.parametrize("alpha", [0.25, -0.5])
def test_alpha_po(alpha):
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    data = batch(6)
    fields = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": 0.0, "alpha": alpha}
    mine = ours("alpha_po", data, beta=2.0, gamma=0.7, alpha=alpha)
    assert_same(mine, sequence_loss(CPOTrainer.cpo_loss, data, mean=True, **fields))


def test_cpo_with_its_likelihood_over_all_tokens():
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    data = batch(7)
    fields = {"loss_type": "sigmoid", "beta": BETA, "label_smoothing": 0.0, "alpha": 0.0}
    margin, likelihood = sequence_loss(CPOTrainer.cpo_loss, data, mean=False, **fields), theirs(data, ["sft"])
    mine = ours("cpo_token_mean", data, parts={"cpo": {"loss": {"beta": BETA}}})
    assert_same(mine, (margin[0] + likelihood[0], margin[1] + likelihood[1]))


def test_orpo():
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    data = batch(8)
    odds = sequence_loss(ORPOTrainer.odds_ratio_loss, data, mean=True, sign=-1.0, beta=BETA)
    likelihood = ours("nll_sequence_mean", data)
    mine = ours("orpo", data, beta=BETA)
    assert_same(mine, (odds[0] + likelihood[0], odds[1] + likelihood[1]), 1e-5)  # TRL computes the odds in float32


def test_kto():
    from trl.trainer.kto_trainer import KTOTrainer

    data = batch(9)
    leaf, rows = data.policy.clone().requires_grad_(), 2 * B
    zeros = {
        "entropy": torch.zeros(rows, T),
        "mean_logits": torch.zeros(rows, T),
        "is_top1": torch.zeros(rows, T, dtype=torch.bool),
    }
    mismatched = data.mismatched
    fields = {
        "beta": BETA,
        "loss_type": "kto",
        "calculate_KL": True,
        "desirable_weight": 1.3,
        "undesirable_weight": 0.7,
        "precompute_ref_logps": True,
        "_compute_kl_logps": lambda *_: mismatched[0],
    }
    mask = torch.cat([torch.zeros(rows, 1, dtype=torch.long), data.mask.long()], dim=1)
    inputs = {
        "input_ids": torch.zeros(rows, T + 1, dtype=torch.long),
        "completion_mask": mask,
        "attention_mask": mask,
        "label": torch.arange(rows) < B,
        "ref_logps": data.reference.sum(dim=1),
        "ref_KL_logps": mismatched[1],
    }
    total = KTOTrainer._compute_loss(
        trainer(**fields), Model(log_probs=torch.where(data.mask, leaf, 0.0), **zeros), inputs, False
    )
    mine = ours("kto", data, beta=BETA, desirable_weight=1.3, undesirable_weight=0.7)
    assert_same(mine, (total.detach(), torch.autograd.grad(total, leaf)[0]))
