"""A loss or a gradient that is no number: which term, which rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rlx.errors import NonFiniteError
from rlx.optimizer.step import NonFiniteGradientError

if TYPE_CHECKING:
    from rlx.algorithm.base import Algorithm, LossOutput
    from rlx.policy.base import Policy

MEND = "lower optimizer.lr, or run `rlx check` on the algorithm"


class NonFiniteLossError(NonFiniteError):
    """A loss that is NaN or infinite, or has such a gradient; `examples` are the token sequences of the rows to blame."""

    def __init__(self, message: str, examples: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.examples = examples


def require_finite(output: LossOutput, part: Any, policy: Policy) -> None:
    """Raise NonFiniteLossError where the loss of these rows is no number."""
    if bool(torch.isfinite(output.loss.detach())):
        return
    for name, term in output.terms.items():
        bad = ~torch.isfinite((term.values * term.weights.to(term.values)).detach())
        if bad.any():
            rows = sorted(set(bad.nonzero()[:, 0].tolist())) if bad.ndim else [0]
            source = _of_term(part, name)
            message = f"term {name!r} of the loss is not finite on {len(rows)} of {len(source)} rows; {MEND}"
            raise NonFiniteLossError(message, [example(source, row, policy) for row in rows])
    raise NonFiniteLossError("the loss is not finite although each of its terms is; the terms overflow when added", [])


def blamed(
    error: NonFiniteGradientError, algorithm: Algorithm[Any], policy: Policy, reference: Any, batch: Any
) -> NonFiniteLossError:
    """What to say of a gradient that is no number, each row and term looked at alone."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in range(len(batch)):
        part = batch[row : row + 1]
        try:
            terms = algorithm.compute_loss(policy, reference, part).terms
        except Exception as failure:  # a loss that cannot be had of one row: the rows are not to be told apart
            reason = f"of one row alone the loss raises {type(failure).__name__}: {failure}"
            return NonFiniteLossError(f"{error}; {reason}", [])
        for name, term in terms.items():
            if term.total.requires_grad and not _finite_gradient(term.total, policy):
                rows.setdefault(name, []).append(example(_of_term(part, name), 0, policy))
    if not rows:
        return NonFiniteLossError(f"{error}; that of each row alone is finite", [])
    name, examples = max(rows.items(), key=lambda item: len(item[1]))
    return NonFiniteLossError(
        f"the loss is finite, its gradient is not: {error}; "
        f"term {name!r} has such a gradient on {len(examples)} of {len(batch)} rows",
        examples,
    )


def example(part: Any, row: int, policy: Policy) -> dict[str, Any]:
    """A row as text."""
    sequences = part.sequences[row : row + 1]
    return {
        "prompt": policy.decode(sequences.prompts[0]),
        "completions": [policy.decode(completion) for completion in sequences.completions[0]],
    }


def _of_term(part: Any, name: str) -> Any:
    """The batch that a term was computed on."""
    return part.part_of(name) if hasattr(part, "part_of") else part


def _finite_gradient(total: torch.Tensor, policy: Policy) -> bool:
    found = torch.autograd.grad(total, policy.parameters(), retain_graph=True, allow_unused=True)
    return all(bool(torch.isfinite(gradient).all()) for gradient in found if gradient is not None)
