"""The copies of the user's modules that a sweep keeps: those alone are imported, and only with the hash that is known."""

import hashlib
import py_compile
import subprocess
import sys

import pytest

from rlx.errors import ConfigError
from rlx.record.sources import Source, syntax_hash
from rlx.sweep.kept import KeptFinder, KeptModule, keep_sources, kept_before, serve_kept, served


def source(file, module):
    data = file.read_bytes()
    return Source(module, file, hashlib.sha256(data).hexdigest(), syntax_hash(data))


@pytest.fixture
def idea(tmp_path):
    """A package of the user's, `idea` with `idea.part`, and a folder `plain` without __init__.py; copied, then edited."""
    for name in ("idea/__init__.py", "idea/part.py", "plain/part.py"):
        (tmp_path / "now" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "now" / name).write_text("value = 1\n")
    modules = {"idea": "idea/__init__.py", "idea.part": "idea/part.py", "plain.part": "plain/part.py"}
    kept = keep_sources(tmp_path / "sweep", [source(tmp_path / "now" / file, module) for module, file in modules.items()])
    for file in (tmp_path / "now").rglob("*.py"):
        file.write_text("value = 2\n")
    return kept


def printed(tmp_path, kept, code):
    """What code prints in a process that imports the kept modules, with the edited ones on its path and imported before."""
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'now')!r}); import idea.part\n"
        f"from rlx.sweep.kept import KeptModule, serve_kept; serve_kept({list(kept)!r})\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    return done.stdout if done.returncode == 0 else done.stderr


def test_the_copies_are_imported_and_not_the_edited_files(tmp_path, idea):
    assert (
        printed(tmp_path, idea, "import idea.part, plain.part; print(idea.value, idea.part.value, plain.part.value)") == "1 1 1\n"
    )
    (tmp_path / "now" / "plain" / "part.py").unlink()
    (tmp_path / "now" / "plain").rmdir()
    assert printed(tmp_path, idea, "import plain.part; print(plain.part.value)") == "1\n"


def test_nothing_else_in_the_folder_of_copies_is_imported(tmp_path, idea):
    copies = tmp_path / "sweep" / "sources"
    for name in ("optuna.py", "idea/other.py", "extra.py"):
        (copies / name).write_text("print('HOSTILE')\n")
    (tmp_path / "evil.py").write_text("value = 'HOSTILE'\n")
    (copies / "idea" / "__pycache__").mkdir()
    bytecode = copies / "idea" / "__pycache__" / f"part.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(tmp_path / "evil.py"), str(bytecode), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    said = printed(tmp_path, idea, "import importlib.util as u, idea.part; print(idea.part.value, u.find_spec('extra'))")
    assert said == "1 None\n"
    assert "No module named 'idea.other'" in printed(tmp_path, idea, "import idea.other")


def test_the_other_modules_of_a_package_are_the_users_own(tmp_path, idea):
    (tmp_path / "now" / "idea" / "later.py").write_text("value = 3\n")
    assert printed(tmp_path, idea, "import idea.later; print(idea.later.value)") == "3\n"


def test_a_copy_that_was_changed_is_not_imported(tmp_path, idea):
    (tmp_path / "sweep" / "sources" / "idea" / "part.py").write_text("value = 1 # HOSTILE\n")
    assert "was changed since the sweep copied it" in printed(tmp_path, idea, "import idea.part")


def test_copies_are_made_once_and_an_edit_meanwhile_is_noticed(tmp_path):
    file = tmp_path / "idea.py"
    file.write_text("x = 1\n")
    before = source(file, "idea")
    (kept,) = keep_sources(tmp_path / "sweep", [before, before])
    file.write_text("x = 1  # said better\n")
    assert keep_sources(tmp_path / "sweep", [source(file, "idea")]) == (kept,)
    file.write_text("x = 2\n")
    assert keep_sources(tmp_path / "sweep", [before]) == (kept,)
    with pytest.raises(ConfigError, match="was edited"):
        keep_sources(tmp_path / "other", [before])
    with pytest.raises(ConfigError, match="is not the code of"):
        keep_sources(tmp_path / "sweep", [source(file, "idea")])


def listing(kept):
    return {"sources": [{"module": copy.module, "sha256": copy.sha256} for copy in kept]}


def test_of_a_sweep_of_before_the_copies_of_what_is_named_and_of_its_imports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("aa.py", "import bb, json, torch\n"), ("bb.py", ""), ("cc.py", ""), ("json.py", ""), ("torch.py", "")):
        (tmp_path / name).write_text(text)
    names = ("aa", "bb", "cc", "json", "torch")
    kept = keep_sources(tmp_path / "sweep", [source(tmp_path / f"{name}.py", name) for name in names])
    before = kept_before(tmp_path / "sweep", listing(kept), ["aa.Class", "optimizer.lr"])
    assert sorted(copy.module for copy in before) == ["aa", "bb"]
    assert kept_before(tmp_path / "sweep", listing(kept), []) == ()
    assert kept_before(tmp_path / "sweep", {"sources": [3, {"module": "../aa", "sha256": "x"}]}, ["aa.Class"]) == ()
    (tmp_path / "sweep" / "sources" / "bb.py").write_text("import os\n")
    with pytest.raises(ConfigError, match=r"the copy of bb in .* is not the one that sweep.json lists"):
        kept_before(tmp_path / "sweep", listing(kept), ["aa.Class"])
    (tmp_path / "sweep" / "sources" / "bb.py").unlink()
    with pytest.raises(ConfigError, match=r"the copy of bb in .* is gone"):
        kept_before(tmp_path / "sweep", listing(kept), ["aa.Class"])


def test_they_are_served_for_as_long_as_a_command_runs(monkeypatch):
    before = [finder for finder in sys.meta_path if not isinstance(finder, KeptFinder)]
    monkeypatch.setattr(sys, "meta_path", list(before))
    with served([KeptModule("nowhere", "/nowhere.py", "x")]):
        assert isinstance(sys.meta_path[0], KeptFinder)
        serve_kept([])  # as a job of a launcher in the same process does
        assert sys.meta_path[0].modules == {}
    assert sys.meta_path == before
