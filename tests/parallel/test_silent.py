from rlx.parallel.silent import SilentRecorder, SilentView
from rlx.record.run import read_run
from tests.training.trained import trained_run


def test_a_silent_recorder_writes_nothing():
    run = trained_run()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    recorder = SilentRecorder(read_run(run))
    recorder.log(7, {"train/loss": 1.0})
    recorder.samples(7, [{"prompt": "a"}])
    recorder.answers(7, [1.0])
    recorder.sync()
    recorder.update(threads=17)
    recorder.fail(ValueError("wrong"))
    recorder.interrupt(signal="SIGTERM")
    assert recorder.record.threads == 17
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_silent_view_shows_nothing(capfd):
    view = SilentView()
    view.start({"task": "arithmetic"}, num_steps=4)
    view.evaluated(0, {"eval/score": 1.0})
    view.step(1, {"train/loss": 1.0})
    view.note("a note")
    view.warn("a warning")
    view.finish({"figures": {}})
    assert capfd.readouterr() == ("", "")
