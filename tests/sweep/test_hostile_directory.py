"""A sweep's directory from somebody else: `rlx -m resume=DIR` runs nothing and writes nowhere that its user did not name."""

import json

import pytest

from rlx.cli import main
from rlx.record.sources import syntax_hash
from tests.sweep.conftest import HERE

pytestmark = pytest.mark.whole

EVIL = """\
from pathlib import Path
Path({mark!r}).touch()
from wild import *
from wild import Wild as Base
class lower(Base): ...
class Wild(Base): ...
def reward(prompt, completion): return 0.0
def policy() -> "rlx.policy.base.Policy": raise SystemExit
"""


@pytest.fixture
def hostile(sweep, place):
    """A stopped sweep whose plan `spoil(words, **facts)` rewrites; every module beside it says by a file that it was imported."""
    ran = sweep("algorithm.does=kill", "seed=0", "sweep.name=theirs")
    assert ran.code == 3
    marks = place / "marks"
    marks.mkdir()
    for name in ("evil", "optuna", "apex", "torch"):
        (ran.directory / "sources" / f"{name}.py").write_text(EVIL.format(mark=str(marks / name)))
    (place / "evil.py").write_text(EVIL.format(mark=str(marks / "evil_here")))

    def spoil(*words, given=(), replace=True, **facts):
        plan = json.loads((ran.directory / "sweep.json").read_text())
        begin = ["rlx", "-m"] if replace else plan["command"]
        (ran.directory / "sweep.json").write_text(json.dumps({**plan, "command": [*begin, *words], **facts}))
        code, said = main.invoke(["-m", "resume=outputs/sweep/theirs", *given])
        return code, said, sorted(mark.name for mark in marks.iterdir())

    return spoil


@pytest.mark.parametrize(
    "word",
    [
        "algorithm=evil.Wild",
        "algorithm=evil.lower",
        "algorithm=${oc.decode:evil.lower}",
        "algorithm='evil.lower'",
        "+algorithm._target_=evil.lower",
        "++algorithm={_target_: evil.lower}",
        "task/reward=[evil.reward]",
        "policy=evil.policy",
        "loss=evil.lower",
        "optimizer=evil.lower",
        "+policy.chat_template_kwargs={a: {_target_: evil.policy}}",
        "policy.chat_template_kwargs._target_=evil.policy",
        "+hydra.callbacks.x._target_=evil.lower",
        "hydra.sweeper._target_=evil.lower",
        "+hydra.job_logging.handlers.x={(): evil.lower}",
        "+hydra.job_logging.handlers.x.()=evil.lower",
        "++hydra.hydra_logging.handlers.x.class=evil.lower",
        "sweep=optuna",
    ],
)
def test_nothing_is_imported(hostile, word):
    listed = [{"module": name, "sha256": "0" * 64} for name in ("evil", "optuna", "apex", "torch")]
    code, said, imported = hostile(word, "seed=0,1", sources=listed)
    assert (code, imported) == (2, []), said
    assert "Traceback" not in said


def test_a_file_of_the_users_with_the_code_of_the_plan_is_the_users(hostile, place):
    codes = {file.stem: syntax_hash(file.read_bytes()) for file in (place / "evil.py", HERE / "wild.py")}
    given = ["sweep.dry_run=true"]
    listed = [{"module": "evil", "sha256": "0" * 64, "code": codes["evil"]}, {"module": "wild", "code": codes["wild"]}]
    code, said, imported = hostile("algorithm=evil.Wild", "seed=0,1", given=given, sources=listed)
    assert (code, imported, "is not the one that sweep.json lists" in said) == (2, [], True), said
    del listed[0]["sha256"]
    code, said, imported = hostile("algorithm=evil.Wild", "seed=0,1", given=given, sources=listed)
    assert imported == ["evil_here"]


def test_what_the_user_names_does_not_vouch_for_the_rest(hostile):
    given = ["algorithm=wild.Wild"]
    _, said, imported = hostile("task/reward=[evil.reward]", "seed=0,1", given=given)
    assert ("evil.reward" in said, imported) == (True, [])


def test_a_copy_counts_with_the_hash_that_the_plan_holds(hostile):
    listed = [{"module": "evil", "sha256": "0" * 64}]
    code, said, imported = hostile("seed=0,1", given=["algorithm=evil.Wild"], sources=listed)
    assert (code, imported) == (2, [])
    assert "is not the one that sweep.json lists" in said


@pytest.mark.parametrize(
    "word",
    ["output_dir=/tmp/elsewhere", "cache_dir=/tmp/elsewhere", "export.path=/tmp/elsewhere", "++export={path: /tmp/elsewhere}"],
)
def test_it_says_where_to_write_and_is_asked(hostile, word):
    code, said, _ = hostile(word, "num_steps=1", "seed=0,1")
    assert (code, "/tmp/elsewhere" in said, "give it again" in said) == (2, True, True)


def test_jobs_of_other_types(hostile):
    for jobs in ([3], [{}], [{"name": 3}], [{"name": "a", "variant": "b", "seed": "c", "overrides": [], "config_hash": "x"}]):
        code, said, _ = hostile(given=["algorithm=wild.Wild"], replace=False, jobs=jobs)
        assert (code, "is damaged" in said) == (2, True), said


@pytest.mark.parametrize("name", [".lock", ".workers.log", "experiment", "does-kill_seed-0/job.log"])
def test_it_leads_elsewhere(hostile, place, name):
    elsewhere, file = place / "elsewhere", place / "outputs" / "sweep" / "theirs" / name
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    file.symlink_to(elsewhere)
    code, said, _ = hostile(given=["algorithm=wild.Wild"], replace=False)
    assert (code, "leads out of the directory" in said, elsewhere.exists()) == (2, True, False), said
