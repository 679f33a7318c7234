import logging
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlx.errors import ConfigError
from rlx.policy.base import fingerprint
from rlx.policy.files import as_ordinary, unpacked_once
from tests.policy.models import model_of, tokenizer


@pytest.fixture
def packed(tmp_path):
    """A file that stands for a packed model, and a reader that says what it was asked for."""
    file = tmp_path / "small.gguf"
    file.write_bytes(b"packed weights")
    asked = []

    def read(directory, name):
        asked.append(name)
        if name is not None:
            return model_of("llama"), tokenizer()
        return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)

    return SimpleNamespace(file=file, read=read, asked=asked, folder=tmp_path / "models")


def test_a_model_from_a_gguf_file_can_be_saved(tmp_path):
    model = model_of("llama")
    model.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(dequantize=False, quant_method="gguf"))
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path)
    as_ordinary(model, "small.gguf")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    packed = torch.zeros(2, 2, dtype=torch.uint8)
    model.lm_head.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ConfigError, match=r"leaves the weights of .* packed"):
        as_ordinary(model, "small.gguf")


def test_a_file_is_unpacked_once_and_is_the_same_policy_afterwards(packed):
    first = unpacked_once(packed.file, packed.folder, packed.read, kind="float32")
    second = unpacked_once(packed.file, packed.folder, packed.read, kind="float32")
    assert packed.asked == ["small.gguf", None]
    assert fingerprint(*first) == fingerprint(*second)
    assert len([path for path in packed.folder.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", "unpacked.json"])
def test_an_unpacked_model_that_lacks_a_file_is_said_and_unpacked_again_once(packed, caplog, name):
    first = unpacked_once(packed.file, packed.folder, packed.read, kind="float32")
    (place,) = (path for path in packed.folder.iterdir() if path.is_dir())
    (place / name).unlink()
    made = [unpacked_once(packed.file, packed.folder, packed.read, kind="float32") for _ in range(2)]
    assert packed.asked == ["small.gguf", "small.gguf", None]
    assert [fingerprint(*each) for each in made] == [fingerprint(*first)] * 2
    assert caplog.text.count(f"{name} of the unpacked model in {place} is missing or cut; it is unpacked again") == 1


def test_other_content_and_another_dtype_are_unpacked_anew(packed):
    unpacked_once(packed.file, packed.folder, packed.read, kind="float32")
    unpacked_once(packed.file, packed.folder, packed.read, kind="float64")
    packed.file.write_bytes(b"other weights")
    unpacked_once(packed.file, packed.folder, packed.read, kind="float32")
    assert packed.asked == ["small.gguf"] * 3


def test_a_full_disk_is_said_and_leaves_nothing_behind(packed, monkeypatch, caplog):
    model, words = packed.read(None, "small.gguf")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    model.save_pretrained = full
    with caplog.at_level(logging.WARNING, logger="rlx"):
        found = unpacked_once(packed.file, packed.folder, lambda *_: (model, words), kind="float32")
    assert found == (model, words)
    assert "No space left" in caplog.text
    assert not [path for path in packed.folder.iterdir() if path.is_dir()]


def test_a_tokenizer_that_would_come_back_as_another_is_not_kept(packed, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda _: SimpleNamespace())
    monkeypatch.setattr("rlx.policy.files.tokenizer_text", lambda words: str(type(words)))
    unpacked_once(packed.file, packed.folder, packed.read, kind="float32")
    assert not [path for path in packed.folder.iterdir() if path.is_dir()]
