import re
from collections.abc import Mapping

import pytest

from rlx.config.compose import option_node
from rlx.config.schema import conf_dir
from rlx.loss.advantage.token import Gae
from rlx.loss.value import clipped_squared_error
from rlx.report.card import _source, card_of
from tests.loss.catalogue import NAMES, load

ADDRESS = re.compile(r"arXiv:\d{4}\.\d{5}|doi:|https://|section")


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_has_formula_paper_shapes_and_a_meaning_for_each_hyperparameter(name):
    card = card_of(load(name), name=name)
    assert card.formula
    assert card.summary
    assert card.weights
    assert ADDRESS.search(card.paper)
    assert "->" in card.shapes
    assert re.fullmatch(r"rlx/loss/[\w/]+\.py:\d+", card.source)
    assert [item.name for item in card.hyperparameters if not item.meaning] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_hyperparameter_of_an_option_is_on_the_card_with_its_value(name):
    card = card_of(load(name), name=name)
    shown = {item.name: item.value for item in card.hyperparameters}
    for key, value in option_node("loss", name, [conf_dir()]).items():
        if key != "_target_" and not isinstance(value, Mapping):
            assert shown[key] == value


@pytest.mark.parametrize("file", sorted((conf_dir() / "loss").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_knob_of_a_yaml_has_a_comment(file):
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    top = [line for line in lines if re.match(r"^ *[a-z]\w*: \S", line) and "modifiers: {}" not in line]
    assert [line for line in top if "  # " not in line] == []


def test_the_source_is_the_line_of_the_formula():
    path, line = card_of(load("ipo")).source.split(":")
    assert (conf_dir().parent / path).read_text().splitlines()[int(line) - 1] == "@preference_loss"


def test_values_in_force_are_shown_not_defaults():
    lines = card_of(load("simpo", gamma=0.75), name="simpo").lines()
    assert any(line.startswith("  gamma = 0.75 (") for line in lines)
    assert lines[0] == "simpo"


def test_conventions_of_other_systems_are_listed():
    assert any("TRL" in line for line in card_of(load("ipo")).conventions)
    assert any("verl" in line for line in card_of(load("cispo_cap")).conventions)


def test_modifiers_and_parts_have_their_place():
    names = [item.name for item in card_of(load("ld_dpo")).hyperparameters]
    assert {"modifiers.length", "modifiers.length.alpha"} <= set(names)
    assert set(card_of(load("mixture")).parts) == {"dpo", "bco", "sft"}
    assert any("part bco" in line for line in card_of(load("mixture")).lines())


def test_advantages_and_value_losses_have_cards_too():
    assert "V" in card_of(clipped_squared_error(clip=0.2)).formula
    assert card_of(Gae(gamma=1.0, lam=0.95, whiten=True, epsilon=1e-8)).requires == ("values",)


def test_symbols_of_one_loss_and_formulas_of_modifiers_are_on_the_card():
    assert "z = max(0, " in card_of(load("kto")).notation
    meaning = {item.name: item.meaning for item in card_of(load("wpo")).hyperparameters}["modifiers.weighting"]
    assert "exp(mean_t (log p_t - log Σ_v p_v²))" in meaning
    assert "arXiv:2406.11827" in meaning


def test_a_heading_is_shown_where_it_names_another_paper():
    assert card_of(load("ipo"), heading="IPO of sums, arXiv:2310.12036").lines()[1].startswith("  Identity")
    assert card_of(load("ipo"), heading="Mine, arXiv:2401.00001").lines()[1] == "  Mine, arXiv:2401.00001"


def test_what_never_has_a_reference_does_not_speak_of_one():
    lines = card_of(Gae(gamma=1.0, lam=0.95, whiten=True, epsilon=1e-8)).lines()
    assert not any(line.startswith("  reference") for line in lines)
    assert "  reference not needed" in card_of(load("simpo")).lines()


def test_the_source_is_told_from_the_package_on_even_in_a_folder_of_the_same_name(tmp_path, monkeypatch):
    package = tmp_path / "outer_lab" / "outer_lab" / "part"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text("\n\nclass Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "outer_lab")
    from outer_lab.part.mine import Mine

    assert _source(Mine) == "outer_lab/part/mine.py:3"
