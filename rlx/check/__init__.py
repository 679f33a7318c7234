"""Tests an algorithm for bugs: laws that every correct algorithm obeys, and stand-ins on which they are tested.

A law is a statement that holds for every correct algorithm, whatever its formula: "the gradients of micro-batches add up to that
of the whole batch", "changing any hyperparameter changes what is learned". A law is one function

    def my_law(subject: Subject) -> Finding:
        '''The sentence, as it is printed.'''

It takes a `Subject` (the algorithm with its task, policy and sampler), creates a laboratory from it (`subject.stand_in()`,
`subject.real()`), draws a batch, computes the loss or its gradient, and returns `passed(number)`, `broken(what is wrong,
where=..., mend=...)` or `skipped(why it does not apply)`. An entry in `checker.LAWS` registers it. A planted bug in
`tests/check/faulty.py` shows that the law detects it; the algorithms of `tests/check/sound.py` show that correct ones pass.
"""
