"""What faults of a completions server become: a retry, or an error that says what to change."""

import threading
import time
from typing import Any

import pytest

from rlft.rollouts.policy import GREEDY, Draw, Sampling
from rlft.rollouts.server_policy import ServerError, ServerPolicy
from tests.rollouts.completions_server import DRAWS, STOP, Answer, CompletionsServer, changed, complete, policy, status
from tests.rollouts.completions_server import server as server


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), status(0)])
def test_passing_faults_are_retried(server: CompletionsServer, fault: Answer) -> None:
    expected = policy(server).generate(DRAWS[:1], Sampling())
    server.script = [fault, fault]
    assert policy(server).generate(DRAWS[:1], Sampling()) == expected
    assert len(server.requests) == 4


def test_a_slow_answer_is_retried(server: CompletionsServer) -> None:
    def slow(server: CompletionsServer, request: dict[str, Any]) -> tuple[int, bytes]:
        time.sleep(0.5)
        return 0, b""

    expected = policy(server).generate(DRAWS[:1], Sampling())
    server.script = [slow]
    assert policy(server, timeout=0.2).generate(DRAWS[:1], Sampling()) == expected


def test_lasting_faults_are_named(server: CompletionsServer) -> None:
    server.script = [status(500)] * 3
    with pytest.raises(ServerError, match=r"failed 3 times, last with HTTP 500: overloaded.*retries"):
        policy(server).generate(DRAWS[:1], Sampling())
    assert len(server.requests) == 3


def test_pauses_double(server: CompletionsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: bool(pauses.append(timeout)))
    server.script = [status(500)] * 4
    with pytest.raises(ServerError):
        policy(server, retries=3)._post({"prompt": [1]}, threading.Event())
    assert [pause for pause in pauses if pause] == [0.01, 0.02, 0.04]


def test_a_server_that_is_down_is_named() -> None:
    with CompletionsServer() as closed:
        url = closed.url
    with pytest.raises(ServerError, match=rf"{url}/v1/completions failed 1 times.*Is the server up\?"):
        ServerPolicy(url, "tiny", {STOP}, retries=0).generate(DRAWS[:1], Sampling())


def test_a_refusal_is_not_retried(server: CompletionsServer) -> None:
    server.script = [status(400, b"max_tokens is too large")]
    with pytest.raises(ServerError, match="refused the request with HTTP 400: max_tokens is too large"):
        policy(server).generate(DRAWS[:1], Sampling())
    assert len(server.requests) == 1


def test_the_first_failure_ends_the_call(server: CompletionsServer) -> None:
    server.script = [complete] * 3 + [status(404, b"no such model")]
    with pytest.raises(ServerError, match="no such model"):
        policy(server, concurrency=2).generate(DRAWS, Sampling())
    assert len(server.requests) < 10


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"token_ids": [1], "finish_reason": "length"}]}',
        b'{"choices": [{"token_ids": [1], "finish_reason": "length", "logprobs": {"token_logprobs": [null]}}]}',
    ],
)
def test_what_is_no_completion_is_shown(server: CompletionsServer, body: bytes) -> None:
    server.script = [status(200, body)]
    with pytest.raises(
        ServerError, match=r"answered what is no completion.*: " + body[:5].decode().replace("[", r"\[")
    ):
        policy(server).generate([Draw([1], 0, 1)], Sampling())


@pytest.mark.parametrize("logprobs", [{"token_logprobs": [-1.0], "tokens": ["hello"]}, {"token_logprobs": [-1.0]}])
def test_text_without_ids_is_refused(server: CompletionsServer, logprobs: dict[str, Any]) -> None:
    server.script = [changed(token_ids=..., logprobs=logprobs)]
    with pytest.raises(ServerError, match="no token ids.*return_token_ids"):
        policy(server).generate([Draw([1], 0, 1)], Sampling())


def test_too_few_logprobs_are_refused(server: CompletionsServer) -> None:
    server.script = [changed(token_ids=[1, 2], logprobs={"token_logprobs": [-1.0]})]
    with pytest.raises(ServerError, match="1 log-probabilities for 2 tokens"):
        policy(server).generate([Draw([1], 0, 2)], Sampling())


def test_an_end_of_the_servers_own_is_refused(server: CompletionsServer) -> None:
    ended = changed(token_ids=[1, 5], finish_reason="stop", logprobs={"token_logprobs": [-1.0, -2.0]})
    server.script = [ended]
    with pytest.raises(ServerError, match=r"'stop'.*after 2 of 9 tokens, at \[5\].*stop ids \[7\]"):
        policy(server, ignore_eos=False).generate([Draw([1], 0, 9)], Sampling())
    assert server.requests[0]["ignore_eos"] is False


@pytest.mark.parametrize(
    ("given", "sampling", "message"),
    [
        ("raw", Sampling(0.7), "temperature=0.7.*before temperature.*processed_logprobs"),
        ("processed", Sampling(0.7, top_p=0.9), "top_p=0.9.*after top-p.*raw_logprobs"),
        ("processed", Sampling(top_k=4), "top_k=4"),
        ("processed", Sampling(repetition_penalty=1.05), "repetition_penalty=1.05.*after it.*raw_logprobs"),
        ("scaled", Sampling(0.001), "temperature=0.001.*at least 0.01"),
    ],
)
def test_samplings_without_the_promised_logprobs(
    server: CompletionsServer, given: str, sampling: Sampling, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        policy(server, logprobs_are=given).generate(DRAWS[:1], sampling)
    assert not server.requests


@pytest.mark.parametrize(
    ("given", "sampling"),
    [("raw", GREEDY), ("raw", Sampling(top_p=0.5)), ("processed", Sampling(0.7)), ("scaled", Sampling(0.7, 0.5, 3))]
    + [("processed", Sampling(0.0, top_p=0.5))],
)
def test_samplings_with_the_promised_logprobs(server: CompletionsServer, given: str, sampling: Sampling) -> None:
    assert policy(server, logprobs_are=given).generate(DRAWS[:1], sampling)


def test_bad_draws_are_refused_before_anything_is_sent(server: CompletionsServer) -> None:
    for draw, message in ((Draw([], 0, 4), "without tokens"), (Draw([1], 0, 0), "max_new_tokens=0")):
        with pytest.raises(ValueError, match=message):
            policy(server).generate([DRAWS[0], draw], Sampling())
    assert not server.requests


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"retries": -1}, {"concurrency": 0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="timeout=.*retries=.*concurrency="):
        ServerPolicy("http://localhost:1", "tiny", {STOP}, **settings)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://"])
def test_bad_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://localhost:8000"):
        ServerPolicy(url, "tiny", {STOP})
