"""Every wrong command line gets one short message with the nearest right name, exit code 2 and no traceback."""

from pathlib import Path

import pytest

from rlx.cli.main import invoke

pytestmark = pytest.mark.whole

WRONG = [
    (["train", f"stop_at_score=1{'0' * 400}"], "stop_at_score: a whole number of more than 300 digits is not a finite number"),
    # verbs, words and options
    (["trian"], "did you mean train?"),
    (["tarin", "seed=1"], "did you mean train?"),
    (["-m", "trainn", "seed=1,2"], "did you mean train?"),
    (["frobnicate"], "the verbs are"),
    (["train", "pairs.jsonl"], "no further words"),
    (["--cgf", "job"], "did you mean --cfg?"),
    (["--cfg", "jb"], "did you mean job?"),
    (["--multrun", "seed=1"], "did you mean --multirun?"),
    (["--config-dir"], "needs a value"),
    (["--config-dir", "nowhere"], "there is no such folder"),
    (["--config-name", "x"], "the verb says it"),
    (["--info", "serchpath"], "serchpath"),
    (["train", "--num_steps=3"], "written without dashes: num_steps=3"),
    (["--optimizer.lr", "1e-4"], "written without dashes: optimizer.lr=1e-4"),
    (["-h=3"], "write -h alone"),
    (["resume", "outputs/train/latest"], "did you mean rlx train resume=...?"),
    (["train", "resume", "outputs/train/latest"], "did you mean resume=outputs/train/latest?"),
    (["dpo"], "did you mean rlx train algorithm=dpo?"),
    (["train", "preference_file"], "did you mean task=preference_file?"),
    # keys
    (["train", "loss.betta=1"], "loss.betta is not a key of dpo; did you mean loss.beta?"),
    (["algorithm.beta=1"], "did you mean loss.beta?"),
    (["beta=1"], "did you mean loss.beta?"),
    (["lr=1e-3"], "did you mean optimizer.lr?"),
    (["num_stepz=3"], "did you mean num_steps?"),
    (["sed=3"], "did you mean seed?"),
    (["eval_evry=3"], "did you mean eval_every?"),
    (["evaluation.num_prompt=3"], "did you mean evaluation.num_prompts?"),
    (["evalution.num_prompts=3"], "did you mean evaluation.num_prompts?"),
    (["checkpoint.evry=3"], "did you mean checkpoint.every?"),
    (["~sed"], "did you mean seed?"),
    (["~num_steps"], "leave out ~num_steps"),
    (["~evaluation.num_pairs"], "leave out ~evaluation.num_pairs"),
    (["hydra.run.dirr=x"], "--cfg hydra"),
    (["logger.project=x"], "as logger.wandb.project"),
    (["logger=[tensorboard,wandb]", "logger.wandb.projekt=x"], "did you mean logger.wandb.project?"),
    (["+loss.beta=3"], "leave out the +"),
    (["los=ipo"], "did you mean loss?"),
    (["algoritm=dpo"], "did you mean algorithm?"),
    (["optimiser=adamw"], "did you mean optimizer?"),
    (["task.path=pairs.jsonl"], "task=labelled_file, task=preference_file, task=prompt_file, "),
    (["hydra.mode=MULTIRUN"], "hydra.mode is set by the command: rlx -m sweeps"),
    (["optimizer.momentum=0.9"], "optimizer=muon and optimizer=sgd have it"),
    (["-m", "seed=0,1", "num_stepz=3"], "did you mean num_steps?"),
    (["loss@algorithm.x=ipo"], "nothing at algorithm.x chooses a loss"),
    # keys that are taken out, and values of another kind
    (["runs", "~columns"], "columns has no value, and rlx runs needs one"),
    (["runs", "out=[1]"], "out=[1]: it must be text"),
    (["runs", "out={a:1}"], "a path is text, not a mapping"),
    (["runs", "paths={a:1}"], "paths={a:1}: this key cannot be a mapping"),
    (["runs", "columns=[[1]]"], "columns=[[1]]: it must be a name, or a list of names"),
    (["runs", "format=yaml"], "format=yaml: it must be one of table, csv, json"),
    (["compare", "~target"], "target has no value, and rlx compare needs one"),
    (["compare", "metric=[a]"], "metric=[a]: it must be text"),
    (["compare", "runs=null"], "runs is empty"),
    (["compare", "by={a:1}", "runs=x"], "by={'a': 1}: it must be a name, or a list of names"),
    (["check", "loss=dpo", "~rollout"], "rlx check needs a rollout"),
    (["check", "policy=tiny_untrained"], "name one: rlx check algorithm=custom_dpo policy=tiny_untrained"),
    (["check", "threads=100000"], "threads=100000 is more than"),
    (["info", "loss=dpo", "+x=1"], "x is not a key of rlx info"),
    # interpolations, and values that no file name and no YAML can hold
    (["loss.beta=${nope}"], "loss.beta: there is no key nope, which ${nope} reads"),
    (["sweep.name=${nope}"], "sweep.name: there is no key nope, which ${nope} reads"),
    (["-m", "sweep.name=${nope}", "seed=0,1"], "sweep.name=${nope}: there is no key nope, which ${nope} reads"),
    (
        ["-m", "hydra.sweep.dir=${oc.env:RLX_NOT_SET}", "seed=0,1"],
        "hydra.sweep.dir=${oc.env:RLX_NOT_SET}: the environment variable",
    ),
    (["loss.beta=" + "9" * 400], "loss.beta=99999999999999999999...(400 characters): a whole number has at most 64 bits"),
    (["experiment={a:1}"], "experiment={a:1} is a mapping, but an option is chosen by its name: experiment=NAME"),
    (["seed=${seed}"], "seed: this value refers to itself"),
    (["output_dir=${oc.env:RLX_NOT_SET}"], "the environment variable RLX_NOT_SET is not set"),
    (["seed=${oc.decode:'[1'}"], "missing BRACKET_CLOSE"),
    (["seed=${nope:1}"], "there is no resolver nope"),
    (["loss.beta=" + "[" * 3000 + "]" * 3000], "nests lists or mappings too deeply"),
    (["output_dir=a\0b"], "holds bytes that are not UTF-8 text"),
    (["output_dir=\udc80"], "holds bytes that are not UTF-8 text"),
    (["policy.path=" + "x" * 200_000], "has 200012 characters"),
    # names of other tools
    (["grpo.num_generations_per_prompt=4"], "algorithm.group_size"),
    (["num_generations=4"], "algorithm.group_size"),
    (["dpo.reference_policy_kl_penalty=0.1"], "did you mean loss.beta?"),
    (["dpo.val_period=10"], "did you mean eval_every?"),
    (["epochs=3"], "did you mean num_steps?"),
    (["val_at_start=true"], "did you mean eval_every?"),
    (["grpo.num_prompts_per_step=8"], "algorithm.prompts_per_step"),
    (["gradient_scale_factor=0.5"], "rlx calls it algorithm.gradient_scale, which algorithm=custom_grpo has"),
    (["optimizer._target_=torch.optim.RMSprop"], "choose RMSprop by optimizer=torch.optim.RMSprop"),
    (["lora_r=8"], "in rlx it is chosen by, for example, policy/adapter=lora policy.adapter.rank=16"),
    (["policy/adapter=lora", "policy.adapter.dropout=0.1"], "; policy.adapter has rank, alpha, targets, rslora, dora, seed"),
    (["hybrid.dpo_weight=0.5"], "rlx calls it algorithm.dpo_weight, which algorithm=hybrid has"),
    (["algorithm=hybrid_algorithm"], "did you mean hybrid?"),
    (["task={path:pairs.jsonl}"], "task.path"),
    (["dpo.max_num_steps=8"], "did you mean num_steps?"),
    (["dpo.preference_loss_weight=1"], "did you mean algorithm.preference_loss_weight?"),
    (["loss_fn.ratio_clip_min=0.2"], "loss.clip_low"),
    (["logger.log_dir=x"], "did you mean output_dir?"),
    (["policy.train_global_batch_size=8"], "did you mean algorithm.pairs_per_step?"),
    (["per_device_train_batch_size=8"], "did you mean algorithm.pairs_per_step?"),
    (["learning_rate=1e-4"], "did you mean optimizer.lr?"),
    (["loss_type=ipo"], "did you mean loss?"),
    (["max_completion_length=64"], "did you mean task.max_new_tokens?"),
    (["policy.max_grad_norm=1"], "did you mean algorithm.max_grad_norm?"),
    # options of groups
    (["algorithm=custom_dop"], "did you mean custom_dpo?"),
    (["task=aritmetic"], "did you mean arithmetic?"),
    (["policy=tyni"], "did you mean tiny?"),
    (["scheduler=cosin"], "did you mean cosine?"),
    (["logger=[tensorboard,wand]"], "did you mean wandb?"),
    (["loss=ipp"], "there is no loss ipp; did you mean ipo?"),
    (["loss=ipp", "--cfg", "job"], "did you mean ipo?"),
    (["-m", "loss=dpo,ipp"], "did you mean ipo?"),
    (["-m", "seed=0,1", "--cfg", "job"], "Only one of"),
    (["--resolve"], "--resolve"),
    (["algorithm=3"], "group=option"),
    (["algorithm=no_such_module.Class"], "no_such_module"),
    (["loss=tests.peers.workload.even_words"], "write @preference_loss or @policy_gradient_loss above it"),
    (["algorithm=collections.OrderedDict"], "it is neither a subclass of Algorithm"),
    (["algorithm=sft", "loss=ipo"], "nothing reads the loss of the run: algorithm Sft has no loss"),
    (["algorithm=dpo", "loss=grpo"], "is not a PreferenceLoss, which Dpo reads; choose another with loss=NAME"),
    (["algorithm=[dpo]"], "only one algorithm can be chosen: algorithm=dpo"),
    (["algorithm="], "chooses nothing; it is one of"),
    (["logger=none"], "write logger=[]"),
    # values
    (["seed=x"], "it must be a whole number"),
    (["seed=1.5"], "it must be a whole number"),
    (["seed=null"], "cannot be null"),
    (["seed=-1"], "at least 0"),
    (["num_steps=0"], "at least 1"),
    (["checkpoint.every=0"], "at least 1"),
    (["checkpoint.keep_best=perhaps"], "true or false"),
    (["export.dtype=float"], "float32, float16, bfloat16"),
    (["allow_changed=[weather]"], "data, code"),
    (["seed=1,2"], "add -m"),
    (["+colour=red"], "colour is not a key"),
    (["+evaluation.num_promts=3"], "did you mean evaluation.num_prompts?"),
    # grammar
    (["seed=(1"], "quote it"),
    (["-m", "seed=rnge(0,5)"], "did you mean range?"),
    (["-m", "seed=range(0,5"], "a ) is missing"),
    (["a b=1"], "is not a key"),
    (["=3"], "has no key"),
    (["seed", "=", "3"], "no spaces around"),
    (["device='cuda"], "quote it"),
    # files
    (["resume=nowhere"], "no run here"),
    (["resume="], "names no run"),
    (["hydra.run.dir="], "hydra.run.dir= is empty; give a directory"),
    (["hydra.run.dir=/dev/null/x"], "hydra.run.dir: /dev/null/x cannot be made: Not a directory"),
    (["output_dir="], "output_dir=: it must be a text that is not empty; give a folder"),
    (["cache_dir="], "cache_dir=: it must be a text that is not empty; give a folder"),
    (["optimizer.betas=[0.9]"], "it must be a list of 2 numbers"),
    (["résumé=1"], "is not a key"),
    (["task=preference_file", "task.path=null"], "task.path=null: it must be text"),
    (["hydra.searchpath=[/nowhere/at/all]"], "there is no folder /nowhere/at/all"),
    (["resume=nowhere", "rerun=nowhere"], "give one of them"),
]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_there_are_fifty_of_them():
    assert len(WRONG) >= 50


@pytest.mark.parametrize(("argv", "expected"), WRONG, ids=[ascii(" ".join(argv))[:70] for argv, _ in WRONG])
def test_wrong_command_line(argv, expected, capsys):
    code, message = invoke(argv)
    printed = capsys.readouterr()
    assert code == 2, message
    assert message.startswith("rlx: ")
    assert expected in message
    assert "Traceback" not in message + printed.err
    assert "\n" not in message
    assert len(message) < 400
    assert printed.err == ""
    assert list(Path().iterdir()) == []


def test_a_wrong_key_in_a_yaml_of_the_users_own(tmp_path):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "long.yaml").write_text("# @package _global_\nnum_stepz: 3\n")
    code, message = invoke(["--config-dir", str(folder.parent), "experiment=long"])
    assert code == 2
    assert "experiment/long.yaml" in message
    assert "did you mean num_steps?" in message


def test_a_wrong_type_in_a_yaml_of_the_users_own(tmp_path):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "long.yaml").write_text("# @package _global_\nnum_steps: many\n")
    code, message = invoke(["--config-dir", str(folder.parent), "experiment=long"])
    assert code == 2
    assert "num_steps" in message
    assert "a whole number" in message


def test_a_yaml_that_is_none(tmp_path):
    folder = tmp_path / "mine" / "task"
    folder.mkdir(parents=True)
    (folder / "odd.yaml").write_text("a: [1\n")
    code, message = invoke(["--config-dir", str(folder.parent), "task=odd"])
    assert code == 2
    assert "odd.yaml" in message
    assert "line" in message


def test_a_yaml_in_another_encoding(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes("# @package _global_\nseed: 1  # é\n".encode("latin-1"))
    code, message = invoke(["--config-dir", str(tmp_path), "experiment=mine"])
    assert code == 2
    assert "not UTF-8" in message


def test_a_yaml_with_the_name_of_one_of_rlx(tmp_path):
    folder = tmp_path / "mine" / "task"
    folder.mkdir(parents=True)
    (folder / "arithmetic.yaml").write_text("_target_: my_lab.Task\n")
    code, message = invoke(["--config-dir", str(folder.parent)])
    assert code == 2
    assert "would be hidden" in message


def test_a_bug_shows_its_traceback_and_is_no_usage_error(monkeypatch):
    import rlx.cli.verb.train

    def broken(composed):
        raise KeyError("a bug")

    monkeypatch.setattr(rlx.cli.verb.train, "run", broken)
    code, message = invoke(["train"])
    assert code == 1
    assert "Traceback" in message
    assert "KeyError: 'a bug'" in message


def test_an_error_in_the_users_code_is_shown_from_there_on_and_named(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_mine.py").write_text(OF_MINE)
    code, message = invoke(["train", "algorithm=of_mine.Raises", "num_steps=1", f"output_dir={tmp_path}"])
    said = message + capfd.readouterr().err
    assert code == 1
    assert "of_mine.py:12 in compute_loss: AttributeError: 'PairBatch' object has no attribute 'nothing_here'" in said
    assert "rlx/train" not in said


def test_a_class_that_leaves_a_method_out_is_said_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half_mine.py").write_text(
        "from rlx.loss.preference.base import PreferenceLoss\nclass Half(PreferenceLoss):\n    pass\n"
    )
    code, message = invoke(["train", "loss=half_mine.Half"])
    assert code == 2
    assert "Half lacks a required method: define values(self, policy" in message


OF_MINE = """
from dataclasses import dataclass
from rlx.algorithm import Algorithm, AlgorithmType, Need
@dataclass(frozen=True, kw_only=True)
class Raises(Algorithm):
    kind = AlgorithmType.PREFERENCE_LEARNING
    needs = frozenset({Need.PAIRS})
    def draw(self, lab):
        batch = lab.pairs(4)
        return batch
    def compute_loss(self, policy, reference, batch):
        return batch.nothing_here
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("~hydra.job_logging.root", "'root'"),
        ("hydra.job_logging.root.level=NOPE", "Unknown level: 'NOPE'"),
        ("hydra.verbose=[5]", "A logger name must be a string"),
        ("+hydra.job_logging.handlers.x.class=os.system", "Unable to configure handler 'x'"),
    ],
)
def test_what_hydra_raises_for_keys_of_its_own_is_one_line(override, said):
    code, message = invoke(["runs", "nowhere", override])
    assert code == 2
    assert message.startswith(f"rlx: {override}: Hydra cannot use this: ")
    assert said in message
    assert "\n" not in message


def test_the_logging_of_a_folder_of_configs_runs_no_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    for name, key in (("a", "()"), ("b", "class")):
        text = f"hydra: {{job_logging: {{handlers: {{x: {{{key}: os.system, command: touch RAN}}}}, root: {{handlers: [x]}}}}}}\n"
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
        code, message = invoke(["train", "--config-dir", "conf", f"experiment={name}", "num_steps=1"])
        assert code == 2
        assert "Unable to configure handler 'x'" in message
    assert not (tmp_path / "RAN").exists()
