"""`rlx -m resume=SWEEP`: its command as data, which names nothing that the user did not."""

import json
import shlex

import pytest

from rlx.errors import ConfigError
from rlx.sweep.resume import own_names, resume_command, resumed_arguments, sweep_to_resume


def plan(tmp_path, *command):
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [], "command": ["rlx", *command]}))
    return tmp_path


def test_the_sweep_is_found(tmp_path):
    plan(tmp_path)
    assert sweep_to_resume(["a=1", f"resume={tmp_path}"]) == tmp_path
    assert sweep_to_resume([f"resume='{tmp_path}/sweep.json'"]) == tmp_path
    assert sweep_to_resume(["a=1", "resume=null"]) is None
    with pytest.raises(ConfigError, match="no sweep is there"):
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
        "logger.x._target_=os.System",
        "--config-dir=/tmp/theirs",
        "algorithm=dpo,evil.Class",
        "hydra.searchpath=[file:///tmp/x]",
    ],
)
def test_what_a_plan_names_is_not_trusted(tmp_path, word):
    plan(tmp_path, "-m", word)
    with pytest.raises(ConfigError, match="if you trust it"):
        resumed_arguments(tmp_path, ["-m", f"resume={tmp_path}"])
    assert own_names(["algorithm=dpo", "optimizer._target_=torch.optim.Adam", "task.path=a.jsonl", "seed=range(0,5)"]) == []


def test_the_user_may_name_it_again(tmp_path):
    plan(tmp_path, "-m", "algorithm=mine.Class", "seed=0,1")
    assert resumed_arguments(tmp_path, ["-m", f"resume={tmp_path}", "algorithm=mine.Class"]) == [
        "-m",
        "seed=0,1",
        "algorithm=mine.Class",
    ]


def test_what_is_told_to_type_is_enough(tmp_path):
    command = ("-m", "--config-dir", "my conf", "algorithm=mine.Class", "seed=0,1")
    typed = shlex.split(resume_command(str(tmp_path), ["rlx", *command]))
    assert typed == ["rlx", "-m", f"resume={tmp_path}", "--config-dir", "my conf", "algorithm=mine.Class"]
    plan(tmp_path, *command)
    assert sorted(resumed_arguments(tmp_path, typed[1:])) == sorted(command)
    assert resume_command("a", ["rlx", "-m", "algorithm=dpo", "seed=0,1"]) == "rlx -m resume=a"


def test_a_plan_that_cannot_be_read(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        resumed_arguments(tmp_path, [])
