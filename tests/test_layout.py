"""The house: rooms mirror each other, and imports only go down."""

import ast
import importlib
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
RLX, CONF, TESTS = ROOT / "rlx", ROOT / "conf", ROOT / "tests"
LEVELS = {
    **dict.fromkeys(("errors", "seeding", "fields", "config", "loss"), 0),
    **dict.fromkeys(("task", "optimizer", "record"), 1),
    **dict.fromkeys(("data", "comparison"), 2),
    **dict.fromkeys(("policy", "report"), 3),
    "rollout": 4,
    "algorithm": 5,
    "experiment": 6,
    "training": 7,
    **dict.fromkeys(("workbench", "check", "sweep"), 8),
    **dict.fromkeys(("cli", "api", "__main__"), 9),
}
EVIDENCE = {"errors", "fields", "config", "record", "comparison", "report"}
ROOM_OF_GROUP = {"scheduler": "optimizer", "logger": "record", "algorithm/advantage": "loss", "algorithm/value_loss": "loss"}
NOT_ROOMS = {"hydra", "experiment"}
TOP_LEVEL = {"pyproject.toml", "README.md", "Makefile", "rlx", "conf", "tests", "outputs", "LICENSE"}


def modules() -> list[Path]:
    return sorted(path for path in RLX.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(RLX).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a module imports when it is loaded; imports within functions and for type checkers alone do not count."""
    rooms = set()
    waiting: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlx" and "." in node.module:
            rooms.add(node.module.split(".")[1])
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)
    return rooms


@pytest.mark.parametrize(
    "path", [p for p in modules() if p.name != "__init__.py" or p.parent != RLX], ids=lambda p: str(p.relative_to(RLX))
)
def test_imports_go_down(path):
    upward = {other for other in imported_rooms(path) if other != room(path) and LEVELS[other] > LEVELS[room(path)]}
    assert not upward


@pytest.mark.parametrize("path", [p for p in modules() if room(p) in EVIDENCE], ids=lambda p: str(p.relative_to(RLX)))
def test_the_evidence_wing_names_no_torch(path):
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        node.module.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not names & {"torch", "transformers"}
    assert imported_rooms(path) <= EVIDENCE


@pytest.mark.parametrize("path", sorted(CONF.glob("*/**/*.yaml")), ids=lambda p: str(p.relative_to(CONF)))
def test_a_config_targets_its_room(path):
    group = path.relative_to(CONF).parent.as_posix()
    target = OmegaConf.load(path).get("_target_")
    if target is None or path.relative_to(CONF).parts[0] in NOT_ROOMS:
        return
    wanted = f"rlx.{ROOM_OF_GROUP.get(group, group.partition('/')[0])}."
    assert target.startswith((wanted, "torch.optim."))
    module, _, name = target.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_every_module_has_its_tests():
    missing = []
    for path in modules():
        relative = path.relative_to(RLX)
        if path.name.startswith("_"):
            continue
        test = TESTS / relative.parent / f"test_{path.name}"
        if not test.exists():
            missing.append(f"{relative} has no {test.relative_to(ROOT)}")
    assert not missing


def test_nothing_else_lies_at_the_top():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
