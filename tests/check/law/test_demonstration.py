"""What is to be imitated, by its log-probabilities or by logits."""

import pytest

from rlx.check.law.demonstration import of_logits
from tests.check.checking import failed, subject
from tests.check.faulty import Demonstrations
from tests.check.lookalikes import SmoothedLabels
from tests.check.slips import (
    CrossEntropyOfProbabilities,
    FocalWeightIsLive,
    LikelihoodOfLogitsWithAPlus,
    TargetsOfThePlaceBefore,
)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (CrossEntropyOfProbabilities, "is given what are probabilities already"),
        (LikelihoodOfLogitsWithAPlus, "the loss lowers the logit of"),
        (TargetsOfThePlaceBefore, "the loss lowers the logit of"),
        (FocalWeightIsLive, "where every token is 3 nats less likely"),
    ],
)
def test_what_is_not_imitated_is_said(kind, said):
    assert said in failed(kind(), "direction")["direction"].wrong


def test_labels_that_are_smoothed_and_losses_without_logits_are_sound():
    assert of_logits(subject(SmoothedLabels())) is None
    assert of_logits(subject(Demonstrations())) is None
