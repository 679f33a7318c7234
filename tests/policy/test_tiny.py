import numpy as np
import pytest
import torch
from transformers.utils import logging as hub_logging

from rlx.errors import ConfigError
from rlx.policy import tiny
from rlx.policy.tiny import CHARACTERS, build_tiny, character_tokenizer, load_tiny, save_tiny


def test_it_is_small_and_shares_prefixes():
    policy = build_tiny()
    assert policy.num_parameters < 1e6
    assert policy.shared_prefix
    assert not policy.notes
    assert policy.max_length == 512
    assert policy.eos_token_ids == (policy.tokenizer.eos_token_id,)


def test_each_character_is_a_token_and_comes_back():
    tokenizer = character_tokenizer()
    encoded = tokenizer(CHARACTERS, return_offsets_mapping=True)
    assert len(encoded["input_ids"]) == len(CHARACTERS) == len(set(encoded["input_ids"])) == 96
    assert tokenizer.decode(encoded["input_ids"]) == CHARACTERS
    assert encoded["offset_mapping"] == [(i, i + 1) for i in range(96)]
    assert len(tokenizer) == 99
    assert tokenizer.decode(tokenizer("a é\tb")["input_ids"]) == "a ??b"


def test_weights_are_a_function_of_the_seed_alone():
    state = torch.get_rng_state()
    one, again, other = build_tiny(seed=0), build_tiny(seed=0), build_tiny(seed=1)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_saved_in_half_precision_is_loaded_in_float32(tmp_path, monkeypatch):
    policy = build_tiny(num_layers=1, hidden_size=32, intermediate_size=32)
    save_tiny(policy, tmp_path)
    assert policy.dtype == torch.float32
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * policy.num_parameters + 4096
    monkeypatch.setattr(tiny, "CHECKPOINT", tmp_path)
    loaded = load_tiny()
    assert loaded.dtype == torch.float32
    weights = policy.model.state_dict()
    assert all(torch.equal(tensor, weights[name].half().float()) for name, tensor in loaded.model.state_dict().items())
    assert np.array_equal(loaded.encode_prompt("12+34="), policy.encode_prompt("12+34="))
    assert loaded.decode(loaded.encode_prompt("1 + 2\n")) == "1 + 2\n"


def test_the_shipped_checkpoint_is_whole():
    policy = load_tiny()
    assert policy.num_parameters < 1e6
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())
    assert sum(file.stat().st_size for file in tiny.CHECKPOINT.iterdir()) < 4e6


def test_a_missing_checkpoint_names_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "CHECKPOINT", tmp_path / "gone")
    with pytest.raises(ConfigError, match="policy=tiny_untrained"):
        load_tiny()


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"hidden_size=130 .* policy.num_heads=4"):
        build_tiny(hidden_size=130)


def test_loading_shows_no_bar_of_its_own(capfd):
    was_enabled = hub_logging.is_progress_bar_enabled()
    hub_logging.enable_progress_bar()
    try:
        load_tiny()
    finally:
        if not was_enabled:
            hub_logging.disable_progress_bar()
    assert capfd.readouterr().err == ""
