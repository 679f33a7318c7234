"""Equal numbers, equal hash; what may change a number changes the hash."""

import ast
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.record.provenance import (
    MOST_OF_NAME,
    NO_NUMBERS,
    NOT_HASHED,
    NUMBERS_COME_FROM,
    code_hash,
    config_hash,
    git_state,
    number_files,
    provenance,
    short_setting,
    variant,
)
from rlx.record.sources import Source, syntax_hash

pytestmark = pytest.mark.whole

RLX = Path(__file__).parents[2] / "rlx"
CONFIG = {
    "seed": 0,
    "algorithm": {"_target_": "a.B", "beta": 0.1, "terms": [1, 2]},
    "output_dir": "outputs",
    "optimizer": {"lr": 1e-3},
}
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3)
CONFIGS = st.dictionaries(st.text(max_size=3), LEAVES | st.dictionaries(st.text(max_size=3), LEAVES, max_size=4), max_size=5)


@settings(deadline=None)
@given(CONFIGS, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(config: dict, chance: random.Random) -> None:
    def shuffled(node: object) -> object:
        if not isinstance(node, dict):
            return node
        items = [(key, shuffled(value)) for key, value in node.items()]
        chance.shuffle(items)
        return dict(items)

    assert config_hash(shuffled(config)) == config_hash(config)


@pytest.mark.parametrize("key", sorted(NOT_HASHED))
def test_where_a_run_writes_and_who_watches_does_not_matter(key: str) -> None:
    assert config_hash({**CONFIG, key: "other"}) == config_hash(CONFIG)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"seed": None},
        {"seed": False},
        {"algorithm": {**CONFIG["algorithm"], "beta": 0.2}},
        {"algorithm": {**CONFIG["algorithm"], "terms": [2, 1]}},
        {"algorithm": {**CONFIG["algorithm"], "output_dir": "x"}},
        {"num_steps": 3},
    ],
)
def test_every_other_value_does(changed: dict) -> None:
    assert config_hash({**CONFIG, **changed}) != config_hash(CONFIG)


def test_a_number_is_its_value_however_it_is_written() -> None:
    assert config_hash({"x": 1}) == config_hash({"x": 1.0}) == config_hash({"x": True + 0})
    assert config_hash({"x": (1, 2)}) == config_hash({"x": [1.0, 2]})
    assert config_hash({"x": float("inf")}) != config_hash({"x": float("-inf")})


def test_sources_and_named_inputs_matter_and_their_place_and_comments_do_not() -> None:
    one, moved, edited = (
        Source("lab", Path(file), sha256, code)
        for file, sha256, code in (("a.py", "11", "1"), ("b.py", "12", "1"), ("a.py", "13", "2"))
    )
    assert config_hash(CONFIG, [one]) == config_hash(CONFIG, [moved])
    assert (
        len({config_hash(CONFIG), config_hash(CONFIG, [one]), config_hash(CONFIG, [edited]), config_hash(CONFIG, data="x")}) == 4
    )


def test_the_hash_is_the_same_in_every_process() -> None:
    code = f"from rlx.record.provenance import config_hash; print(config_hash({CONFIG!r}))"
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": "."},
        ).stdout
        for seed in (1, 2)
    }
    assert shown == {config_hash(CONFIG) + "\n"}


def test_a_variant_is_what_was_chosen_apart_from_seed_and_places() -> None:
    chosen = [
        "seed=3",
        "loss.beta=0.2",
        "algorithm=dpo",
        "output_dir=/x",
        "+algorithm.extra=1",
        "logger=[]",
        "logger.wandb.mode=online",
        "resume=x",
    ]
    assert (
        variant(chosen, "dpo") == variant(["+algorithm.extra=1", "loss.beta=0.2"], "dpo") == "dpo algorithm.extra=1 loss.beta=0.2"
    )
    assert variant([], "dpo") == "dpo"
    assert variant(["hydra.run.dir=x", "checkpoint.every=3", "algorithm.seed=3"], "grpo") == "grpo algorithm.seed=3"
    words = [f"rollout.stop=[{','.join(f'w{n}' for n in range(size))}]" for size in (2999, 3000)]
    assert len({variant([each], "grpo") for each in words}) == 2
    assert len(variant(words, "grpo")) < 250


def test_a_long_setting_is_named_by_its_beginning_and_a_hash() -> None:
    assert short_setting("loss.beta=0.1") == "loss.beta=0.1"
    long = "stop=[" + ", ".join(f"w{n}" for n in range(3000)) + "]"
    other = long[:-2] + "x]"
    assert len(short_setting(long)) <= MOST_OF_NAME
    assert short_setting(long).startswith("stop=[w0,_w1,")
    assert f"{len(long)}_characters" in short_setting(long)
    assert short_setting(long) != short_setting(other)
    assert " " not in short_setting(long)


def test_what_a_run_says_of_its_origin(tmp_path: Path) -> None:
    facts = provenance(tmp_path)
    assert facts["packages"]["numpy"].count(".") >= 1
    assert facts["git"] is None
    assert facts["cpu"]["count"] >= 1
    assert facts["rlx"]["code"] == code_hash()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_git_commit_and_uncommitted_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    assert git_state(tmp_path)["commit"] is None
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    (tmp_path / "below").mkdir()
    clean = git_state(tmp_path / "below")
    assert (len(clean["commit"]), clean["dirty"], clean["diff_sha256"]) == (40, False, None)
    (tmp_path / "a").write_text("2")
    first = git_state(tmp_path)
    (tmp_path / "a").write_text("3")
    second = git_state(tmp_path)
    assert first["dirty"]
    assert first["commit"] == second["commit"] == clean["commit"]
    assert first["diff_sha256"] != second["diff_sha256"]


def test_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_the_place_of_an_unpacked_model_is_a_place_and_another_value_of_the_policy_is_not() -> None:
    config = {"policy": {"path": "a", "unpacked_dir": "here"}, "seed": 0}
    assert config_hash(config) == config_hash({"policy": {"path": "a", "unpacked_dir": "there"}, "seed": 0})
    assert config_hash(config) != config_hash({"policy": {"path": "b", "unpacked_dir": "here"}, "seed": 0})
    assert config["policy"]["unpacked_dir"] == "here"
    assert variant(["policy.unpacked_dir=there", "policy.dtype=float64"], "dpo") == "dpo policy.dtype=float64"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    return Path(shutil.copytree(RLX, tmp_path / "rlx", ignore=shutil.ignore_patterns("__pycache__", "checkpoint")))


def reworded(tree: ast.Module) -> ast.Module:
    """The module with every docstring said in other words."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Expr(ast.Constant("In other words."))
    return tree


def constants(tree: ast.AST) -> list[ast.Constant]:
    """The fractions of a module that it computes with."""
    if isinstance(tree, ast.Constant) and type(tree.value) is float:
        return [tree]
    fields = [(name, value) for name, value in ast.iter_fields(tree) if name not in ("annotation", "returns")]
    children = [child for _, value in fields for child in (value if isinstance(value, list) else [value])]
    return [found for child in children if isinstance(child, ast.AST) for found in constants(child)]


@pytest.mark.parametrize("room", ["check", "report", "comparison", "cli", "config", "record", "sweep", "workbench"])
def test_the_hash_of_the_code_leaves_out_what_makes_no_number(tree: Path, room: str) -> None:
    files = sorted((tree / room).rglob("*.py"))
    assert len(files) > 1
    for file in files:
        file.write_text(file.read_text() + "\nCHANGED = 1\n")
    assert code_hash(tree) == code_hash(RLX)


@pytest.mark.parametrize("name", sorted(NO_NUMBERS))
def test_so_are_the_files_of_the_learning_wing_that_make_none(tree: Path, name: str) -> None:
    (tree / name).write_text((tree / name).read_text() + "\nCHANGED = 1\n")
    assert code_hash(tree) == code_hash(RLX)


def test_prose_in_any_file_that_makes_numbers_changes_nothing(tree: Path) -> None:
    for file in number_files(tree):
        file.write_text("# Said once more.\n" + ast.unparse(reworded(ast.parse(file.read_text()))))
    assert code_hash(tree) == code_hash(RLX)


@pytest.mark.parametrize("room", ["loss", "task", "optimizer", "data", "policy", "rollout", "algorithm", "training"])
def test_a_constant_in_a_formula_a_sampler_or_a_step_changes_it(tree: Path, room: str) -> None:
    modules = {file: ast.parse(file.read_text()) for file in number_files(tree) if file.relative_to(tree).parts[0] == room}
    found = {file: module for file, module in modules.items() if constants(module)}
    assert room in NUMBERS_COME_FROM
    assert found
    for file, module in found.items():
        before = syntax_hash(file.read_bytes())
        constants(module)[0].value = 0.123
        file.write_text(ast.unparse(module))
        assert syntax_hash(file.read_bytes()) != before, file
    assert code_hash(tree) != code_hash(RLX)


def test_another_way_to_derive_randomness_changes_it(tree: Path) -> None:
    text = (tree / "seeding.py").read_text()
    (tree / "seeding.py").write_text(text.replace("return ", "return not ", 1))
    assert code_hash(tree) != code_hash(RLX)


def test_what_the_learning_wing_imports_makes_numbers_or_is_known_not_to() -> None:
    makes_none = {"errors", "fields", "config", "record", "report", "garbage", "interrupt"}
    for file in number_files():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlx."):
                room = str(node.module).split(".")[1]
                assert {room, f"{room}.py"} & {*makes_none, *NUMBERS_COME_FROM}, f"{file} imports {node.module}"


def test_a_key_that_was_added_later_changes_no_hash_where_its_value_is_as_before() -> None:
    before = {"policy": {"_target_": "x"}, "seed": 0}
    now = {"policy": {"_target_": "x", "adapter": None}, "seed": 0, "precision": "float32"}
    assert config_hash(now) == config_hash(before)
    assert config_hash({**now, "precision": "bfloat16"}) != config_hash(before)
