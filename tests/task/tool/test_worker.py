import asyncio
import time

import pytest

from rlx.task.tool.worker import ToolError, ToolWorkers

HERE = "tests.task.tool.tools"


def called(workers, name, **arguments):
    return asyncio.run(workers.call((HERE, name), arguments))


@pytest.fixture(scope="module")
def workers():
    return ToolWorkers(seconds=20.0, most=2)


def test_what_a_function_returns_is_text(workers):
    assert called(workers, "add", a=20, b=22) == "42"
    assert called(workers, "row") == '{"a": [1, null]}'
    assert called(workers, "later", word="x") == "x"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [("add", {"a": 1}, "TypeError"), ("fail", {}, "KeyError: 'no notes'"), ("nonsense", {}, "neither text nor JSON"),
     ("crash", {}, "ended its process"), ("missing", {}, "AttributeError")],
)  # fmt: skip
def test_what_goes_wrong_is_named_and_later_calls_run(workers, name, arguments, said):
    with pytest.raises(ToolError, match=said):
        called(workers, name, **arguments)
    assert called(workers, "add", a=1, b=1) == "2"


def test_a_call_that_hangs_is_ended_and_holds_up_no_other():
    workers = ToolWorkers(seconds=1.5, most=2)

    async def both():
        return await asyncio.gather(
            workers.call((HERE, "hang"), {}), *(workers.call((HERE, "add"), {"a": n, "b": 0}) for n in range(6)),
            return_exceptions=True,
        )  # fmt: skip

    began = time.monotonic()
    hung, *sums = asyncio.run(both())
    assert isinstance(hung, ToolError)
    assert "no result within 1.5 s" in str(hung)
    assert sums == [str(n) for n in range(6)]
    assert time.monotonic() - began < 30
    assert len(workers._idle) == 1
