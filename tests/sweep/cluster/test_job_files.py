"""JobFiles of launched jobs, and what their jobs say of them."""

from rlx.record.directory import this_process
from rlx.sweep.cluster.job_files import HALT, STOP, JobFiles
from rlx.sweep.pool.worker import Assignment, Done


def test_an_order_is_read_begun_and_ended(tmp_path):
    files = JobFiles(tmp_path)
    order = Assignment("a", str(tmp_path / "a"), {"content": 1})
    files.assign(order)
    assert files.read("a") == order
    assert (files.process("a"), files.slurm_id("a"), files.ended("a")) == (None, None, None)
    assert files.begin("a", "12_3")
    assert files.begin("a", "12_3")  # the same process: a launcher without processes of its own tries again
    assert (files.process("a"), files.slurm_id("a")) == (this_process(), "12_3")
    files.end("a", Done("failed", reason="boom"))
    assert files.ended("a") == Done("failed", reason="boom")
    assert not files.begin("a", None)
    files.assign(order)
    assert (files.process("a"), files.slurm_id("a"), files.ended("a")) == (None, None, None)


def test_words_to_all_jobs(tmp_path):
    files = JobFiles(tmp_path)
    files.assign(Assignment("a", "a", None))
    for word in (STOP, HALT):
        assert not files.has_flag(word)
        files.raise_flag(word)
        assert files.has_flag(word)
    files.clear_flags()
    assert not files.has_flag(STOP)
    assert not files.has_flag(HALT)


def test_what_was_cut_short_says_nothing(tmp_path):
    files = JobFiles(tmp_path)
    files.assign(Assignment("a", "a", None))
    (tmp_path / ".orders" / "a.json").write_text('{"state": ')
    assert files.ended("a") is None
