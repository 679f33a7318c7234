"""The README and the guide are executed: every command and snippet to the letter, with settings appended that make runs small.

How a page is read. A block of `bash` is run line by line in an empty folder of the page's own, a block of `sh` as a script, a
block of `python` as a program, in the order in which they stand. A comment above a block says what else it is:

    <!-- my_lab.py -->                      the block is saved as that file, before anything is run
    <!-- composed only: why -->             its commands are composed and not run: they need a download or a cluster
    <!-- exit code 1 -->                    each of its commands ends with that code

Other blocks (`text`, `yaml` without a file name, ...) show and are not run. Where there is no file pairs.jsonl, labelled.jsonl,
conversations.jsonl or folder MODEL of the page's own, one lies ready.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlx.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = {"README": ROOT / "README.md", **{file.stem: file for file in sorted((ROOT / "rlx" / "guide").glob("*.md"))}}
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", flags=re.DOTALL | re.MULTILINE)
FILE = re.compile(r"[\w./-]+\.\w+")
SMALL = ["num_steps=2", "eval_every=null", "evaluation.num_prompts=8", "evaluation.num_pairs=8", "logger=[]", "threads=1"]
SHOWN = {"source", "pip", "git", "eval", "python", "export", "cat", "cd"}  # what is shown beside rlx and make
COMPARED = "algorithm=custom_dpo,custom_grpo"  # a sweep of which a page wants a verdict: it needs its five seeds
MOST_LINES_OF_THE_README = 180


@dataclass(frozen=True)
class Block:
    """A block of code of a page. note: of the comment above it."""

    language: str
    text: str
    note: str

    @property
    def file(self) -> str | None:
        """The file that it is saved as."""
        return self.note if FILE.fullmatch(self.note) else None

    @property
    def is_composed_only(self) -> bool:
        return self.note.startswith("composed only:")

    @property
    def exit_code(self) -> int:
        return int(self.note.rpartition(" ")[2]) if self.note.startswith("exit code ") else 0

    @property
    def lines(self) -> list[list[str]]:
        """The words of every line of a block of commands; a line that ends in a backslash goes on."""
        if self.language != "bash" or self.file is not None:
            return []
        return list(filter(None, (shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines())))

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of every command of rlx."""
        return [line[1:] for line in self.lines if line[0] == "rlx"]


def blocks(name: str) -> list[Block]:
    text = PAGES[name].read_text(encoding="utf-8")
    return [Block(found["language"], found["text"], found["note"] or "") for found in BLOCK.finditer(text)]


def trains(command: list[str]) -> bool:
    return command[0] in ("train", "-m") or "=" in command[0]


def goes_on(command: list[str]) -> bool:
    """Whether a command goes on with a run that it names, and has its config."""
    return any(word.startswith(("resume=", "rerun=")) and word != "resume=auto" for word in command)


def small(command: list[str]) -> list[str]:
    """A command with what makes it short."""
    if command[0] == "bench":
        return [*command, "rounds=1", "tokens=200", "seconds=1", "warmup_steps=1", "num_prompts=8"]
    launched = any("submitit_slurm" in word for word in command)
    command = [word.replace("submitit_slurm", "submitit_local") for word in command]
    if launched or ("-m" in command and COMPARED not in command):  # two seeds stand for many; a launcher starts a process a job
        command = [re.sub(r"^seed=range\(0, ?\d+\)$", f"seed=range(0,{2 - launched})", word) for word in command]
    if goes_on(command):
        return [re.sub(r"^num_steps=\d+$", "num_steps=3", word) for word in command]
    if not trains(command):
        return command
    if not any(word.startswith("scheduler.") for word in command):  # a warm-up needs the steps that it was written for
        command = [re.sub(r"^num_steps=\d+$", "num_steps=2", word) for word in command]
    added = [*SMALL, *(["sweep.workers=1"] if "-m" in command else [])]
    return [*command, *(setting for setting in added if not any(word.startswith(setting.partition("=")[0]) for word in command))]


def prepare(folder: Path, page: list[Block]) -> None:
    """The files of a page, and those that every page may use."""
    rows = [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": str(i + 2), "answer": str(i + 1)} for i in range(40)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    labelled = [{"prompt": f"{i}+1=", "completion": str(i + 1 + i % 2), "label": i % 2 == 0} for i in range(80)]
    (folder / "labelled.jsonl").write_text("\n".join(map(json.dumps, labelled)))
    said = [({"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}) for row in rows]
    talks = [{"messages": messages, "answer": messages[1]["content"]} for messages in said]
    (folder / "conversations.jsonl").write_text("\n".join(map(json.dumps, talks)))
    for block in page:
        if block.file is not None:
            place = folder / block.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text)
            sys.modules.pop(place.stem, None)  # another test's module of this name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in; modules that a page brings are forgotten afterwards."""
    place = tmp_path / "page"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        if str(place) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def test_the_readme_is_short_and_has_commands():
    assert len(PAGES["README"].read_text().splitlines()) <= MOST_LINES_OF_THE_README
    assert sum(len(block.commands) for block in blocks("README")) > 12


def test_what_the_readme_shows_of_a_wrong_sign_is_what_check_says(folder, capfd):
    page = blocks("README")
    prepare(folder, page)
    loss = folder / "my_loss.py"
    loss.write_text(loss.read_text().replace("1 - beta", "1 + beta"))
    assert main(["check", "loss=my_loss.squared", "laws=[direction]"]) == 1
    said = capfd.readouterr().out.replace(f"{folder}{os.sep}", "")
    shown = next(block.text for block in page if block.text.startswith("FAILED"))
    assert re.sub(r"\+\d\.\d+e", "+#e", shown) in re.sub(r"\+\d\.\d+e", "+#e", said)


@pytest.mark.parametrize("name", PAGES)
def test_every_line_of_a_block_of_commands_is_known(name):
    targets = (ROOT / "Makefile").read_text()
    for line in (line for block in blocks(name) for line in block.lines):
        assert line[0] in {"rlx", "make", *SHOWN}, line
        if line[0] == "make":
            assert f"\n{line[1]}:" in targets


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_closed_and_every_page_that_is_named_exists(name):
    text = PAGES[name].read_text()
    assert text.count("```") % 2 == 0
    assert len(BLOCK.findall(text)) == text.count("```") // 2
    assert set(re.findall(r"rlx guide ([a-z_]+)", text)) <= set(PAGES)
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (PAGES[name].parent / link).exists(), link


COMPOSED = [
    pytest.param(name, command, id=f"{name}: {' '.join(command)}")
    for name in PAGES
    for block in blocks(name)
    for command in block.commands
    if command[0] == "train" and not goes_on(command) and not any("outputs/" in word for word in command)
]


@pytest.mark.parametrize(("name", "command"), COMPOSED)
def test_every_training_command_composes(folder, name, command, capfd):
    prepare(folder, blocks(name))
    written = [written for block in blocks(name) for written in block.commands if written[0] == "new"]
    assert [main(one) for one in written] == [0] * len(written)
    assert main([*command, "--cfg", "job"]) == 0, capfd.readouterr().err


def run_command(command: list[str], block: Block, capfd) -> None:
    """One command of rlx, in this process."""
    if block.is_composed_only:
        command = [*command, "sweep.dry_run=true"] if "-m" in command else [*command, "--cfg", "job"]
        code = main(command) if trains(command) else 0
    else:
        if any(word.startswith("resume=outputs/train") for word in command):
            assert main(small(["train"])) == 0  # an unfinished run to go on with
        code = main(small(command))
    printed = "".join(capfd.readouterr())
    assert code == block.exit_code, f"rlx {' '.join(command)}: {printed}"
    assert "Traceback" not in printed


SHIM = """#!{python}
import sys
sys.path.insert(0, {root!r})
from rlx.cli.main import main
from tests.test_readme import small
sys.exit(main(small(sys.argv[1:])))
"""


def run_script(text: str, folder: Path) -> None:
    """A block of `sh` as the scheduler would run it, with a small rlx."""
    shim = folder.parent / "bin" / "rlx"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(SHIM.format(python=sys.executable, root=str(ROOT)))
    shim.chmod(0o755)
    script = folder.parent / "script"
    script.write_text(text)
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(["bash", "-eu", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.whole
@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_snippet_of_a_page_runs(name, folder, capfd):
    page = blocks(name)
    prepare(folder, page)
    if any("MODEL" in block.text for block in page):
        from rlx.policy.tiny import load_tiny

        policy = load_tiny()
        policy.model.save_pretrained(folder / "MODEL")
        policy.tokenizer.save_pretrained(folder / "MODEL")
    for block in page:
        if block.file is not None:
            continue
        for command in block.commands:
            run_command(command, block, capfd)
        if block.language == "python":
            exec(compile(block.text, f"{name}.md", "exec"), {"__name__": "__main__"})
        elif block.language == "sh":
            run_script(block.text, folder)
