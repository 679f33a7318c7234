"""An algorithm from outside, as a user brings one: here only its fields matter, the stand-in for training reads them."""

from dataclasses import dataclass
from typing import ClassVar

from rlx.algorithm import Algorithm, AlgorithmType


@dataclass(frozen=True, kw_only=True)
class Wild(Algorithm):
    """does: how the run ends; x and y: where its score is best at 0.3 and -1; slow: seconds a step takes."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED

    does: str = "well"
    x: float = 0.3
    y: float = -1.0
    n: int = 4
    slow: float = 0.0
