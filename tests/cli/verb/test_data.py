import json

import pytest

from rlx.cli.main import main
from tests.policy.models import model_of, tokenizer


@pytest.fixture
def file(tmp_path):
    rows = [{"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": "0", "id": n} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "pairs.jsonl"


def test_the_survey_as_json(file, capsys):
    assert main(["data", "task=preference_file", f"task.path={file}", "json=true", "examples=2", f"cache_dir={file.parent}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["read"] == 20
    assert found["notes"] == ["columns that are not read: id"]
    assert len(found["examples"]) == 2
    assert {"prompt_ids", "completions", "text"} <= found["examples"][0].keys()


def test_the_survey_for_people_and_as_a_page(file, capsys):
    page = file.parent / "data.html"
    line = ["data", "task=preference_file", f"task.path={file}", f"html={page}", "examples=1", f"cache_dir={file.parent}"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "20 rows read, 20 kept" in said
    assert "completion 1" in said
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("place", [".", "/dev/null/page.html"])
def test_a_page_that_cannot_be_written_is_said_with_its_key(file, capsys, monkeypatch, place):
    monkeypatch.chdir(file.parent)
    assert main(["data", "task=preference_file", f"task.path={file}", f"html={place}", f"cache_dir={file.parent}"]) == 2
    said = capsys.readouterr().err
    assert f"cannot write {place}" in said
    assert said.endswith("choose another place with html=FILE\n")


def test_prompts_with_rewards(capsys):
    assert main(["data", "task=arithmetic", "task.max_operand=9", "examples=0"]) == 0
    assert "rewards    the right answer" in capsys.readouterr().out


def test_a_model_is_surveyed_without_its_weights(file, capsys):
    model_of("llama").save_pretrained(file.parent / "model")
    tokenizer().save_pretrained(file.parent / "model")
    (file.parent / "model" / "model.safetensors").unlink()
    line = ["data", "task=preference_file", f"task.path={file}", "policy=pretrained", f"policy.path={file.parent / 'model'}"]
    assert main([*line, f"cache_dir={file.parent}", "examples=0"]) == 0
    assert "20 rows read, 20 kept" in capsys.readouterr().out


def test_wrong_words_are_said(file, capsys):
    assert main(["data", "-m", "task=arithmetic"]) == 2
    assert main(["data", "exampels=3"]) == 2
    assert "did you mean examples" in capsys.readouterr().err
