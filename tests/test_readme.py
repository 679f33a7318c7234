"""The README is executed: its commands to the letter, with settings appended that make them small."""

import json
import re
import shlex
from pathlib import Path

import pytest

from rlx.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
LINES = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line[1:] for line in LINES if line and line[0] == "rlx"]
MAKE = [line[1] for line in LINES if line and line[0] == "make"]
SMALL = ["num_steps=2", "eval_every=null", "evaluation.num_prompts=8", "evaluation.num_pairs=8", "logger=[]", "threads=1"]
MODEL = "MODEL"


def trains(command):
    return command[0] in ("train", "-m")


def small(command):
    """A command with what makes it short; one that says how long it is keeps that."""
    if command[0] == "bench":
        return [*command, "rounds=1", "tokens=200", "seconds=1", "warmup_steps=1", "num_prompts=8"]
    if not trains(command) or any(word.startswith(("resume=", "rerun=")) for word in command):
        return command
    return [*command, *(setting for setting in SMALL if not any(word.startswith(setting.partition("=")[0]) for word in command))]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory with what the README tells people to put there."""
    (tmp_path / "my_lab.py").write_text(re.search(r"<!-- my_lab.py -->\n```python\n(.*?)```", README, flags=re.DOTALL).group(1))
    rows = [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": str(i + 2)} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    labelled = [{"prompt": f"{i}+1=", "completion": str(i + 1 + i % 2), "label": i % 2 == 0} for i in range(80)]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, labelled)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_readme_has_commands_and_they_are_of_rlx_or_make():
    assert len(COMMANDS) > 12
    targets = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in targets for target in MAKE)


def test_the_algorithm_of_the_readme_is_short(place):
    assert len((place / "my_lab.py").read_text().strip().splitlines()) <= 30


@pytest.mark.parametrize("command", [c for c in COMMANDS if trains(c) and "-m" not in c], ids=" ".join)
def test_every_training_command_composes(place, command, capfd):
    if any(word.startswith(("resume=", "rerun=", "outputs/")) for word in command):
        pytest.skip("needs the run before it")
    assert main([*command, "--cfg", "job"]) == 0, capfd.readouterr().err


@pytest.mark.slow
def test_every_command_runs(place, capfd):
    from rlx.policy.tiny import load_tiny

    policy = load_tiny()
    policy.model.save_pretrained(place / MODEL)
    policy.tokenizer.save_pretrained(place / MODEL)
    for command in COMMANDS:
        if any(word.startswith("resume=") for word in command):
            main(small(["train"]))
            command = [word.replace("num_steps=220", "num_steps=3") for word in command]
        code = main(small(command))
        printed = "".join(capfd.readouterr())
        assert code == 0, f"rlx {' '.join(command)}: {printed}"
        assert "Traceback" not in printed
