"""Muon for the weight matrices and AdamW for everything else, as one torch optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

MATRIX, OTHER = "matrix", "other"


class Muon(torch.optim.Optimizer):
    """Orthogonalises the momentum of each weight matrix before the step; AdamW updates the other parameters.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982, whose scale of the step
    (0.2 sqrt(max(rows, columns)), torch's match_rms_adamw) lets both parts share one learning rate.

    AdamW updates embeddings, the LM head, the value head, norms, biases, and any tensor that is not a matrix.
    lr: learning rate. weight_decay: decoupled, for both parts. momentum, nesterov, ns_steps: for Muon; ns_steps is the number of
    Newton-Schulz iterations. betas, eps: for AdamW.
    """

    reads_parts: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not 1 <= ns_steps < 100:
            raise ValueError(f"optimizer.ns_steps is {ns_steps}; it counts iterations, 5 is usual, and lies between 1 and 99")
        given = [group if isinstance(group, dict) else {"params": [group], "part": MATRIX} for group in params]
        muon: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        # created for their checks and defaults; every step gives them the groups and the state of this optimiser
        nothing = [torch.nn.Parameter(torch.zeros(1, 1))]
        self._muon = torch.optim.Muon(nothing, adjust_lr_fn="match_rms_adamw", **muon, **common)
        self._adamw = torch.optim.AdamW(nothing, betas=(betas[0], betas[1]), eps=eps, **common)
        groups = []
        for group in given:
            for kind, parameters in self._split(group).items():
                own = self._muon if kind == MATRIX else self._adamw
                if parameters:
                    groups.append({**own.defaults, **group, "params": parameters, "part": kind})
        super().__init__(groups, common)

    @staticmethod
    def _split(group: Mapping[str, Any]) -> dict[str, list[Tensor]]:
        """The parameters of a group, split by the optimiser that updates them."""
        parameters = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        is_matrix = [group.get("part", MATRIX) == MATRIX and parameter.ndim == 2 for parameter in parameters]
        return {
            MATRIX: [parameter for parameter, matrix in zip(parameters, is_matrix, strict=True) if matrix],
            OTHER: [parameter for parameter, matrix in zip(parameters, is_matrix, strict=True) if not matrix],
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step with both optimisers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kind, own in ((MATRIX, self._muon), (OTHER, self._adamw)):
            own.param_groups = [group for group in self.param_groups if group["part"] == kind]
            own.state = self.state
            own.step()  # type: ignore[no-untyped-call]
        return loss
