import copy
import json

import pytest
import transformers

from rlx.errors import ConfigError, DataError
from rlx.policy.adapter import Lora
from rlx.policy.base import Policy
from rlx.policy.pretrained import load_pretrained, read_pretrained
from rlx.policy.reader import Outline, Reader
from rlx.task.base import Pair
from rlx.training.checkpoint import write_policy
from tests.policy.models import VOCABULARY, model_of, tokenizer

SETTINGS = {"max_prompt_length": 4, "chat_template_kwargs": {"depth": 2}, "name": "mine"}


def save(directory, architecture="llama", ends=None, template=None):
    model = model_of(architecture)
    if ends is not None:
        model.generation_config.eos_token_id = ends
    model.save_pretrained(directory)
    tokens = tokenizer()
    tokens.chat_template = template
    tokens.save_pretrained(directory)
    return directory


def seen(reader):
    """All that decides how a reader turns text into tokens."""
    pairs = reader.pair_tokenizer
    return reader.name, reader.text.identity(), reader.text.max_prompt_length, pairs.max_length, pairs.vocabulary_size, pairs.name


@pytest.mark.parametrize(("architecture", "ends"), [("llama", None), ("llama", [2, 7]), ("gpt2", None), ("opt", 9), ("bloom", 5)])
@pytest.mark.parametrize("has_settings", [True, False])
def test_text_is_read_as_the_policy_reads_it(tmp_path, architecture, ends, has_settings):
    save(tmp_path, architecture, ends, template="{{ depth }}{% for message in messages %}{{ message.content }}{% endfor %}")
    if not has_settings:
        (tmp_path / "generation_config.json").unlink()
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": 11}))
    policy, reader = load_pretrained(str(tmp_path), **SETTINGS), read_pretrained(str(tmp_path), **SETTINGS)
    assert not isinstance(reader, Policy)
    assert seen(reader) == seen(policy)
    assert reader.encode_prompt("123456").tolist() == policy.encode_prompt("123456").tolist()


def test_no_weights_are_read_or_needed(tmp_path):
    (save(tmp_path) / "model.safetensors").unlink()
    reader = read_pretrained(str(tmp_path))
    assert type(reader) is Reader
    assert len(reader.pair_tokenizer([Pair("1", "2", "3")])) == 1


def test_an_adapter_is_read_as_the_policy_that_it_makes(tmp_path):
    policy = load_pretrained(str(save(tmp_path / "base")), adapter=Lora(rank=1, alpha=1.0))
    write_policy(policy, tmp_path / "adapter")
    assert isinstance(read_pretrained(str(tmp_path / "adapter")), Policy)


def test_what_a_policy_refuses_is_refused(tmp_path):
    (save(tmp_path) / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"configuration in .* cannot be read"):
        read_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match="holds no adapter"):
        read_pretrained(str(save(tmp_path)), base="other")
    tokens = copy.deepcopy(tokenizer())
    tokens.add_tokens([f"<{number}>" for number in range(VOCABULARY)])
    tokens.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=f"the model knows only {VOCABULARY}"):
        read_pretrained(str(tmp_path)).pair_tokenizer([Pair("1", "2", "<98>")])


def test_a_packed_file_is_unpacked_once_without_its_weights(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"packed weights")
    model, asked = model_of("llama"), []

    def of(source, gguf_file=None):
        asked.append(gguf_file)
        return Outline(model.config, model.generation_config) if gguf_file else original(source)

    original = Outline.of
    monkeypatch.setattr(Outline, "of", staticmethod(of))
    monkeypatch.setattr("rlx.policy.pretrained._check_config", lambda *_: None)
    monkeypatch.setattr(
        "rlx.policy.pretrained._tokenizer",
        lambda source, packed, _, config: (
            tokenizer() if packed else transformers.AutoTokenizer.from_pretrained(source, config=config)
        ),
    )
    with monkeypatch.context() as otherwise:  # what would be read back as another model is not kept
        otherwise.setattr(Outline, "kept", staticmethod(lambda _: Outline(model_of("gpt2").config, model.generation_config)))
        for _ in range(2):
            read_pretrained(str(tmp_path / "small.gguf"), unpacked_dir=str(tmp_path / "kept"))
    assert asked == ["small.gguf", "small.gguf"]
    asked.clear()
    made = [read_pretrained(str(tmp_path / "small.gguf"), unpacked_dir=str(tmp_path / "kept")) for _ in range(2)]
    assert asked == ["small.gguf"]
    assert made[0].text.identity() == made[1].text.identity()
    assert seen(made[0]) == seen(made[1])
    assert not list((tmp_path / "kept").rglob("*.safetensors"))
    (kept,) = (tmp_path / "kept").glob("*/config.json")
    kept.write_text("{".ljust(kept.stat().st_size))  # of its size: a file of another one is unpacked again
    with pytest.raises(ConfigError, match=r"small\.gguf was unpacked into .*: delete this directory"):
        read_pretrained(str(tmp_path / "small.gguf"), unpacked_dir=str(tmp_path / "kept"))
