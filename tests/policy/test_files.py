import socket
from pathlib import Path

import pytest

from rlx.errors import ConfigError
from rlx.policy.files import locate_model
from rlx.policy.pretrained import load_pretrained


def test_a_gguf_file_is_found_with_and_without_its_directory(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"")
    assert locate_model(str(tmp_path / "small.gguf")) == (str(tmp_path), "small.gguf")
    assert locate_model(str(tmp_path), "small.gguf") == (str(tmp_path), "small.gguf")
    with pytest.raises(ConfigError, match=r"did you mean .*small.gguf\?"):
        locate_model(str(tmp_path), "smal.gguf")


def test_a_directory_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        locate_model(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch, tmp_path):
    def unknown(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_model").mkdir()
    (tmp_path / "some_modle.jsonl").write_text("a file that is not a model is not what was meant")
    with pytest.raises(ConfigError, match=r"did you mean some_model\?, and the Hugging Face hub cannot be reached"):
        load_pretrained("some_modle")
    with pytest.raises(ConfigError, match="download the model elsewhere"):
        load_pretrained("organisation/model")
