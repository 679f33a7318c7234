"""Whatever comes in from outside (command lines, configs, records, data, models, servers) is used or refused by an RlxError."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rlx.cli.line import parse_arguments, quote_override
from rlx.config.check import check_config
from rlx.config.compose import compose
from rlx.errors import ConfigError, RlxError
from rlx.experiment import torch_device
from rlx.optimizer.schedule import Constant
from rlx.optimizer.step import Optimizer
from rlx.policy.pretrained import load_pretrained
from rlx.policy.tiny import load_tiny
from rlx.record.files import parse_lines, read_metrics, read_tail
from rlx.record.query import keep
from rlx.record.run import read_run
from rlx.rollout.server import ServerSampler
from rlx.sweep.directory import read_plan
from rlx.sweep.resume import resumed_command
from rlx.sweep.state import JobState
from rlx.task.pair_file import PreferenceFile

# The same examples each time, so that a failure is of the change at hand; RLX_FUZZ=1 looks for new ones.
FIXED = "RLX_FUZZ" not in os.environ
quick = settings(max_examples=150, derandomize=FIXED, deadline=None, suppress_health_check=list(HealthCheck))
slow = settings(max_examples=60, derandomize=FIXED, deadline=None, suppress_health_check=list(HealthCheck))
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 0, "512", "nan", "${seed}", "???", "os.system", "a" * 3000, "\0", "../x"])
)  # fmt: skip
trees = st.recursive(
    leaves, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=6), inside, max_size=3), max_leaves=6
)


def accepted(call, *arguments, **options):
    """What a call returns, None where it refuses; any other exception fails the test."""
    try:
        return call(*arguments, **options)
    except RlxError:
        return None


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value of nested dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [below for key, value in items for below in ((*path, key), *places(value, (*path, key)))]


def changed(tree: Any, path: tuple, value: Any) -> Any:
    tree = json.loads(json.dumps(tree))
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


# ---- the command line ----------------------------------------------------------------------------------------------------------

words = st.text(alphabet=st.sampled_from("abz=.,-+~[]{}()'\"\\$@/: \n\t*&!#0é\0"), max_size=20) | st.text(max_size=20)


@quick
@given(st.lists(words | st.sampled_from(["train", "-m", "seed=1", "--config-dir", "loss.beta=", "task=x"]), max_size=5))
def test_words_of_a_command_line(argv):
    line = accepted(parse_arguments, argv)
    for override in () if line is None else line.overrides:
        accepted(quote_override, override, multirun=line.is_multirun)


@quick
@given(words)
def test_conditions_on_runs(where):
    accepted(keep, [{"loss.beta": 0.1, "status": "x"}], where, facts=lambda item: item)


# ---- configs -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config():
    return OmegaConf.to_container(compose("train"), resolve=False)


@settings(quick, max_examples=300)
@given(st.data())
def test_a_value_of_a_config(config, data):
    path = data.draw(st.sampled_from(places({key: value for key, value in config.items() if key != "sweep"})))
    spoilt = changed({key: value for key, value in config.items() if key != "sweep"}, path, data.draw(trees))
    try:
        made = OmegaConf.create(spoilt)
    except Exception:
        return  # no config at all
    accepted(check_config, made)


@pytest.mark.parametrize("modifier", ["_recursive_=false", "_convert_=none", "_convert_=5", "_partial_=x", "_partial_=true"])
@pytest.mark.parametrize("group", ["algorithm", "loss", "task", "policy", "scheduler", "rollout"])
def test_hydras_modifiers_of_a_node(group, modifier):
    with pytest.raises(ConfigError, match=group):
        check_config(compose("train", [f"+{group}.{modifier}", "~sweep"]))


@pytest.mark.parametrize("key", ["algorithm.pairs_per_step=1000000", "policy.num_layers=1000000"])
def test_numbers_that_would_not_end(key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        check_config(compose("train", ["policy=tiny_untrained", key, "~sweep"]))


def test_a_policy_larger_than_the_memory():
    from rlx.policy.tiny import build_tiny

    with pytest.raises(ConfigError, match="of memory"):
        build_tiny(num_layers=4096, hidden_size=2**16, intermediate_size=2**18)


# ---- devices and optimisers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["meta", "mps", "xla", "hpu", "vulkan", "xpu", "cuda:99", "", "-1", "x" * 3000])
def test_a_device_that_cannot_compute(device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match="device="):
        torch_device(device)
    assert torch_device("cpu").type == "cpu"


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_an_optimiser_that_takes_no_plain_step(kind):
    weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ConfigError, match=f"optimizer={kind.__name__} cannot take a step"):
        Optimizer(lambda weights: kind(weights, lr=0.1), [weight], schedule=Constant(warmup_steps=0), num_steps=3)


# ---- records -------------------------------------------------------------------------------------------------------------------


@quick
@given(st.binary(max_size=60) | trees.map(lambda tree: json.dumps(tree).encode()))
def test_lines_of_metrics(data):
    accepted(parse_lines, data, Path("metrics.jsonl"))


@quick
@given(trees | st.dictionaries(st.sampled_from(["status", "config", "command", "seed", "sources", "process", "started"]), trees))
def test_the_record_of_a_run(tmp_path_factory, tree):
    directory = tmp_path_factory.getbasetemp() / "any_run"
    directory.mkdir(exist_ok=True)
    (directory / "run.json").write_text(json.dumps(tree))
    accepted(read_run, directory)


@quick
@given(st.dictionaries(st.sampled_from(["jobs", "command", "sources", "process"]), trees | st.lists(st.text(max_size=9))))
def test_the_plan_of_a_sweep(tmp_path_factory, tree):
    directory = tmp_path_factory.getbasetemp() / "any_sweep"
    directory.mkdir(exist_ok=True)
    (directory / "sweep.json").write_text(json.dumps(tree))
    plan = read_plan(directory)
    accepted(resumed_command, directory, ["-m", "resume=x"])
    for job in plan["jobs"] if plan else ():
        accepted(JobState.of_plan, job)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "sweep.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert accepted(read_run, tmp_path) is None
    assert read_plan(tmp_path) is None
    assert not accepted(read_metrics, tmp_path)
    assert not accepted(read_tail, tmp_path / name)


# ---- data ----------------------------------------------------------------------------------------------------------------------

rows = st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "messages", "label", "score_chosen"]), trees, max_size=4)


@pytest.fixture(scope="module")
def pairs_of_a_file(tmp_path_factory):
    """(the file, the arguments of its task)"""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    node = dict(compose("train", ["task=preference_file", f"task.path={file}"]).task)
    node.pop("_target_")
    return file, node


@settings(quick, max_examples=250)
@given(st.binary(max_size=60) | st.lists(rows, max_size=4).map(lambda made: "\n".join(map(json.dumps, made)).encode()))
def test_a_file_of_pairs(pairs_of_a_file, data):
    file, node = pairs_of_a_file
    file.write_bytes(data)
    task = accepted(PreferenceFile, **node)
    if task is not None:
        accepted(task.pairs)


def test_a_template_that_builds_gigabytes():
    policy = load_tiny()
    for template in ("{{ 'a' * 2000000000 }}", "{{ '%2000000000d' % 1 }}", "{{ 'a'|center(2000000000) }}"):
        policy.tokenizer.chat_template = template
        with pytest.raises(RlxError, match="more than 512 MiB"):
            policy.encode_prompt([{"role": "user", "content": "2+2"}])


# ---- models --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    policy, directory = load_tiny(), tmp_path_factory.mktemp("model")
    policy.model.save_pretrained(directory)
    policy.tokenizer.save_pretrained(directory)
    return directory


_FILES = {
    "config.json": ["dtype", "head_dim", "num_key_value_heads", "rope_scaling", "quantization_config", "auto_map", "layer_types"],
    "tokenizer_config.json": ["model_max_length", "chat_template", "padding_side", "eos_token", "tokenizer_class", "auto_map"],
    "generation_config.json": ["eos_token_id", "max_length"],
    "tokenizer.json": ["model", "post_processor", "added_tokens"],
}


@pytest.mark.whole
@slow
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_directory_of_a_model(model, tmp_path_factory, data):
    directory = tmp_path_factory.getbasetemp() / "any_model"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(model, directory)
    name = data.draw(st.sampled_from(sorted(_FILES)))
    content = json.loads((directory / name).read_text())
    known = [path for path in places(content) if path[:2] != ("model", "vocab")]
    path = data.draw(st.sampled_from([*known, *((key,) for key in _FILES[name])]))
    (directory / name).write_text(json.dumps(changed(content, path, data.draw(trees))))
    policy = accepted(load_pretrained, str(directory))
    if policy is not None:
        accepted(policy.encode_prompt, "12+34=")


def test_a_model_of_a_million_layers(model, tmp_path):
    shutil.copytree(model, tmp_path / "deep")
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "deep" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1_000_000}))
    with pytest.raises(ConfigError, match="1,000,000 layers"):
        load_pretrained(str(tmp_path / "deep"))


# ---- servers -------------------------------------------------------------------------------------------------------------------

replies = trees | st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "token_ids": trees | st.lists(st.integers(), max_size=3),
                    "finish_reason": st.sampled_from(["stop", "length", None, []]),
                    "logprobs": trees
                    | st.fixed_dictionaries(
                        {},
                        optional={
                            "tokens": st.lists(st.sampled_from(["token_id:5", "token_id:x"]) | leaves, max_size=3),
                            "token_logprobs": st.lists(leaves | st.just(-0.5), max_size=3),
                        },
                    ),
                },
            ),
            max_size=2,
        )
    }
)


@pytest.fixture(scope="module")
def sampler():
    node = {key: value for key, value in compose("train", ["rollout=server"]).rollout.items() if key != "_target_"}
    return ServerSampler(**node)


@quick
@given(reply=replies)
def test_a_reply_of_a_server(sampler, reply):
    policy = load_tiny_once()
    accepted(sampler._completion, reply if isinstance(reply, dict) else {}, policy, limit=4)


def load_tiny_once(made=[]):  # noqa: B006
    made or made.append(load_tiny())
    return made[0]


@pytest.mark.parametrize("url", ["http://[::1", "http://a:b/v1", "http://\x00", "https://", "http://a b"])
def test_an_address_of_a_server(sampler, url):
    from dataclasses import replace

    with pytest.raises(RlxError):
        replace(sampler, url=url, retries=0, timeout=1.0).client.ask("models")
