"""Completion with a verb in the line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlx.cli.line import cut_verb
from rlx.cli.main import invoke

ONLY_TRAIN = {"train": ""}


@pytest.mark.parametrize(
    ("line", "cut", "verb", "candidates"),
    [
        ("rlx tr", "rlx tr", None, ["train"]),
        ("rlx ", "rlx ", None, ["train"]),
        ("rlx", "rlx", None, ["train"]),
        ("rlx train", "rlx train", None, ["train"]),
        ("rlx train ", "rlx ", "train", []),
        ("rlx train algorithm=", "rlx algorithm=", "train", []),
        ("rlx -m train  algorithm=d", "rlx -m algorithm=d", "train", []),
        ("rlx seed=1 tr", "rlx seed=1 tr", None, ["train"]),
        ("rlx algorithm=dpo train loss.b", "rlx algorithm=dpo loss.b", "train", []),
    ],
)
def test_the_verb_is_cut_out(line, cut, verb, candidates, monkeypatch):
    monkeypatch.setattr("rlx.cli.line.verbs", lambda: ONLY_TRAIN)
    environment = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    assert cut_verb(environment) == (verb, candidates)
    assert environment["COMP_LINE"] == cut
    assert environment["COMP_POINT"] == str(len(cut))


def completions(line, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert invoke(["-sc", "query=bash"]) == (0, "")
    return capsys.readouterr().out.split()


def test_groups_options_and_keys(monkeypatch, capsys):
    assert "algorithm=custom_dpo" in completions("rlx train algorithm=", monkeypatch, capsys)
    assert "loss.beta=" in completions("rlx train loss.b", monkeypatch, capsys)
    assert "loss=ipo" in completions("rlx loss=ip", monkeypatch, capsys)
    assert "train" in completions("rlx t", monkeypatch, capsys)
    assert not any("rror" in word for word in completions("rlx train se", monkeypatch, capsys))


def test_the_script_is_printed(capsys):
    assert invoke(["-sc", "install=bash"]) == (0, "")
    assert "complete -o nospace -o default -F hydra_bash_completion rlx" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_real_shell_completes():
    command = Path(sys.executable).with_name("rlx")
    if not command.exists():
        pytest.skip("rlx is not installed")
    script = """
    eval "$(rlx -sc install=bash)"
    COMP_LINE="rlx train loss=ip"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(rlx train loss=ip); COMP_CWORD=2
    hydra_bash_completion; echo "${COMPREPLY[@]}"
    """
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert "loss=ipo" in done.stdout.split(), done.stderr
