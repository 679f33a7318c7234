import numpy as np

from rlx.algorithm.contract_numbers import Numbers, generator_of, key_of


def test_numbers_are_a_function_of_the_tokens_and_of_what_they_are_for():
    key, other = key_of(np.array([1, 2]), np.array([3])), key_of(np.array([1]), np.array([2, 3]))
    numbers = Numbers(0.5)
    first = numbers.of("policy", "token_logprobs", key, 4)
    assert (first == Numbers(0.5).of("policy", "token_logprobs", key, 4)).all()
    assert (first < 0).all()
    for different in (("reference", "token_logprobs", key), ("policy", "entropy", key), ("policy", "token_logprobs", other)):
        assert (first != numbers.of(*different, 4)).any()
    assert generator_of("a", key).random() != generator_of("b", key).random()


def test_a_constant_is_of_whom_it_is_named_for():
    key = (b"p", b"c")
    numbers = Numbers(0.1, -7.0, "reference")
    assert (numbers.of("reference", "token_logprobs", key, 3) == -7).all()
    assert (numbers.of("policy", "token_logprobs", key, 3) != -7).all()
