"""A judge behind a small server: scores, retries, nonsense, the cache, and how much it disagrees with itself."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from omegaconf import OmegaConf

from rlx.cli.main import invoke
from rlx.config.schema import conf_dir
from rlx.errors import ConfigError, DataError, TrainingError
from rlx.task.base import Prompt
from rlx.task.prompt_file import PromptFile
from rlx.task.reward.base import Measured
from rlx.task.reward.judge import Judge, NonsenseError


class Server(ThreadingHTTPServer):
    """Replies what `reply(text, seed)` gives; a number is a status."""

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.bodies = reply, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        said = self.server.reply(body["messages"][0]["content"], body["seed"])
        status, answer = (said, {"error": "busy"}) if isinstance(said, int) else (200, said)
        if isinstance(answer, str):
            answer = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def judging(reply):
    server = Server(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def task_of(server, tmp_path, **changes):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"question {n}", "answer": str(n)}) + "\n" for n in range(10)))
    settings = {"url": server.url, "model": "m", "backoff": 0.0, "cache_dir": None, "retries": 2, **changes}
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / "reward" / "judge.yaml"), resolve=False)
    judge = Judge(**{name: value for name, value in {**node, **settings}.items() if name != "_target_"})
    return PromptFile(
        name="judged", path=str(file), prompt_key="prompt", answer_key="answer", held_out=0.1, max_new_tokens=8,
        rewards={"judge": judge}, on_reward_error="stop", failed_reward=0.0, full_reward=None,
    )  # fmt: skip


def by_length(text, seed):
    """The judge's score: how many letters x the answer has."""
    return str(text.partition("Answer:\n")[2].partition("\n")[0].count("x"))


def graded(task, completions):
    prompts = task.prompts()[: len(completions)]
    return [one.parts for one in task.grade_all(prompts, completions)]


def test_completions_are_judged_and_scores_are_between_0_and_1(tmp_path):
    with judging(by_length) as server:
        found = graded(task_of(server, tmp_path), ["xxxxx", "", "x" * 10])
    assert [parts["reward"] for parts in found] == [0.5, 0.0, 1.0]
    assert [parts["judge_disagreement"] for parts in found] == [0.0] * 3
    assert len(server.bodies) == 6  # each twice, to compare
    assert {body["seed"] for body in server.bodies} == {0, 1}
    assert any("question" in body["messages"][0]["content"] for body in server.bodies)


def test_disagreement_is_the_mean_distance_of_two_scores_and_the_first_counts(tmp_path):
    with judging(lambda text, seed: str(4 + 3 * seed)) as server:
        found = graded(task_of(server, tmp_path, num_repeated=1), ["a", "b"])
    assert [(parts["judge"], parts["judge_disagreement"]) for parts in found] == [(0.4, pytest.approx(0.3))] * 2
    assert len(server.bodies) == 3


def test_equal_completions_are_judged_once_and_replies_are_kept_by_content(tmp_path):
    with judging(by_length) as server:
        task = task_of(server, tmp_path, cache_dir=str(tmp_path / "kept"), num_repeated=0)
        prompt = task.prompts()[0]
        task.grade_all([prompt] * 4, ["x", "x", "x", "xx"])
        assert len(server.bodies) == 2
        again = task_of(server, tmp_path, cache_dir=str(tmp_path / "kept"), num_repeated=0)
        assert [one.parts["judge"] for one in again.grade_all([prompt] * 2, ["x", "xx"])] == [0.1, 0.2]
        assert len(server.bodies) == 2
        other = task_of(server, tmp_path, cache_dir=str(tmp_path / "kept"), num_repeated=0, model="n")
        other.grade_all([prompt], ["x"])
        assert len(server.bodies) == 3


@pytest.mark.parametrize("nonsense", ["good", "", "11", "-1", "nan", "8/10", "1e999"])
def test_a_reply_that_is_no_score_is_asked_for_again(nonsense, tmp_path):
    with judging(lambda text, seed: nonsense if seed < 2 else "7") as server:
        (parts,) = graded(task_of(server, tmp_path, num_repeated=0), ["a"])
    assert (parts["judge"], parts["judge_nonsense"]) == (0.7, 0.5)


def test_nonsense_alone_is_an_error_of_that_completion(tmp_path):
    with judging(lambda text, seed: "well" if "bad" in text else "5") as server:
        task = task_of(server, tmp_path, num_repeated=0)
        with pytest.raises(TrainingError, match="the judge m replied 'well', which is not a score from 0 to 10"):
            graded(task, ["good", "bad"])
        object.__setattr__(task, "on_reward_error", "fail")
        object.__setattr__(task, "failed_reward", -1.0)
        assert [(parts["reward"], parts["failed"]) for parts in graded(task, ["good", "bad"])] == [(0.5, 0.0), (-1.0, 1.0)]
        (good, bad) = task.rewards["judge"].score_all([(task.prompts()[0], "good"), (task.prompts()[0], "bad")])
    assert isinstance(good, Measured)
    assert isinstance(bad.value, NonsenseError)


def test_a_busy_judge_is_asked_again(tmp_path):
    failures = [503, 429]
    with judging(lambda text, seed: failures.pop() if failures else "5") as server:
        assert [parts["judge"] for parts in graded(task_of(server, tmp_path, num_repeated=0, at_once=1), ["a"])] == [0.5]


def test_a_judge_that_cannot_be_reached_or_is_none_ends_the_run_in_one_line(tmp_path):
    with judging(by_length) as server:
        gone = task_of(server, tmp_path)
    with pytest.raises(
        TrainingError, match=r"did not answer chat/completions in 3 tries .* see task\.rewards\.judge\.url"
    ) as caught:
        graded(gone, ["a"])
    assert "\n" not in str(caught.value)
    with judging(lambda text, seed: {"text": "5"}) as server, pytest.raises(ConfigError, match="without choices"):
        graded(task_of(server, tmp_path), ["a"])


def test_the_template_is_filled_with_columns(tmp_path):
    with judging(lambda text, seed: "10" if "{brace} 3 question" in text else "0") as server:
        task = task_of(server, tmp_path, template="{completion} {answer} {prompt}")
        (found,) = task.grade_all([Prompt("question", {"answer": "3"})], ["{brace}"])
        assert found.parts["judge"] == 1.0
        with pytest.raises(DataError, match=r"asks for \{level\}, and the task's prompts have answer"):
            graded(task_of(server, tmp_path, template="{completion} {level}"), ["a"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"template": "{prompt}"}, "has no {completion}"), ({"pattern": "x"}, "has no group"), ({"pattern": "("}, "not a regular"),
     ({"lowest": 10.0}, "not below")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes, said, tmp_path):
    with judging(by_length) as server, pytest.raises(ConfigError, match=said):
        task_of(server, tmp_path, **changes)


def test_it_is_chosen_on_the_command_line(tmp_path, capsys):
    line = ["train", "task=prompt_file", "task.path=x", "task/reward=[judge]", "task.rewards.judge.url=http://localhost:1/v1"]
    assert invoke([*line, "task.rewards.judge.model=m", "--cfg", "job", "--package", "task.rewards.judge"]) == (0, "")
    assert "model: m" in capsys.readouterr().out
