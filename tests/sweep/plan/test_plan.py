"""Names of jobs, and what makes two of them the same."""

import re
import subprocess
import sys

import pytest
from omegaconf import OmegaConf, open_dict

from rlx.cli import main
from rlx.config.compose import CompositionOfJobError, compose
from rlx.errors import ConfigError, ExitCode
from rlx.sweep.plan.plan import Composer, job_overrides, name_of, plan_digest, readable
from rlx.sweep.run import SweepRun


def test_a_name_says_what_differs():
    assert readable(["algorithm.dpo_weight=0.25", "seed=3"]) == ["dpo_weight-0.25", "seed-3"]
    assert readable(["algorithm=hybrid", "loss@algorithm.dpo.loss=ipo"])[0] == "algorithm-hybrid"
    assert readable(["task.path=data/pairs.jsonl"]) == ["path-pairs.jsonl"]
    assert name_of(["algorithm.dpo_weight=0.25", "seed=3"], "0123456789abcdef") == "dpo_weight-0.25_seed-3_01234567"


def test_a_long_value_hides_neither_the_seed_nor_the_other_values():
    name = name_of(["algorithm.note=" + "x" * 100, "loss.beta=0.1", "seed=3"], "0123456789abcdef")
    assert re.fullmatch(r"note-x{10,}_beta-0.1_seed-3_01234567", name)


def test_a_number_is_rounded_and_never_cut():
    drawn = ["algorithm.x=-0.434386", "algorithm.y=3.02542e-05", "algorithm.rate=0.958801", "algorithm.k=1", "seed=0"]
    assert name_of(drawn, "0123456789abcdef") == "x--0.4344_y-3.025e-05_rate-0.9588_k-1_seed-0_01234567"
    many = [f"algorithm.key_{place}={place}.123456e-05" for place in range(9)]
    assert name_of([*many, "seed=3"], "0123456789abcdef") == "key_0-1.235e-06_key_1-1.123e-05_seed-3_01234567"
    assert readable(["policy.path=1234567/12345678", "seed=12345678"]) == ["path-12345678", "seed-12345678"]


@pytest.mark.parametrize(
    "differs",
    [
        ["task.path='/some where/ü (1),=;$x.jsonl'"],
        ["+a.b=" + "x" * 500],
        ["a=[1,2,3]", "b={c:1}"],
        ["~x", "y=-.5"],
        [f"algorithm.key_{number}={number}" for number in range(60)],
        ["a=../../etc"],
    ],
)
def test_a_name_is_safe_and_short(differs):
    name = name_of(differs, "0123456789abcdef")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    assert len(name) < 60
    assert name.endswith("_01234567")


def test_names_of_other_identities_differ():
    long = ["task.path=" + "x" * 100]
    assert name_of(long, "11111111") != name_of(long, "22222222")
    assert plan_digest(["a", "b"]) != plan_digest(["b", "a"])
    assert plan_digest(["a", "b"]) == plan_digest(iter(["a", "b"]))


# Configs of jobs, as Hydra composes them, checked, without composing each from nothing.


@pytest.fixture(scope="module")
def composer(tmp_path_factory):
    """The composer that a real command line makes."""
    made = []

    def keep(self, arguments):
        made.append(Composer(self.loader, self.config, self.command.allowed))
        return 0

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("composer"))
        monkeypatch.setattr(SweepRun, "run", keep)
        assert main.invoke(["-m", "seed=0,1"]) == (0, "")
    return made[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3"],
        ["algorithm=hybrid", "algorithm.dpo_weight=0.25", "seed=1"],
        ["loss=ipo", "loss.beta=0.3", "logger=[]"],
        ["algorithm=hybrid", "loss@algorithm.dpo.loss=hinge", "algorithm.dpo.loss.beta=0.2"],
        ["optimizer=sgd", "optimizer.lr=1e-2", "scheduler=cosine"],
        ["task=preference_file", "task.path='a b.jsonl'"],
        ["evaluation.pass_at_k=[1,2]", "evaluation.samples_per_prompt=2"],
    ],
)
def test_a_job_is_what_hydra_would_compose(composer, overrides):
    composed = composer.compose(overrides)
    whole = compose("train", overrides)
    with open_dict(whole):
        whole.pop("sweep")
    assert OmegaConf.to_container(composed.cfg, resolve=True) == OmegaConf.to_container(whole, resolve=True)
    assert composed.seed == whole.seed


def test_jobs_do_not_touch_each_other(composer):
    first = composer.compose(["loss.beta=0.3", "seed=1"])
    second = composer.compose(["seed=2"])
    assert (first.cfg.loss.beta, second.cfg.loss.beta) == (0.3, 0.1)
    assert (first.cfg.seed, second.cfg.seed) == (1, 2)


def test_the_hash_is_of_numbers_and_the_identity_of_all(composer):
    one, same, other = (composer.compose(words) for words in (["seed=1"], ["seed=1", "checkpoint.every=7"], ["seed=2"]))
    assert one.config_hash == same.config_hash != other.config_hash
    assert one.identity != same.identity


def test_a_sweep_is_the_same_with_another_cache(composer):
    assert composer.compose(["cache_dir=elsewhere"]).identity == composer.compose([]).identity


@pytest.mark.parametrize("wrong", ["loss.betta=1", "+loss.new=1", "num_steps=many", "loss=ipoo", "algorithm=os.system"])
def test_a_wrong_job_is_refused(composer, wrong):
    with pytest.raises((ConfigError, CompositionOfJobError)):
        composer.compose([wrong])


def test_a_job_that_chooses_a_launcher_of_its_own_is_refused(composer):
    assert composer.compose(["hydra/launcher=basic", "seed=4"]).seed == 4
    with pytest.raises(ConfigError, match=r"hydra/launcher=submitit_local .* runs its jobs with basic; give hydra/launcher="):
        composer.compose(["hydra/launcher=submitit_local", "seed=4"])


def test_groups_are_known(composer):
    assert composer.is_group("algorithm")
    assert composer.is_group("loss")
    assert not composer.is_group("seed")
    assert not composer.is_group("loss.beta")


def test_settings_of_the_sweep_are_no_part_of_a_job():
    assert job_overrides(["sweep=random", "sweep.trials=3", "seed=1", "loss.beta=1,2"]) == ["seed=1", "loss.beta=1,2"]
    with pytest.raises(ConfigError, match="goes on"):
        job_overrides(["resume=somewhere", "seed=0,1"])


@pytest.mark.whole
def test_a_plan_is_made_without_the_models_of_transformers(tmp_path):
    program = (
        "import sys; from rlx.cli.main import main; code = main(['-m', 'loss=dpo,ipo', 'sweep.dry_run=true'])\n"
        "sys.exit(code or [name for name in ('transformers.modeling_utils', 'torch._dynamo') if name in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 jobs" in done.stdout


def test_a_loss_of_the_users_may_stand_anywhere_among_those_of_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = "from rlx.loss import preference_loss\n\n@preference_loss\ndef squared(margin, *, beta=0.1):\n    return margin**2\n"
    (tmp_path / "seldom_named.py").write_text(source)
    assert main.invoke(["-m", "loss=dpo,ipo,seldom_named.squared", "sweep.dry_run=true"]) == (0, "")
    assert "3 jobs" in capsys.readouterr().out


def test_a_latest_that_moves_is_no_policy_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to("run")
    code, said = main.invoke(["-m", "policy=pretrained", "policy.path=latest", "seed=0,1", "sweep.dry_run=true"])
    assert code == ExitCode.USAGE
    assert "policy.path=latest" in said
    assert "policy.path=run" in said
