"""A class that is not a whole algorithm is refused, with what to define."""

from dataclasses import dataclass

import pytest
import torch

from rlx.algorithm import Algorithm, AlgorithmType, LossOutput, Need
from rlx.algorithm.base import require_batch, require_complete, require_figures, require_output
from rlx.errors import ConfigError, TrainingError
from tests.check.checking import subject
from tests.check.faulty import Demonstrations
from tests.check.sound import SOUND


@dataclass(frozen=True, kw_only=True)
class Whole(Algorithm):
    kind = AlgorithmType.SUPERVISED
    needs = frozenset({Need.PAIRS})

    def draw(self, lab):
        return lab.pairs(4)

    def compute_loss(self, policy, reference, batch):
        return None


class DrawsNothing(Algorithm):
    kind, needs = Whole.kind, Whole.needs
    compute_loss = Whole.compute_loss


class LosesNothing(Algorithm):
    kind, needs = Whole.kind, Whole.needs
    draw = Whole.draw


class KindIsText(Whole):
    kind = "supervised"


class KindIsMissing(Algorithm):
    needs = Whole.needs


class NeedIsText(Whole):
    needs = frozenset({"pairs"})


class NeedsAreMissing(Algorithm):
    kind = Whole.kind


class WantsNoReference(Whole):
    def compute_loss(self, policy, batch):
        return None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (DrawsNothing, r"what to learn from: define draw\(self, lab\)"),
        (LosesNothing, r"define compute_loss\(self, policy, reference, batch\)"),
        (KindIsText, "does not say its kind"),
        (KindIsMissing, "does not say its kind"),
        (NeedIsText, "they are members of Need: needs = frozenset"),
        (NeedsAreMissing, "does not say its needs"),
        (WantsNoReference, r"compute_loss\(self, policy, batch\) cannot be called with policy, reference, batch"),
    ],
)
def test_what_is_not_whole_is_refused(kind, said):
    with pytest.raises(ConfigError, match=said):
        require_complete(kind())


@pytest.mark.parametrize("kind", [Whole, Demonstrations, *SOUND], ids=lambda kind: kind.__name__)
def test_what_is_whole_is_not(kind):
    require_complete(kind())


@pytest.mark.parametrize(("output", "said"), [(torch.ones(()), "returns a Tensor, not a LossOutput"), (None, "returns None")])
def test_a_loss_that_is_no_output_is_refused(output, said):
    with pytest.raises(TrainingError, match=said):
        require_output(output, by=Whole())


def test_a_loss_without_terms_is_refused():
    with pytest.raises(TrainingError, match="without terms"):
        require_output(LossOutput({}), by=Whole())


@pytest.mark.parametrize("batch", [None, [1, 2], torch.ones(3)])
def test_a_draw_that_is_no_batch_is_refused(batch):
    with pytest.raises(TrainingError, match="it must be a batch"):
        require_batch(batch, by=Whole())


def test_a_batch_is_not():
    checked = subject(Demonstrations())
    require_batch(checked.draw(checked.stand_in()), by=Demonstrations())


@pytest.mark.parametrize(("figures", "said"), [(None, "returns None"), ({"norm": torch.ones(2)}, "returns a Tensor as norm")])
def test_figures_that_are_none_are_refused(figures, said):
    with pytest.raises(TrainingError, match=said):
        require_figures(figures, by=Whole())
    require_figures({"norm": 1.0}, by=Whole())
