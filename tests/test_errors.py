from pathlib import Path

import pytest

from rlx.errors import ConfigError, DataError, EvidenceError, RlxError, ShapeError, TrainingError, users_frames, users_place


@pytest.mark.parametrize(
    ("kind", "builtin", "code"),
    [
        (ConfigError, ValueError, 2),
        (DataError, ValueError, 2),
        (EvidenceError, ValueError, 2),
        (ShapeError, ValueError, 1),
        (TrainingError, RuntimeError, 1),
    ],
)
def test_every_error_is_one_of_ours_and_a_builtin_with_its_exit_code(kind, builtin, code):
    error = kind("what is wrong; what to do")
    assert isinstance(error, RlxError)
    assert isinstance(error, builtin)
    assert error.exit_code == code


def test_the_place_of_an_error_is_the_innermost_line_of_the_users_own_code(tmp_path):
    (tmp_path / "mine.py").write_text("import json\n\ndef read(text):\n    return json.loads(text)\n")
    space = {}
    exec(compile((tmp_path / "mine.py").read_text(), str(tmp_path / "mine.py"), "exec"), space)
    with pytest.raises(ValueError, match="Expecting value") as caught:
        space["read"]("nonsense")
    assert users_place(caught.value) == f"{tmp_path / 'mine.py'}:4 in read"
    assert [frame.tb_frame.f_code.co_name for frame in users_frames(caught.value)][-1] == "read"


def test_an_error_within_rlx_alone_has_no_place_of_the_users():
    error = ConfigError("never raised")
    assert users_place(error) == ""


def test_a_folder_whose_name_begins_like_that_of_rlx_is_the_users_own(tmp_path):
    import rlx.errors

    place = Path(rlx.errors.__file__).parent
    file = f"{place}_of_mine/lab.py"
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", file, "exec"), {})
    assert users_place(caught.value) == f"{file}:1 in <module>"


def test_a_message_shows_the_beginning_of_what_has_no_end():
    assert str(ConfigError(f"seed={'7' * 61}: no")) == f"seed={'7' * 20}...(61 characters): no"
    assert str(ConfigError(f"a {'7' * 60} b")) == f"a {'7' * 60} b"
    assert str(ConfigError(f"path {'x' * 601} is long")) == f"path {'x' * 200}...(601 characters) is long"


def test_each_argument_of_an_error_is_one_line_whatever_the_values_that_it_quotes():
    assert str(ConfigError("loss=a\nb\r\x1b[2J\u2028c: no", "é\tis kept")) == "loss=a\\nb\\r\\x1b[2J\\u2028c: no\né\tis kept"
    assert str(ConfigError()) == ""
