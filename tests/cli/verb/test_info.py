"""`rlx info`: what a choice is, for one who has never seen it."""

import pytest

from rlx.cli.main import main
from rlx.cli.verb import info
from rlx.config.compose import CommandLine, groups
from rlx.config.groups import GROUPS
from rlx.config.schema import conf_dir

pytestmark = pytest.mark.whole


@pytest.fixture
def shown(capsys):
    """Runs `rlx info` and gives (exit code, lines printed, what stderr says)."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        code = main(["info", *arguments])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


def test_a_loss_shows_formula_paper_ranges_and_values_in_force(shown):
    code, lines, _ = shown("loss=ipo", "loss.beta=0.25")
    assert code == 0
    assert lines[0] == "ipo"
    assert "  formula   (Δ - 1/(2β))²" in lines
    assert any(line.startswith("  paper     Azar et al. 2023") and line.endswith("arXiv:2310.12036") for line in lines)
    assert any(line.startswith("  beta = 0.25 (a finite number above 0): ") for line in lines)
    assert any("TRL" in line for line in lines[lines.index("conventions") :])


def test_the_kl_that_a_loss_adds_to_its_formula_is_shown_with_its_coefficient(shown):
    assert "  plus      beta KL(π, reference), not now: beta is 0" in shown("loss=grpo")[1]
    assert "  plus      beta KL(π, reference), estimated by k1" in shown("loss=grpo", "loss.beta=0.04", "loss.kl_estimator=k1")[1]
    assert not any(line.startswith("  plus") for line in shown("loss=ipo")[1])


def test_a_preset_names_its_own_paper_beside_that_of_its_formula(shown):
    _, lines, _ = shown("loss=grpo")
    assert lines[1].startswith("  GRPO: ")
    assert "arXiv:2402.03300" in lines[1]
    assert any("arXiv:1707.06347" in line for line in lines[2:])
    _, lines, _ = shown("loss=ipo")
    assert "arXiv" not in lines[1]  # it would say the same twice


def test_a_loss_of_ones_own_folder_has_its_heading_too(shown, tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        "# Mine, arXiv:9999.99999\n_target_: rlx.loss.preference.margin.dpo\nbeta: 0.3\n"
    )
    code, lines, _ = shown("--config-dir", str(tmp_path), "loss=mine")
    assert code == 0
    assert lines[:2] == ["mine (dpo)", "  Mine, arXiv:9999.99999"]


@pytest.mark.parametrize(
    ("asked", "title", "formula"),
    [
        ("algorithm/advantage=gae", "gae (Gae)", "A_t = "),
        ("algorithm/advantage=opo", "opo", "r - Σ n r / Σ n"),
        ("algorithm/value_loss=clipped", "clipped (clipped_squared_error)", "½ max("),
    ],
)
def test_a_part_of_an_algorithm_has_its_card(shown, asked, title, formula):
    code, lines, _ = shown(asked)
    assert code == 0
    assert lines[0] == title
    assert next(line for line in lines if line.startswith("  formula")).startswith(f"  formula   {formula}")


def test_a_part_takes_values_and_what_has_no_formula_is_described(shown):
    _, lines, _ = shown("algorithm/advantage=gae", "algorithm.advantage.lam=0.5")
    assert any(line.startswith("  lam = 0.5 (") for line in lines)
    _, lines, _ = shown("algorithm/combine=pcgrad")
    assert lines[0] == "algorithm/combine pcgrad (PcGrad)"


def test_a_named_algorithm_is_shown_whole(shown):
    _, lines, _ = shown("algorithm=custom_grpo", "algorithm/advantage=gae")
    assert lines[0] == "algorithm custom_grpo (CustomGrpo)"
    assert "  algorithm.advantage = Gae" in lines
    assert "  needs: rewards" in lines


def test_every_host_has_the_part(shown):
    for group in (group for group in GROUPS.values() if group.above):
        line = CommandLine(overrides=[f"{group.name}=x"])
        info.prepare(line)
        assert line.overrides == [f"{group.above}={group.host}", f"{group.name}=x"]
        option = groups([conf_dir()])[group.name][0]
        chosen = f"[{option}]" if group.several else option
        _, lines, _ = shown(f"{group.above}={group.host}", f"{group.name}={chosen}")
        assert any(line.startswith(f"  {group.place.removesuffix('{}')}") for line in lines), group


def test_ranges_are_shown_beside_the_values(shown):
    _, lines, _ = shown("algorithm=custom_grpo")
    assert "  loss.clip_low = 0.2 (a finite number at least 0 and at most 1)" in lines


def test_several_choices_come_one_after_the_other(shown):
    _, lines, _ = shown("loss=dpo", "task=arithmetic", "optimizer=adamw")
    titles = [line for number, line in enumerate(lines) if number == 0 or lines[number - 1] == ""]
    assert "dpo" in titles
    assert any(title.startswith("task arithmetic") for title in titles)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "no option is named: rlx info GROUP lists"),
        (("loss=ipoo",), "did you mean ipo?"),
        (("loss=ipo", "loss.beta=-1"), "loss.beta=-1: it must be a finite number above 0"),
        (("loss=ipo", "loss.betta=1"), "did you mean loss.beta?"),
        (("algorithm/advantage=gea",), "did you mean gae?"),
    ],
)
def test_what_cannot_be_shown_is_said_without_a_traceback(shown, asked, said):
    code, lines, error = shown(*asked)
    assert (code, lines) == (2, [])
    assert said in error
    assert "Traceback" not in error


def test_a_loss_without_a_docstring_has_no_empty_lines(shown, tmp_path, monkeypatch):
    (tmp_path / "undocumented_lab.py").write_text(
        "from rlx.loss import preference_loss\n\n@preference_loss\ndef bare(margin, *, beta=0.1):\n    return -beta * margin\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, lines, error = shown("loss=undocumented_lab.bare")
    assert (code, error) == (0, "")
    assert lines[1] == "  formula   -beta * margin"
    assert "  beta = 0.1" in lines


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_a_group_alone_lists_its_options_with_a_line_on_each(shown, group):
    code, lines, _ = shown(group)
    options = groups([conf_dir()])[group]
    assert code == 0
    assert lines[0].startswith(f"{group}: choose one with {group}=")
    assert [line.split()[0] for line in lines[1 : len(options) + 1]] == options
    assert all(len(line.split()) > 1 and "@package" not in line for line in lines[1 : len(options) + 1])


def test_a_formula_is_listed_with_its_first_sentence(shown):
    said = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in shown("loss", "algorithm/advantage")[1] if line.startswith("  ")
    }
    assert said["nll_sequence_sum"].startswith("Negative log-likelihood of the chosen completions: the sum over the tokens")
    assert said["group_centered"].startswith("Rewards minus their group's mean (Dr. GRPO), not divided")
    assert not [name for name, text in said.items() if text.startswith(("-", "σ", "Where: ", "Paper: "))]


def test_an_option_of_ones_own_is_listed_and_not_imported(shown, tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text("_target_: no_such_module.mine\n")
    code, lines, _ = shown("--config-dir", str(tmp_path), "loss")
    assert code == 0
    assert "  mine" in lines


def test_a_word_that_is_no_group_is_refused(shown):
    code, _, said = shown("nosuch")
    assert code == 2
    assert "nosuch: rlx info takes no further words" in said


def test_a_tool_shows_its_function_and_its_schema(shown):
    code, lines, _ = shown("task/tool=calculator")
    assert code == 0
    assert lines[:2] == ["task/tool calculator", "  Compute an arithmetic expression with + - * / // % ** and parentheses."]
    assert '          "expression": {' in lines
