"""The smallest objects on which TRL's trainers compute a loss: no model, no tokenizer, no data."""

from collections import defaultdict
from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Model(nn.Module):
    """A model whose outputs are given; a module, for accelerate looks into what trainers hand over."""

    is_gradient_checkpointing = False

    def __init__(self, **outputs: Tensor) -> None:
        super().__init__()
        self.eval()
        self._outputs = SimpleNamespace(**outputs)

    def forward(self, **_: object) -> SimpleNamespace:
        return self._outputs


def accelerator() -> SimpleNamespace:
    """One process."""

    def same(tensor: Tensor, **_: object) -> Tensor:
        return tensor

    return SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        sync_gradients=True,
        gather=same,
        gather_for_metrics=same,
        reduce=same,
        pad_across_processes=lambda tensor, **_: tensor,
    )


def trainer(**fields: object) -> SimpleNamespace:
    """What a trainer's `self` has in common."""
    common = {
        "accelerator": accelerator(),
        "model": Model(),
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
    }
    return SimpleNamespace(**(common | fields))
