import sys
from types import SimpleNamespace

import pytest

from rlx.errors import ConfigError
from rlx.task.reward.math import MathVerify


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlx\[math\]'"):
        MathVerify(weight=1.0, timeout=5)


def test_expressions_are_compared_as_mathematics():
    pytest.importorskip("math_verify")
    reward = MathVerify(weight=1.0, timeout=5)
    for completion, answer in ((r"so it is $\frac{1}{2}$", "0.5"), ("1/2", "0.5"), ("$x+1$", "1+x"), (r"\boxed{12}", "$12$")):
        assert reward("q", completion, answer=answer) == 1.0
    for completion, answer in (("7", "8"), ("no idea", "3"), ("", "3")):
        assert reward("q", completion, answer=answer) == 0.0


def test_a_bare_answer_is_read_as_mathematics_and_a_marked_one_as_it_is(monkeypatch):
    read = []
    package = SimpleNamespace(
        parse=lambda text, parsing_timeout: read.append((text, parsing_timeout)) or text,
        verify=lambda right, said, timeout_seconds: False,
    )
    monkeypatch.setitem(sys.modules, "math_verify", package)
    reward = MathVerify(weight=1.0, timeout=7)
    assert reward("q", "2", answer=["1+x", "$2$"]) == 0.0
    assert read == [("2", 7), ("$1+x$", 7), ("$2$", 7)]


def test_a_time_out_is_a_whole_second_at_least():
    with pytest.raises(ConfigError, match="at least 1 second"):
        MathVerify(weight=1.0, timeout=0)
