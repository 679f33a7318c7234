import contextlib
import socket
import threading
import time

import pytest

from rlx.client import GoneError, JsonClient
from rlx.errors import ConfigError, TrainingError
from tests.rollout.serving import serving
from tests.rollout.stand_in import StandIn, model_of


@pytest.fixture(scope="module")
def policy():
    return StandIn(model_of("llama"))


@pytest.fixture
def server(policy):
    with serving(policy) as server:
        yield server


def client_of(url, **changes):
    return JsonClient(**{"url": url, "timeout": 5.0, "retries": 2, "backoff": 0.01, "api_key_variable": None, **changes})


BODY = {"prompt": [5], "seed": 0, "temperature": 1.0, "max_tokens": 2}


def test_a_busy_server_is_asked_again(server):
    server.failures.extend([503, 429])
    assert client_of(server.url).ask("completions", BODY)["choices"]
    assert server.bodies == [BODY] * 3


def test_each_wait_is_twice_the_last(server, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(seconds) if seconds else None)
    server.failures.extend([500] * 4)
    with pytest.raises(TrainingError, match=r"in 4 tries \(status 500: .*so it goes"):
        client_of(server.url, retries=3, backoff=0.5).ask("completions", BODY)
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("told", "waits"), [("3", [3.0, 3.0]), ("900", [5.0, 5.0]), ("0", [0.5, 1.0]), ("Fri, 31 Dec 1999 23:59:59 GMT", [0.5, 1.0])]
)
def test_a_server_that_says_how_long_it_is_busy_is_left_alone_so_long(server, monkeypatch, told, waits):
    found = []
    monkeypatch.setattr(time, "sleep", lambda seconds: found.append(seconds) if seconds else None)
    server.failures.extend([429, 503])
    server.retry_after = told
    assert client_of(server.url, backoff=0.5).ask("completions", BODY)["choices"]
    assert found == waits


def test_a_refusal_is_not_asked_again(server):
    server.failures.extend([404, 503])
    with pytest.raises(ConfigError, match=r"refuses completions with status 404: .*so it goes"):
        client_of(server.url).ask("completions", BODY)
    assert len(server.bodies) == 1


def test_a_slow_server_is_given_up(server):
    server.delay = 0.5
    with pytest.raises(TrainingError, match=r"in 2 tries \(no answer within 0\.05 s\)"):
        client_of(server.url, timeout=0.05, retries=1).ask("completions", BODY)


def test_a_server_that_is_down_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers here
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(TrainingError, match=rf"{url} did not answer models in 3 tries .*rollout\.url"):
            client_of(url).ask("models")


def test_an_address_of_something_else_is_named(server, monkeypatch):
    monkeypatch.setattr("json.loads", lambda text: ["a list"])
    with pytest.raises(ConfigError, match=r"is rollout\.url right"):
        client_of(server.url).ask("models")


def test_replies_come_in_the_order_of_the_requests(server):
    bodies = [{**BODY, "max_tokens": 1 + number % 5, "seed": number} for number in range(40)]
    replies = client_of(server.url).ask_all("completions", bodies, at_once=7)
    lengths = [len(reply["choices"][0]["token_ids"]) for reply in replies]
    alone = [len(client_of(server.url).ask("completions", body)["choices"][0]["token_ids"]) for body in bodies]
    assert lengths == alone
    assert len(set(lengths)) > 3
    assert 1 < server.most_at_once <= 7


def test_the_first_failure_ends_the_others(server):
    server.failures.extend([400] * 100)
    with pytest.raises(ConfigError, match="status 400"):
        client_of(server.url).ask_all("completions", [BODY] * 100, at_once=3)
    time.sleep(0.5)
    assert len(server.bodies) < 50


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "sesame")
    client_of(server.url, api_key_variable="SERVER_KEY").ask("completions", BODY)
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(ConfigError, match="SERVER_KEY"):
        client_of(server.url, api_key_variable="SERVER_KEY").ask("completions", BODY)


OK = b"HTTP/1.0 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (OK + b'Content-Length: 20\r\n\r\n{"data":', GoneError, "the answer ended after 8 of 20 bytes"),
        (OK + b"Content-Length: abc\r\n\r\n[]", ConfigError, "does not answer in JSON objects"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc", GoneError, "in 2 tries"),
        (b"HTTP/1.1 500 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz", GoneError, "in 2 tries"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
            ConfigError,
            r"redirects to http://\[::1, which is not followed",
        ),
        ([OK, *[b"X: y\r\n"] * 12], GoneError, r"no answer within 0\.1 s"),
        ([b"HTTP/1.1 404 No\r\n\r\n", *b"a" * 12], GoneError, r"no answer within 0\.1 s"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"] * 20, GoneError, r"no answer within 0\.1 s"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_server(answer, error, message):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond():
            for _ in range(1 if error is ConfigError else 2):
                with listener.accept()[0] as connection, contextlib.suppress(OSError):
                    connection.recv(4096)
                    for part in answer if isinstance(answer, list) else [answer]:  # slowly, a byte or a line at a time
                        connection.sendall(part if isinstance(part, bytes) else bytes([part]))
                        time.sleep(0.03 if isinstance(answer, list) else 0.0)

        thread = threading.Thread(target=respond)
        thread.start()
        with pytest.raises(error, match=message):
            client_of(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", retries=1, timeout=0.1).ask("models")
        thread.join()


def test_no_other_server_is_sent_the_key(server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "sesame")
    server.failures.append(302)
    server.location = server.url.replace("127.0.0.1", "localhost") + "/completions"
    with pytest.raises(ConfigError, match="redirects to"):
        client_of(server.url, api_key_variable="SERVER_KEY").ask("completions", BODY)
    assert len(server.bodies) == 1
