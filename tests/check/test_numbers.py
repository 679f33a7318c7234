import numpy as np

from rlx.check.laboratory import Numbers, generator_of, key_of


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


def test_log_probabilities_are_negative_and_those_of_two_never_agree_by_being_cut_off():
    numbers = Numbers(2.0)
    for letter in range(50):
        key = key_of(np.array([1]), np.array([letter]))
        policy, sampler = (numbers.of(who, "token_logprobs", key, 8) for who in ("policy", "sampler"))
        assert (policy <= -0.01).all()
        assert (policy != sampler).all()


def test_an_agreeing_sampler_agrees_on_about_half_of_the_completions():
    numbers = Numbers(0.4, agreeing=True)
    keys = [key_of(np.array([1]), np.array([letter])) for letter in range(200)]
    same = [
        all(numbers.of("policy", "token_logprobs", key, 4) == numbers.of("sampler", "token_logprobs", key, 4)) for key in keys
    ]
    assert 70 < sum(same) < 130
