"""An estimate of a KL is one on average over what the policy samples, or its ratio is the wrong way up."""

from tests.check.checking import failed
from tests.check.misreadings import KlUpsideDown


def test_the_mean_of_the_estimate_and_the_kl_are_said():
    wrong = failed(KlUpsideDown(), "closed_forms")["closed_forms"].wrong
    assert "the term kl is 0.291 on average" in wrong  # 0.3 * (3 - log 3 - 1) + 0.7 * (7 / 9 - log(7 / 9) - 1)
    assert "where the KL is 0.154" in wrong  # 0.3 * log 3 + 0.7 * log(7 / 9)
