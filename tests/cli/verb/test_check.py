"""rlx check from the outside: what it prints, its JSON, its exit codes, and everything that rlx ships."""

import json
import shlex
import signal
import sys

import pytest
from omegaconf import OmegaConf

from rlx.cli.main import invoke, main
from rlx.cli.verb import check
from rlx.config.compose import Composed, groups
from rlx.config.schema import conf_dir
from rlx.errors import ExitCode, NonFiniteError

pytestmark = pytest.mark.whole

ALGORITHMS, LOSSES = (groups([conf_dir()])[group] for group in ("algorithm", "loss"))
LAB = """
from dataclasses import dataclass
from rlx.algorithm.sft import Sft

@dataclass(frozen=True, kw_only=True)
class Upside(Sft):
    extra: float = 0.1

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        term = output.terms["loss"]
        return type(output)({"loss": type(term)(-term.values, term.weights)}, output.metrics)
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "upside_lab.py").write_text(LAB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("upside_lab", None)


def test_a_class_of_ones_own_is_judged_with_what_is_wrong_and_the_mend(lab, capsys):
    code, message = invoke(["check", "algorithm=upside_lab.Upside", "laws=[direction,hyperparameters,split]"])
    printed = capsys.readouterr().out
    assert (code, message) == (1, "")
    assert "FAILED  direction" in printed
    assert "passed  split" in printed
    assert "extra" in printed
    assert "        fix      " in printed
    assert "breaks direction, hyperparameters" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IndexError("shape mismatch"), "IndexError: shape mismatch"),
        (NonFiniteError("the loss is NaN; lower it"), "the loss is NaN"),
    ],
)
def test_an_error_on_the_tasks_own_rows_is_a_finding(monkeypatch, capsys, error, said):
    def draws(subject):
        raise error

    monkeypatch.setattr(check, "task_notes", draws)
    assert invoke(["check", "algorithm=dpo", "laws=[hyperparameters]"]) == (1, "")
    printed = capsys.readouterr().out
    assert "FAILED  task " in printed
    assert said in printed
    assert "breaks task: 1 passed, 1 failed" in printed.splitlines()[-1]


def test_json_holds_every_law(lab, capsys):
    assert invoke(["check", "algorithm=upside_lab.Upside", "laws=[direction,anchor]", "json=true"])[0] == 1
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is False
    assert told["subject"] == "algorithm=upside_lab.Upside"
    assert {law["law"]: law["status"] for law in told["laws"]} == {"direction": "failed", "anchor": "not applicable"}


def test_a_loss_is_checked_within_the_plainest_algorithm(capsys):
    assert invoke(["check", "loss=ipo", "loss.beta=0.3", "laws=[losses,direction]"]) == (0, "")
    assert "keeps every law" in capsys.readouterr().out


def test_scores_that_nobody_gave_are_made_up_and_said(capsys):
    assert invoke(["check", "loss=odpo", "laws=[runs]"]) == (0, "")
    assert "made-up scores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algorithm=dpo", "laws=[splitt]"], "did you mean split?"),
        (["algorithm=dpoo"], "did you mean dpo?"),
        (["algorithm=dpo", "algorithm.betta=1"], "betta"),
        (["loss=nowhere_lab.Loss"], "nowhere_lab"),
        (["algorithm=dpo", "threads=0"], "threads"),
        (["loss=odpo", "task=arithmetic"], "have no scores"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_message(words, said, capsys):
    code, message = invoke(["check", *words])
    assert code == 2
    assert said in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loss=ipo", "task=arithmetic"], ["loss"]),
        (["algorithm.beta=1", "+loss.x=2"], ["algorithm", "loss"]),
        (["policy=tiny"], []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_the_command_line_names(words, expected):
    composed = Composed(
        verb="check", config=OmegaConf.create({}), choices={}, overrides=tuple(words),
        allowed=frozenset(), folders=(), command=("rlx",),
    )  # fmt: skip
    assert composed.named("algorithm", "loss") == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_of_rlx_keeps_its_laws(name, capsys):
    code, message = invoke(["check", f"algorithm={name}"])
    assert code == 0, message + capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_rlx_keeps_its_laws(name, capsys):
    code, message = invoke(["check", f"loss={name}"])
    assert code == 0, message + capsys.readouterr().out


def test_a_hint_is_in_the_json_too(monkeypatch, capsys):
    monkeypatch.setattr("rlx.cli.verb.check.hint", lambda subject, name: f"{name} says that it is ipo")
    assert invoke(["check", "loss=ipo", "laws=[anchor]", "json=true"])[0] == 0
    assert json.loads(capsys.readouterr().out)["hint"] == "loss=ipo says that it is ipo"
    assert invoke(["check", "loss=ipo", "laws=[anchor]"])[0] == 0
    assert "hint    loss=ipo says that it is ipo\n" in capsys.readouterr().out


def test_without_an_algorithm_it_is_the_doctor(monkeypatch, capsys):
    from rlx.check import doctor

    monkeypatch.setattr(doctor, "matmul_peak", lambda dtype: 1e9)
    monkeypatch.setattr(doctor, "end_to_end", lambda: doctor.Fact("bad", "a short run", "it broke", "fix it"))
    assert invoke(["check", "json=true"])[0] == 1
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is False
    assert [fact["name"] for fact in told["facts"]][-1] == "a short run"


def test_a_doctor_that_a_signal_ends_says_so(monkeypatch, capsys):
    from rlx.check import doctor
    from rlx.training.stop import Stopped

    def stopped():
        raise Stopped(0, signal.SIGTERM)

    monkeypatch.setattr(doctor, "matmul_peak", lambda dtype: 1e9)
    monkeypatch.setattr(doctor, "end_to_end", stopped)
    assert main(["check"]) == ExitCode.STOPPED
    said = capsys.readouterr()
    assert said.err == "rlx: the check was stopped by SIGTERM; run it again\n"
    assert "fix" not in said.out


@pytest.mark.parametrize("words", [["optimizer.lr=5"], ["task/reward=[exact_match]"], ["same_as=grpo"], ["exact=true"]])
def test_what_the_doctor_does_not_read_is_refused(words, capsys):
    assert main(["check", *words]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "neither an algorithm nor a loss" in said
    assert f"rlx check algorithm=custom_dpo {shlex.join(words)}" in said


def test_laws_run_on_one_thread_unless_the_command_says_another_number(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("rlx.experiment.set_threads", asked.append)
    assert main(["check", "algorithm=dpo", "laws=[metrics]"]) == 0
    assert main(["check", "algorithm=dpo", "laws=[metrics]", "threads=2"]) == 0
    assert asked == [1, 2]
