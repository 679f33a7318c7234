"""The law of directions, of pairs: what is said of a side that goes astray."""

from tests.check.checking import failed
from tests.check.oversights import LikelihoodOfTheRejected


def test_the_term_that_goes_astray_is_named():
    found = failed(LikelihoodOfTheRejected(), "direction")["direction"]
    assert found.wrong.startswith("rejected completions are made likelier by the term nll, which reads that side")
    assert "terms['nll']" in found.where
