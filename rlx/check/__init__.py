"""Is an algorithm sane? The laws that every algorithm keeps, and the stand-ins they are tried on.

A law is a sentence that holds for every sound algorithm, whatever its formula: "cut into micro-batches, a batch gives the
gradient of the whole", "changing any hyperparameter changes what is learned". A law is one function

    def my_law(subject: Subject) -> Finding:
        '''The sentence, as it is printed.'''

It takes a `Subject` (the algorithm with its task, policy and sampler), makes a laboratory from it (`subject.stand_in()`,
`subject.real()`), draws a batch, computes the loss or its gradient, and returns `passed(number)`, `broken(what is wrong,
where=..., mend=...)` or `skipped(why it does not apply)`. An entry in `checker.LAWS` registers it. A planted fault in
`tests/check/faulty.py` shows that it sees one; the algorithms of `tests/check/sound.py` show that it accuses no sound one.
"""
