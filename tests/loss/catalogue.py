"""The losses that rlx ships, instantiated, and the golden batches of the tests."""

from functools import cache
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rlx.config.compose import groups, option_node
from rlx.config.schema import conf_dir
from rlx.loss import PairLogprobs, PolicyGradientLoss, PreferenceLoss

NAMES = groups([conf_dir()])["loss"]


def load(name: str, **overrides: Any) -> Any:
    """The option <name> of the group loss, alone, with overrides merged in."""
    return instantiate(OmegaConf.merge(option_node("loss", name, [conf_dir()]), overrides), _convert_="object")


@cache
def names_of(kind: type) -> tuple[str, ...]:
    """The losses that are of this kind."""
    return tuple(name for name in NAMES if isinstance(load(name), kind))


PREFERENCE = names_of(PreferenceLoss)
POLICY_GRADIENT = names_of(PolicyGradientLoss)


def spread(sums: list[float], mask: torch.Tensor) -> torch.Tensor:
    """Token log-probabilities with these sums."""
    return torch.where(mask, torch.tensor(sums, dtype=torch.float64)[:, None] / mask.sum(dim=1, keepdim=True), 0.0)


def golden_pairs() -> tuple[PairLogprobs, PairLogprobs]:
    """Three pairs on which five systems were run: (policy, reference)."""
    mask = torch.tensor(
        [[0, 1, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    ).bool()
    logprobs = [
        [0, -0.5, -1, -0.25, 0],
        [0, -0.3, -0.2, 0, 0],
        [-1.1, -0.7, 0, 0, 0],
        [0, -0.75, -0.5, -1.5, -0.25],
        [0, -1, -2.25, -0.5, 0],
        [-0.4, -0.9, -1.6, 0, 0],
    ]
    tokens, chosen, rejected = torch.tensor(logprobs, dtype=torch.float64), mask[:3], mask[3:]
    reference = spread([-2, -1.5, -1.2], chosen), spread([-2.5, -3, -2], rejected)
    return PairLogprobs(tokens[:3], tokens[3:], chosen, rejected), PairLogprobs(*reference, chosen, rejected)


def golden_rollouts() -> dict[str, torch.Tensor]:
    """Four completions of one prompt on which three systems were run."""
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    policy = [[-1.2, -0.4, -0.9, -2, 0], [-0.3, -1.5, 0, 0, 0], [-0.8, -0.8, -1.1, 0, 0], [-2.2, -0.1, -0.6, -1.4, -0.7]]
    sampling = [[-1, -0.5, -1.4, -1.9, 0], [-0.9, -1.4, 0, 0, 0], [-0.8, -1.3, -1, 0, 0], [-1.5, -0.2, -0.6, -1.8, -0.9]]
    reference = [[-1.1, -0.6, -1, -1.5, 0], [-0.5, -1.2, 0, 0, 0], [-1, -0.7, -1.3, 0, 0], [-1.8, -0.3, -0.5, -1.6, -0.4]]
    values = {"token_logprobs": policy, "sampling_logprobs": sampling, "reference_logprobs": reference}
    tensors = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in values.items()}
    return tensors | {"advantages": torch.tensor([1.25, -0.75, 0.25, -0.75], dtype=torch.float64), "completion_mask": mask}
