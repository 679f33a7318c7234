"""Oversights in algorithms that passed every law when they were written; OVERSIGHTS says which laws may name each."""

from __future__ import annotations

from dataclasses import dataclass

from tests.check.mistakes import WithReference


class StepsForEachTerm(WithReference):
    """One optimiser step for each term, which Adam makes equally long."""

    def update_policy(self, gradients, optimizer):
        figures = {}
        for name, gradient in gradients(by=str).items():
            figures |= {f"{name}/{key}": value for key, value in optimizer.step(gradient, self.clipping).items()}
        return figures


@dataclass(frozen=True, kw_only=True)
class CoefficientTwice(WithReference):
    """The gradient of the penalty carries beta, and is multiplied with it once more."""

    def update_policy(self, gradients, optimizer):
        found = gradients(by=str)
        both = zip(found["policy"], found["kl"], strict=True)
        whole = [a if b is None else self.beta * b if a is None else a + self.beta * b for a, b in both]
        return optimizer.step(whole, self.clipping)


OVERSIGHTS: dict[type, set[str]] = {
    StepsForEachTerm: {"update"},
    CoefficientTwice: {"update"},
}
