"""`rlx -m resume=SWEEP`: its command as data, which names nothing that the user did not."""

import json
import shlex
import sys

import pytest

from rlx.errors import ConfigError
from rlx.record.sources import syntax_hash
from rlx.sweep.resume import resume_command, resumed_command, sweep_to_resume, words_to_repeat


def plan(tmp_path, *command):
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [], "command": ["rlx", *command]}))
    return tmp_path


def resumed_arguments(tmp_path, given):
    return list(resumed_command(tmp_path, given).arguments)


def test_the_sweep_is_found(tmp_path):
    plan(tmp_path)
    assert sweep_to_resume(["a=1", f"resume={tmp_path}"]) == tmp_path
    assert sweep_to_resume([f"resume='{tmp_path}/sweep.json'"]) == tmp_path
    assert sweep_to_resume(["a=1", "resume=null"]) is None
    with pytest.raises(ConfigError, match="there is no sweep"):
        sweep_to_resume([f"resume={tmp_path / 'nothing'}"])


def test_the_command_with_what_is_given_anew(tmp_path):
    plan(tmp_path, "-m", "algorithm=hybrid", "seed=range(0,5)", "sweep.workers=2")
    assert resumed_arguments(tmp_path, ["-m", f"resume={tmp_path}"]) == [
        "-m",
        "algorithm=hybrid",
        "seed=range(0,5)",
        "sweep.workers=2",
    ]
    again = resumed_arguments(tmp_path, ["-m", f"resume={tmp_path}", "sweep.workers=8", "sweep.retries=1"])
    assert again == ["-m", "algorithm=hybrid", "seed=range(0,5)", "sweep.workers=8", "sweep.retries=1"]


@pytest.mark.parametrize(
    "word",
    [
        "algorithm=evil.Class",
        "algorithm=evil.lower",
        "algorithm=choice(dpo,evil.lower)",
        "algorithm='evil.lower'",
        "loss@algorithm.dpo.loss=evil.lower",
        "task/reward=[exact_match,evil.reward]",
        "+policy._target_=os.system",
        "+policy={_target_:evil.lower}",
        "logger.x._target_=os.System",
        "--config-dir=/tmp/theirs",
        "algorithm=dpo,evil.Class",
        "hydra.searchpath=[file:///tmp/x]",
        "+hydra.callbacks.x._target_=rlx.y.Z",
        "hydra.launcher.setup=[touch]",
        "hydra/job_logging=other",
        "hydra/launcher=evil.Class",
        "hydra.run.dir=/tmp",
    ],
)
def test_what_a_plan_names_is_not_trusted(tmp_path, word):
    plan(tmp_path, "-m", word)
    with pytest.raises(ConfigError, match="if you trust it"):
        resumed_arguments(tmp_path, ["-m", f"resume={tmp_path}"])


def test_what_is_rlxs_own_needs_no_trust():
    own = ["algorithm=dpo", "optimizer._target_=torch.optim.Adam", "task.path=a.jsonl", "seed=range(0,5)"]
    assert words_to_repeat([*own, "hydra.sweep.dir=a/b.c", "hydra/launcher=submitit_slurm", "loss=dpo,ipo"]) == []


def test_what_is_the_records_alone_is_known(tmp_path):
    plan(tmp_path, "-m", "algorithm=mine.Class", "seed=0,1", "sweep.workers=1")
    resumed = resumed_command(tmp_path, ["-m", "resume=x", "algorithm=mine.Class", "sweep.workers=2"])
    assert resumed.recorded == {"seed=0,1"}


@pytest.mark.parametrize(
    "command",
    [
        None, [], "rlx -m", ["rlx"], ["rlx", "seed=1"], ["python", "-m"], ["rlx", "-m", 3], ["rlx", "-m", "new"],
        ["rlx", "-m", "--info"], ["rlx", "-m", "resume=other"], ["rlx", "-m", "+rerun=other"], ["rlx", "-m", "--cfg=job"],
    ],
)  # fmt: skip
def test_a_plan_without_the_command_of_a_sweep_runs_nothing(tmp_path, command):
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": []} | ({} if command is None else {"command": command})))
    with pytest.raises(ConfigError, match=r"holds no command|cannot be read|without -m|is not a command of a sweep"):
        resumed_command(tmp_path, ["-m", "resume=x"])


def test_the_user_may_name_it_again(tmp_path):
    plan(tmp_path, "-m", "algorithm=mine.Class", "seed=0,1")
    assert resumed_arguments(tmp_path, ["-m", f"resume={tmp_path}", "algorithm=mine.Class"]) == [
        "-m",
        "seed=0,1",
        "algorithm=mine.Class",
    ]


def test_what_is_told_to_type_is_enough(tmp_path):
    command = ("-m", "--config-dir", "my conf", "algorithm=mine.Class", "seed=0,1")
    typed = shlex.split(resume_command(str(tmp_path), {"command": ["rlx", *command]}))
    assert typed == ["rlx", "-m", f"resume={tmp_path}", "--config-dir", "my conf", "algorithm=mine.Class"]
    plan(tmp_path, *command)
    assert sorted(resumed_arguments(tmp_path, typed[1:])) == sorted(command)
    assert resume_command("a", {"command": ["rlx", "-m", "algorithm=dpo", "seed=0,1"]}) == "rlx -m resume=a"


def test_code_of_ones_own_that_is_as_it_was_needs_no_naming(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = syntax_hash(b"class Loss: ...\n")
    command = ["rlx", "-m", "loss=idea_kept.Loss", "seed=0,1"]
    place = tmp_path / "sweep"
    place.mkdir()
    (place / "sweep.json").write_text(
        json.dumps({"jobs": [], "command": command, "sources": [{"module": "idea_kept", "code": code}]})
    )
    with pytest.raises(ConfigError, match="if you trust it"):
        resumed_command(place, ["-m", "resume=sweep"])
    (tmp_path / "idea_kept.py").write_text("class Loss: ...  # said better\n")
    resumed = resumed_command(place, ["-m", "resume=sweep"])
    assert (resumed.arguments, resumed.trusted) == (("-m", "loss=idea_kept.Loss", "seed=0,1"), {"idea_kept.Loss"})
    assert "idea_kept" not in sys.modules
    (tmp_path / "idea_kept.py").write_text("class Loss: x = 1\n")
    with pytest.raises(ConfigError, match="if you trust it"):
        resumed_command(place, ["-m", "resume=sweep"])


def test_a_plan_that_cannot_be_read(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        resumed_arguments(tmp_path, [])


def test_an_environment_of_verifiers_is_code(tmp_path):
    words = ["-m", "task=verifiers", "task.env=my-env,other", "seed=1,2"]
    assert words_to_repeat(words) == ["task.env=my-env,other"]
    assert words_to_repeat(words, {"my_env.load_environment"}) == ["task.env=my-env,other"]
    assert words_to_repeat(words, {"my_env.load_environment", "other.load_environment"}) == []
    plan(tmp_path, *words)
    with pytest.raises(ConfigError, match=r"says task\.env=my-env,other, which is neither"):
        resumed_command(tmp_path, [f"resume={tmp_path}"])
    assert resumed_command(tmp_path, [f"resume={tmp_path}", "task.env=my-env,other"]).arguments
