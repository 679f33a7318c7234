"""Orders of launched jobs, and what their jobs say of them."""

from rlx.record.process import this_process
from rlx.sweep.cluster.standing import HALT, STOP, Orders
from rlx.sweep.pool.messages import Done, Order


def test_an_order_is_read_begun_and_ended(tmp_path):
    orders = Orders(tmp_path)
    order = Order("a", str(tmp_path / "a"), {"content": 1})
    orders.give(order)
    assert orders.read("a") == order
    assert (orders.process("a"), orders.slurm_id("a"), orders.ended("a")) == (None, None, None)
    assert orders.begin("a", "12_3")
    assert orders.begin("a", "12_3")  # the same process: a launcher without processes of its own tries again
    assert (orders.process("a"), orders.slurm_id("a")) == (this_process(), "12_3")
    orders.end("a", Done("failed", reason="boom"))
    assert orders.ended("a") == Done("failed", reason="boom")
    assert not orders.begin("a", None)
    orders.give(order)
    assert (orders.process("a"), orders.slurm_id("a"), orders.ended("a")) == (None, None, None)


def test_words_to_all_jobs(tmp_path):
    orders = Orders(tmp_path)
    orders.give(Order("a", "a", None))
    for word in (STOP, HALT):
        assert not orders.is_told(word)
        orders.tell(word)
        assert orders.is_told(word)
    orders.clear()
    assert not orders.is_told(STOP)
    assert not orders.is_told(HALT)


def test_what_was_cut_short_says_nothing(tmp_path):
    orders = Orders(tmp_path)
    orders.give(Order("a", "a", None))
    (tmp_path / ".orders" / "a.json").write_text('{"state": ')
    assert orders.ended("a") is None
