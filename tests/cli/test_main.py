"""The entry point: exit codes, what is printed, and what is not imported."""

import gc
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import rlx.cli.main as main
import rlx.cli.verb.train
from rlx import interrupt
from rlx.cli.line import verbs
from rlx.errors import STOP_SIGNALS, ConfigError, TrainingError

pytestmark = pytest.mark.whole


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Runs of `train` without training: what each was given; `calls.do` may raise or return a code."""
    monkeypatch.chdir(tmp_path)
    seen = SimpleNamespace(cfgs=[], do=lambda cfg: 0)

    def run(composed):
        seen.cfgs.append(composed.config)
        return seen.do(composed.config)

    monkeypatch.setattr(rlx.cli.verb.train, "run", run)
    return seen


def raising(error):
    def do(cfg):
        raise error

    return do


def test_overrides_arrive_typed(calls):
    assert main.invoke(
        ["train", "seed=3", "loss.beta=0.2", "optimizer.lr=1e-3", "task=preference_file", "task.path=a (b,c)=.jsonl"]
    ) == (0, "")
    (cfg,) = calls.cfgs
    assert (cfg.seed, cfg.loss.beta, cfg.optimizer.lr, cfg.task.path) == (3, 0.2, 1e-3, "a (b,c)=.jsonl")


def test_seed_0_is_a_seed(calls):
    assert main.invoke(["train", "seed=0"]) == (0, "")
    assert calls.cfgs[0].seed == 0


def test_without_a_verb_it_is_train(calls):
    assert main.invoke(["seed=3"]) == (0, "")
    assert calls.cfgs[0].seed == 3


def test_nothing_is_left_behind(calls, tmp_path):
    main.invoke(["train"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "code"), [(ConfigError("no"), 2), (TrainingError("no"), 1)])
def test_an_error_of_rlx_is_its_message_and_its_code(calls, error, code):
    calls.do = raising(error)
    assert main.invoke(["train"]) == (code, "rlx: no")


@pytest.mark.parametrize("code", [0, 75, 130])
def test_the_code_of_the_verb_is_the_exit_code(calls, code):
    calls.do = lambda cfg: code
    assert main.invoke(["train"]) == (code, "")


@pytest.mark.parametrize("code", [0, 3, None, "bye"])
def test_code_that_ends_the_process_ends_no_run_in_silence(calls, tmp_path, code):
    (tmp_path / "ends.py").write_text("import sys\ndef end(code):\n    sys.exit(code)\n")
    spec = importlib.util.spec_from_file_location("ends", tmp_path / "ends.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    calls.do = lambda cfg: module.end(code)
    ended, said = main.invoke(["train"])
    assert ended == 1
    assert f"ends.py:3 in end ended the process (SystemExit: {code}); raise an error there instead" in said


def test_ctrl_c_is_said_before_a_run_listens_which_says_more(calls, monkeypatch):
    monkeypatch.setattr(interrupt, "_listens", False)
    monkeypatch.setattr(interrupt, "_was_raised", False)
    calls.do = lambda cfg: interrupt.on_ctrl_c(signal.SIGINT, None)
    assert main.invoke(["train"]) == (130, "rlx: stopped by SIGINT before anything was saved; run it again")
    monkeypatch.setattr(interrupt, "_listens", True)
    assert main.invoke(["train"]) == (130, "")


def test_ctrl_c_is_said_where_a_library_raises_an_error_in_its_place(calls, monkeypatch):
    monkeypatch.setattr(interrupt, "_listens", False)
    monkeypatch.setattr(interrupt, "_was_raised", False)

    def replaced(cfg):
        try:
            interrupt.on_ctrl_c(signal.SIGINT, None)
        finally:
            raise AttributeError("half done")

    calls.do = replaced
    assert main.invoke(["train"]) == (130, "rlx: stopped by SIGINT before anything was saved; run it again")


def test_a_sweep_runs_every_combination_in_a_directory_of_its_own(calls, tmp_path):
    from hydra.core.hydra_config import HydraConfig

    places = []
    calls.do = lambda cfg: places.append(HydraConfig.get().runtime.output_dir) or 0
    assert main.invoke(["-m", "hydra/sweeper=basic", "seed=0,1", "loss=ipo,dpo"]) == (0, "")
    assert [(cfg.seed, cfg.loss._target_.rpartition(".")[2]) for cfg in calls.cfgs] == [
        (0, "ipo"),
        (0, "dpo"),
        (1, "ipo"),
        (1, "dpo"),
    ]
    assert len(set(places)) == 4
    assert all(place.startswith(str(tmp_path / "outputs" / "sweep")) for place in places)
    assert len({place.rpartition("/")[0] for place in places}) == 1


def test_two_sweeps_never_share_a_directory(calls, tmp_path):
    for _ in range(2):
        assert main.invoke(["-m", "hydra/sweeper=basic", "seed=0,1"]) == (0, "")
    places = list((tmp_path / "outputs" / "sweep").iterdir())
    tokens = {place.name.rpartition("_")[2] for place in places}
    assert len(places) == len(tokens) == 2  # not told apart by the second alone
    assert all(re.fullmatch("[0-9a-f]{6}", token) for token in tokens)


def test_a_failed_job_lets_the_others_run(calls, capsys):
    calls.do = lambda cfg: raising(TrainingError("job of seed 1"))(cfg) if cfg.seed == 1 else 0
    assert main.invoke(["-m", "hydra/sweeper=basic", "seed=0,1,2"]) == (3, "")
    assert len(calls.cfgs) == 3
    assert "rlx: job 1: job of seed 1" in capsys.readouterr().err


def test_a_bug_in_a_job_lets_the_others_run_too(calls, capsys):
    calls.do = lambda cfg: raising(KeyError("a bug"))(cfg) if cfg.seed == 1 else 0
    assert main.invoke(["-m", "hydra/sweeper=basic", "seed=0,1,2"]) == (3, "")
    assert len(calls.cfgs) == 3
    assert "KeyError" in capsys.readouterr().err


def test_a_sweep_whose_jobs_are_all_wrong_is_a_usage_error(calls):
    calls.do = raising(ConfigError("no"))
    assert main.invoke(["-m", "hydra/sweeper=basic", "seed=0,1"])[0] == 2


@pytest.mark.parametrize("code", [75, 130])
def test_a_stopped_job_ends_the_sweep(calls, code):
    calls.do = lambda cfg: code
    assert main.invoke(["-m", "hydra/sweeper=basic", "seed=0,1,2"]) == (code, "")
    assert len(calls.cfgs) == 1


def test_bare_words_become_the_value_of_the_verbs_key(calls, monkeypatch):
    monkeypatch.setattr(rlx.cli.verb.train, "WORDS", "allow_changed", raising=False)
    assert main.invoke(["train", "code", "data"]) == (0, "")
    assert list(calls.cfgs[-1].allow_changed) == ["code", "data"]


def test_a_verb_that_takes_one_word_refuses_two(calls, monkeypatch):
    monkeypatch.setattr(rlx.cli.verb.train, "WORDS", "device", raising=False)
    assert main.invoke(["train", "cpu"]) == (0, "")
    assert calls.cfgs[-1].device == "cpu"
    code, message = main.invoke(["train", "cpu", "cuda"])
    assert code == 2
    assert "takes one device" in message


def test_a_folder_of_yaml_files_of_the_users_own(calls, tmp_path):
    folder = tmp_path / "mine" / "loss"
    folder.mkdir(parents=True)
    (folder / "gentle.yaml").write_text("_target_: rlx.loss.preference.margin.dpo\nbeta: 0.01\nmodifiers: {}\n")
    assert main.invoke(["--config-dir", str(tmp_path / "mine"), "loss=gentle"]) == (0, "")
    assert main.invoke([f"hydra.searchpath=[{tmp_path / 'mine'}]", "loss=gentle"]) == (0, "")
    assert [cfg.loss.beta for cfg in calls.cfgs] == [0.01, 0.01]


def test_the_environment_is_left_as_it_was(calls, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    main.invoke(["train"])
    assert sys.argv == before
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_main_prints_the_message_on_stderr(calls, capsys):
    calls.do = raising(ConfigError("no"))
    assert main.main(["train"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "rlx: no\n")


def test_version(capsys):
    assert main.invoke(["--version"]) == (0, "")
    assert capsys.readouterr().out == f"rlx {rlx.__version__}\n"


def test_cfg_job_prints_the_config(capsys):
    assert main.invoke(["train", "--cfg", "job", "seed=7"]) == (0, "")
    assert "seed: 7" in capsys.readouterr().out


def test_info(capsys):
    assert main.invoke(["--info", "searchpath"]) == (0, "")
    assert "main" in capsys.readouterr().out


QUICK = [["--help"], [], ["train", "--help"], ["--cfg", "job"], ["--version"]]
LIGHT = [["train", "loss.betta=1"], ["algorithm=gpro"], ["--info", "defaults"]]
PROBE = """
import json, sys
from rlx.cli.main import main
main(json.loads(sys.argv[1]))
heavy = [name for name in ("torch", "transformers", "rich", "numpy") if name in sys.modules]
print(json.dumps(heavy))
"""


def probe(argv, directory):
    """Runs a command line in a process of its own: (heavy packages imported, CPU seconds, which others cannot lengthen)."""
    before = os.times()
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(argv)], capture_output=True, text=True, cwd=directory)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout.splitlines()[-1]), seconds


@pytest.mark.parametrize("argv", [*QUICK, *LIGHT], ids=lambda argv: " ".join(argv) or "nothing")
def test_light_commands_import_no_torch(argv, tmp_path):
    assert probe(argv, tmp_path)[0] == []


@pytest.mark.parametrize("argv", QUICK, ids=lambda argv: " ".join(argv) or "nothing")
def test_quick_commands_take_under_a_second(argv, tmp_path):
    assert any(probe(argv, tmp_path)[1] < 1 for _ in range(3))


@pytest.mark.parametrize("verb", [verb for verb in verbs() if verb != "train"])
def test_every_verb_leaves_the_working_directory_and_the_logging_alone(verb, tmp_path, monkeypatch):
    import logging

    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"rlx.cli.verb.{verb}")
    writing: list[list[type]] = []

    def run(composed):
        writing.append([type(handler) for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)])
        return 0

    monkeypatch.setattr(module, "run", run)
    before = logging.getLogger().handlers[:]
    assert main.invoke([verb]) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert writing == [[]]
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_has_help_and_prints_its_config(verb, capsys):
    assert main.invoke([verb, "--help"]) == (0, "")
    assert main.invoke([verb, "--cfg", "job"]) == (0, "")
    assert verb in capsys.readouterr().out


def test_the_interpreters_last_collection_has_little_to_go_through(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rlx", "--version"])
    monkeypatch.delitem(sys.modules, "rlx.parallel.distributed", raising=False)  # with it the process would end
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with pytest.raises(SystemExit) as ended:
            main.command_line()
        assert ended.value.code == 0
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_stop_after_the_end_changes_no_exit_code():
    code = "import atexit, os, signal, sys; from rlx.cli import main; atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
    code += "main.main = lambda argv: 0; main.command_line()"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
