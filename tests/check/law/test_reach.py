"""Laws of reach: a critic's values in the term of the policy."""

from tests.check.checking import failed
from tests.check.faulty import AdvantageIsLive
from tests.check.sound import BothInOneTerm, PathConsistency


def test_an_advantage_that_is_not_detached_is_named_with_its_term():
    assert failed(AdvantageIsLive(), "belongs")["belongs"].wrong.startswith("term policy multiplies log-probabilities by values")


def test_one_squared_error_for_both_and_one_term_for_both_are_not_accused():
    assert failed(PathConsistency(), "belongs") == {}
    assert failed(BothInOneTerm(), "belongs") == {}
