import pytest
import torch

from rlx.rollout.decoding import probe
from rlx.rollout.decoding.forward import CachedForward, PlainForward
from rlx.rollout.decoding.llama import LlamaForward
from rlx.rollout.decoding.probe import continues, forward_for
from tests.rollout.stand_in import model_of


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_known_architecture_is_decoded_from_its_weights(architecture):
    forward, note = forward_for(model_of(architecture))
    assert isinstance(forward, LlamaForward)
    assert note == ""


@pytest.mark.parametrize(("architecture", "prepared"), [("gpt2", True), ("mistral", False), ("bloom", False)])
def test_each_model_gets_the_fastest_way_that_is_right(architecture, prepared):
    forward, note = forward_for(model_of(architecture))
    assert isinstance(forward, CachedForward)
    assert forward.prepared_mask is prepared
    assert note == ""


def test_windows_that_are_too_long_to_try_are_respected():
    forward, _ = forward_for(model_of("mistral", sliding_window=4000))
    assert forward.prepared_mask is False


def test_a_recurrent_model_does_without_a_cache_and_says_so():
    forward, note = forward_for(model_of("mamba"))
    assert isinstance(forward, PlainForward)
    assert "computes the whole sequence for every token" in note
    assert "Mamba" in note


def test_a_model_that_ignores_its_mask_is_found_out():
    model = model_of("llama")
    inner = model.forward

    def deaf(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        if past_key_values is not None:
            attention_mask = None
        return inner(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values
        )

    model.forward = deaf
    forward, note = forward_for(model)
    assert isinstance(forward, PlainForward)
    assert "differ" in note


def test_a_model_is_tried_once(monkeypatch):
    model = model_of("llama")
    forward_for(model)
    monkeypatch.setattr(probe, "_choose", lambda model: pytest.fail("tried again"))
    first, second = forward_for(model)[0], forward_for(model)[0]
    assert first is not second


def test_trying_changes_nothing_of_the_model():
    model = model_of("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    forward_for(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "goes_on"), [("llama", True), ("qwen2", True), ("gpt2", True), ("mistral", False), ("mamba", False)]
)
def test_turns_go_on_from_what_was_read_where_that_is_right(architecture, goes_on):
    assert continues(model_of(architecture)) is goes_on  # a sliding window and a recurrent state are read anew


def test_a_model_that_goes_on_wrongly_is_found_out():
    model = model_of("gpt2")
    forward_for(model)
    inner = model.forward

    def forgetful(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        if position_ids is not None and input_ids.shape[1] > 1:
            position_ids = position_ids - position_ids[:, :1].clamp(min=0)  # a later turn counts from 0 again
        return inner(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values
        )

    model.forward = forgetful
    assert not continues(model)
