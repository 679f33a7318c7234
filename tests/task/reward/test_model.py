import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import rlx
from rlx.errors import ConfigError
from rlx.task.base import Prompt
from rlx.task.reward.model import RewardModel

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
TEXTS = [("1+1=", "2"), ("12+34=", "46 and more"), ("5", ""), ("12+34=", "47")]


@pytest.fixture(scope="module")
def tokenizer():
    return rlx.load("policy", "tiny").tokenizer


def saved(directory, tokenizer, kind=LlamaForSequenceClassification, **changes):
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_labels": 1, **SIZES, **changes}
    model = kind(LlamaConfig(**settings)).eval()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model


def reward(directory, **changes):
    settings = {"label": None, "template": "plain", "max_length": None, "batch_size": 2, "device": "cpu", **changes}
    return RewardModel(weight=1.0, path=str(directory), **settings)


def test_the_values_are_those_of_the_classifier_one_text_at_a_time(tmp_path, tokenizer):
    model = saved(tmp_path, tokenizer)
    with torch.no_grad():
        expected = [float(model(**tokenizer(p + c, return_tensors="pt")).logits[0, 0]) for p, c in TEXTS]
    samples = [(Prompt(prompt), completion) for prompt, completion in TEXTS]
    assert len(set(expected)) == 4
    for size in (1, 2, 8):
        assert reward(tmp_path, batch_size=size).score_all(samples) == pytest.approx(expected, abs=1e-5)
    assert reward(tmp_path)("1+1=", "2") == pytest.approx(expected[0], abs=1e-5)


def test_the_label_is_chosen_by_name_or_number(tmp_path, tokenizer):
    model = saved(tmp_path, tokenizer, num_labels=2, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    with torch.no_grad():
        logits = model(**tokenizer("1+1=2", return_tensors="pt")).logits[0].tolist()
    assert reward(tmp_path, label="good")("1+1=", "2") == pytest.approx(logits[1], abs=1e-5)
    assert reward(tmp_path, label=0)("1+1=", "2") == pytest.approx(logits[0], abs=1e-5)
    with pytest.raises(ConfigError, match="has the outputs bad, good; say which one"):
        reward(tmp_path)("1+1=", "2")
    with pytest.raises(ConfigError, match="has no output best, only bad, good"):
        reward(tmp_path, label="best")("1+1=", "2")


def test_a_text_that_is_too_long_loses_its_beginning(tmp_path, tokenizer):
    saved(tmp_path, tokenizer)
    short = reward(tmp_path)
    assert short("x" * 40, "1+1=2") == pytest.approx(short("x" * 27, "1+1=2"), abs=1e-5)


def test_a_model_without_a_head_is_refused(tmp_path, tokenizer):
    saved(tmp_path, tokenizer, LlamaForCausalLM)
    with pytest.raises(ConfigError, match=r"lack score\.weight"):
        reward(tmp_path)("1+1=", "2")


def test_a_path_that_is_none_and_settings_that_make_no_sense(tmp_path):
    with pytest.raises(ConfigError, match="no sequence classifier can be loaded"):
        reward(tmp_path / "nowhere")("1+1=", "2")
    with pytest.raises(ConfigError, match="one of auto, chat, plain, pair"):
        reward(tmp_path, template="chatty")
