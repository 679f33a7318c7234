"""rlx from a wheel, an editable install and a bare checkout, from any directory."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).parents[1]
PROBE = """
import rlx, rlx.conf, sys
from rlx.config import conf_dir
print(rlx.__file__); print(conf_dir()); print(list(rlx.conf.__path__)[0])
"""


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_list_of_packages_is_the_tree():
    packages = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "rlx").rglob("__init__.py")}
    assert set(project()["tool"]["setuptools"]["packages"]) == packages | {"rlx.conf"}


def test_every_file_that_is_no_python_is_package_data():
    data = project()["tool"]["setuptools"]["package-data"]
    patterns = [
        (ROOT / package.replace(".", "/"), pattern)
        for package, found in data.items()
        for pattern in found
        if package != "rlx.conf"
    ]
    covered = {file for folder, pattern in patterns for file in folder.glob(pattern)}
    others = {file for file in (ROOT / "rlx").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc", ".pyi")}
    assert others - covered == set()


def test_extras_that_name_a_plugin_of_hydra_hold_hydra_back():
    for name, needs in project()["project"]["optional-dependencies"].items():
        if any(need.startswith("hydra-") for need in needs):
            assert "hydra-core>=1.3.8,<1.4" in needs, name


@pytest.fixture
def source(tmp_path):
    """A copy of the checkout, without what git does not know."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("rlx", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def run(*command, cwd, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "PYTEST"))}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**clean, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def environment(tmp_path):
    """The Python of a fresh virtual environment that sees the packages installed here, but not rlx."""
    folder = tmp_path / "env"
    venv.create(folder, with_pip=False)
    site = Path(
        run(folder / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def check(python, command, tmp_path, **environment) -> tuple[Path, ...]:
    """Everything works from an empty directory; returns where rlx and its conf were found."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "custom_dpo" in run(*command, "--help", cwd=elsewhere, **environment)
    assert "num_steps: 3" in run(*command, "train", "num_steps=3", "--cfg", "job", cwd=elsewhere, **environment)
    assert "rlx.conf" in run(*command, "--info", "searchpath", "hydra.searchpath=[pkg://rlx.conf]", cwd=elsewhere, **environment)
    assert list(elsewhere.iterdir()) == []
    return tuple(Path(line) for line in run(python, "-c", PROBE, cwd=elsewhere, **environment).splitlines())


def test_bare_checkout(environment, source, tmp_path):
    python = str(environment)
    package, conf, module = check(python, [python, "-m", "rlx"], tmp_path, PYTHONPATH=str(source))
    assert package == source / "rlx" / "__init__.py"
    assert conf == module == source / "conf"


def install(environment, *arguments, cwd):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment)]
    run(*pip, "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", *arguments, cwd=cwd)


@pytest.mark.slow
def test_editable(environment, source, tmp_path):
    install(environment, "-e", str(source), cwd=tmp_path)
    package, conf, module = check(str(environment), [str(environment.with_name("rlx"))], tmp_path)
    assert package == source / "rlx" / "__init__.py"
    assert conf == module == source / "conf"


@pytest.mark.slow
def test_wheel(environment, source, tmp_path):
    install(environment, str(source), cwd=tmp_path)
    shutil.rmtree(source)
    package, conf, module = check(str(environment), [str(environment.with_name("rlx"))], tmp_path)
    assert tmp_path / "env" in package.parents
    assert conf == module == package.parent / "conf"
    assert (package.parent / "policy" / "checkpoint" / "model.safetensors").is_file()
