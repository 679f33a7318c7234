"""`rlx guide`: the list of pages, one page, and what is said of a page that there is not."""

import pytest
from rich.console import Console

from rlx.cli.main import main
from rlx.cli.verb import guide


def test_the_list_names_every_page_with_its_heading(capsys):
    assert main(["guide"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(guide.pages())
    assert lines[0].split()[0] == "start"
    for line, file in zip(lines, guide.pages().values(), strict=True):
        assert line.endswith(file.read_text().splitlines()[0].removeprefix("# "))


@pytest.mark.parametrize("name", guide.pages())
def test_a_page_is_printed_as_it_is_written_into_a_pipe(name, capsys):
    assert main(["guide", name]) == 0
    assert capsys.readouterr().out == guide.pages()[name].read_text()


@pytest.mark.parametrize("name", guide.pages())
def test_a_page_begins_with_its_heading_and_no_line_is_wide(name):
    lines = guide.pages()[name].read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines[0]) <= 80
    assert [line for line in lines if len(line) > 140 and not line.startswith("|")] == []


def test_a_page_is_rendered_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console", lambda: Console(force_terminal=True, width=72, color_system=None))
    guide.print_page("# A heading\n\nSome `code` in **bold**.\n\n```bash\nrlx train\n```\n", is_terminal=True)
    printed = capsys.readouterr().out
    assert "rlx train" in printed
    assert not {"#", "`", "*"} & set(printed)
    assert max(map(len, printed.splitlines())) <= 72


def test_a_page_that_there_is_not_is_a_usage_error_with_the_nearest(capsys):
    assert main(["guide", "strat"]) == 2
    assert "did you mean start" in capsys.readouterr().err
    assert main(["guide", "zzzzz"]) == 2
    assert "the pages are start" in capsys.readouterr().err
