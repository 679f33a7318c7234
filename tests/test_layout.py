"""The house: rooms mirror each other, imports only go down, and no file is longer than one subject needs."""

import ast
import importlib
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
RLX, CONF, TESTS = ROOT / "rlx", ROOT / "conf", ROOT / "tests"
LEVELS = {
    **dict.fromkeys(("errors", "seeding", "fields", "interrupt", "nested", "client", "garbage"), 0),
    **dict.fromkeys(("config", "loss"), 1),
    **dict.fromkeys(("task", "optimizer", "record"), 2),
    **dict.fromkeys(("data", "comparison"), 3),
    **dict.fromkeys(("policy", "report", "parallel"), 4),
    "rollout": 5,
    "algorithm": 6,
    "experiment": 7,
    "training": 8,
    **dict.fromkeys(("workbench", "check", "sweep"), 9),
    "cli": 10,
    **dict.fromkeys(("api", "__main__"), 11),
}
MOST_LINES = 400
EVIDENCE = {"errors", "fields", "nested", "garbage", "config", "record", "comparison", "report"}
ROOM_OF_GROUP = {"scheduler": "optimizer", "logger": "record", "algorithm/advantage": "loss", "algorithm/value_loss": "loss"}
NOT_ROOMS = {"hydra", "experiment"}
TOP_LEVEL = {"pyproject.toml", "README.md", "Makefile", "rlx", "conf", "tests", "outputs", "LICENSE"}


def modules() -> list[Path]:
    return sorted(path for path in RLX.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(RLX).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """The name by which a module is imported."""
    return ".".join(("rlx", *path.relative_to(RLX).with_suffix("").parts)).removesuffix(".__init__")


FILES = {dotted(path): path for path in modules()}


def imported(path: Path, *, types: bool = False, functions: bool = True) -> set[str]:
    """Modules of rlx that a module imports, within functions too. types: for type checkers alone, too."""
    name, found = dotted(path), set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    waiting: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names}
        if functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)
    return (found & set(FILES)) - {name}


def imported_rooms(path: Path, *, functions: bool = True) -> set[str]:
    """Rooms that a module imports. The package itself is none: importing it imports nothing else."""
    return {name.split(".")[1] for name in imported(path, functions=functions) if "." in name} - {room(path)}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            component = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(component)

    for name in graph:
        if name not in order:
            visit(name)
    return found


@pytest.mark.parametrize(
    "path", [p for p in modules() if p.name != "__init__.py" or p.parent != RLX], ids=lambda p: str(p.relative_to(RLX))
)
def test_imports_go_down(path):
    upward = {other for other in imported_rooms(path) if LEVELS[other] > LEVELS[room(path)]}
    assert not upward


def test_there_are_no_circles():
    assert circles({name: imported(path, types=True) for name, path in FILES.items()}) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}) == [{"b", "c"}]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(RLX)))
def test_a_file_is_not_too_long(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


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
    assert imported_rooms(path, functions=False) <= EVIDENCE


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


def test_every_folder_of_tests_is_a_room():
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")} - {Path(), Path("peers")}
    assert [str(folder) for folder in folders if not (RLX / folder).is_dir()] == []


def test_nothing_else_lies_at_the_top():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
