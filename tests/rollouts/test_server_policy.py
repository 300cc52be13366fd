"""A completions server over loopback: what it is asked, and what is made of its answers."""

import subprocess
import sys

import pytest

from rlft.rollouts.policy import GREEDY, Draw, Sampling
from rlft.rollouts.server_policy import ServerPolicy
from tests.rollouts.completions_server import DRAWS, STOP, CompletionsServer, changed, policy, sample
from tests.rollouts.completions_server import server as server


def test_generations_are_those_of_the_table(server: CompletionsServer) -> None:
    for draw, got in zip(DRAWS, policy(server).generate(DRAWS, Sampling()), strict=True):
        expected = sample(
            {"seed": draw.seed, "prompt": draw.prompt_ids, "max_tokens": draw.max_new_tokens, "temperature": 1.0}
            | {"stop_token_ids": [STOP]}
        )
        assert got.ids == expected["token_ids"]
        assert got.logprobs == expected["logprobs"]["token_logprobs"]
        assert got.stopped == (got.ids[-1] == STOP)


def test_concurrency_changes_nothing_but_the_time(server: CompletionsServer) -> None:
    one, many = (policy(server, concurrency=width).generate(DRAWS, Sampling()) for width in (1, 32))
    assert one == many
    assert {got.stopped for got in one} == {True, False}


def test_what_is_asked(server: CompletionsServer) -> None:
    asked = Sampling(temperature=1.0, top_p=0.9, top_k=5)
    policy(server, api_key="key-1").generate([Draw([3, 4], 2**62, 6)], asked)
    assert server.requests == [
        {
            "path": "/v1/completions",
            "model": "tiny",
            "prompt": [3, 4],
            "max_tokens": 6,
            "seed": 2**62,
            "temperature": 1.0,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": [STOP],
            "ignore_eos": True,
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "logprobs": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer key-1"


def test_no_truncation_is_asked_for_in_the_servers_way(server: CompletionsServer) -> None:
    policy(server).generate([Draw([3], 0, 2)], GREEDY)
    assert (server.requests[0]["top_k"], server.requests[0]["temperature"]) == (-1, 0.0)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/completions"])
def test_any_form_of_the_address(server: CompletionsServer, ending: str) -> None:
    ServerPolicy(server.url + ending, "tiny", {STOP}).generate([Draw([3], 0, 2)], GREEDY)
    assert server.requests[0]["path"] == "/v1/completions"


def test_no_draws_no_requests(server: CompletionsServer) -> None:
    assert policy(server).generate([], Sampling()) == []
    assert not server.requests


def test_ids_written_as_tokens_are_read(server: CompletionsServer) -> None:
    expected = policy(server).generate(DRAWS[:1], Sampling())
    server.script = [changed(token_ids=...)]
    assert policy(server).generate(DRAWS[:1], Sampling()) == expected


def test_a_stop_token_left_out_of_the_ids_is_put_back(server: CompletionsServer) -> None:
    logprobs = {"token_logprobs": [-1.0, -2.0, -3.0]}
    for field in ("stop_reason", "matched_stop"):
        blank = {"stop_reason": ..., "token_ids": [1, 2], "finish_reason": "stop", "logprobs": logprobs}
        server.script = [changed(**(blank | {field: STOP}))]
        (got,) = policy(server).generate([Draw([1], 0, 9)], Sampling())
        assert (got.ids, got.logprobs, got.stopped) == ([1, 2, STOP], [-1.0, -2.0, -3.0], True)


def test_what_follows_a_stop_token_is_cut(server: CompletionsServer) -> None:
    server.script = [changed(token_ids=[1, STOP, 2], logprobs={"token_logprobs": [-1.0, -2.0, -3.0]})]
    (got,) = policy(server).generate([Draw([1], 0, 3)], Sampling())
    assert (got.ids, got.logprobs, got.stopped) == ([1, STOP], [-1.0, -2.0], True)


def test_the_servers_own_logprobs_are_given_where_they_are_wanted(server: CompletionsServer) -> None:
    asked = Sampling(0.7, top_p=0.9)
    expected = policy(server, logprobs_are="scaled").generate(DRAWS, asked)
    assert policy(server, logprobs_are="raw", own_logprobs=True).generate(DRAWS, asked) == expected
    with pytest.raises(ValueError, match="at least 0.01"):
        policy(server, own_logprobs=True).generate(DRAWS, Sampling(0.005))


def test_no_torch_is_imported() -> None:
    code = "import sys, rlft.rollouts.server_policy; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
