"""The HTTP client against servers that work, in every shape, and servers that do not."""

import json
import random
import socket
import urllib.request
from typing import Any

import pytest

from rlft.retrieval.http import HTTPRetriever
from rlft.retrieval.passage import Passage, RetrievalError
from tests.retrieval.servers import Reply, fake_server

DOCUMENT = {"id": "7", "contents": '"Ada"\nShe wrote programs.'}
ADA = Passage("7", "Ada", "She wrote programs.", 1.5)


def client(url: str, **settings: Any) -> HTTPRetriever:
    return HTTPRetriever(url, **{"backoff": 0.0, "retries": 2, "timeout": 5.0, **settings})


def answered(content: Any, k: int = 3, **settings: Any) -> list[list[Passage]]:
    """What one query finds on a server that always says `content`."""
    with fake_server(lambda asked, before: Reply(content)) as fake:
        return client(fake.url, **settings).search(["who"], k)


def test_request_is_the_protocol_s_and_batched() -> None:
    def answer(asked: dict[str, Any], before: int) -> Reply:
        hits = [[{"document": {"id": q, "contents": f"T\nabout {q}"}, "score": 2}] for q in asked["queries"]]
        return Reply({"result": hits})

    with fake_server(answer) as fake:
        found = client(fake.url, batch=2).search(["a", "b", " ", "c", "a"], 4)
    assert [[p.id for p in hits] for hits in found] == [["a"], ["b"], [], ["c"], ["a"]]
    assert found[0] == [Passage("a", "T", "about a", 2.0)]
    assert fake.asked == [
        {"path": "/retrieve", "queries": queries, "topk": 4, "return_scores": True} for queries in (["a", "b"], ["c"])
    ]


@pytest.mark.parametrize(
    ("hit", "passage"),
    [
        ({"document": DOCUMENT, "score": 1.5}, ADA),
        ({"document": {"id": 7, "title": "Ada", "text": "She wrote programs."}, "score": 1.5}, ADA),
        (DOCUMENT, Passage("7", "Ada", "She wrote programs.", 0.0)),
        ({**DOCUMENT, "score": 1.5}, ADA),
        (
            {"id": "7", "title": "Ada", "text": "She wrote programs.", "contents": "..."},
            Passage(*["7", "Ada"], "She wrote programs.", 0.0),
        ),
    ],
)
def test_both_shapes_are_read(hit: dict[str, Any], passage: Passage) -> None:
    assert answered({"result": [[hit]]}) == [[passage]]


def test_documents_without_id_get_a_stable_one() -> None:
    bare = {key: DOCUMENT[key] for key in ("contents",)}
    other = {"title": "Ada", "text": "She wrote poems."}
    (first,) = answered({"result": [[bare, other]]})
    (again,) = answered({"result": [[{"document": other, "score": 1}, {"document": bare, "score": 0}]]})
    assert [p.id for p in first] == [p.id for p in again][::-1]
    assert first[0].id != first[1].id


def test_empty_results_are_results_and_more_than_k_are_cut() -> None:
    assert answered({"result": [[]]}) == [[]]
    assert len(answered({"result": [[DOCUMENT] * 9]}, k=2)[0]) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html>Bad gateway</html>", "Expecting value.*Bad gateway"),
        (b'{"result": [[', "Expecting value"),
        (b"\xff\xfe\xff", "answered what"),
        ([[DOCUMENT]], "the answer is a list, not an object"),
        ({"results": [[]]}, "the answer has no \"result\", only 'results'"),
        ({"result": []}, "0 result lists for 1 queries"),
        ({"result": [[], []]}, "2 result lists for 1 queries"),
        ({"result": {"who": []}}, "a dict, not result lists for 1 queries"),
        ({"result": [None]}, "result 0 is a NoneType, not a list"),
        ({"result": [["text"]]}, "result 0, document 0 is a str, not an object"),
        ({"result": [[{"document": {"id": 1}, "score": 1.0}]]}, 'neither "contents" nor "text"'),
        ({"result": [[{"document": {"contents": 3}, "score": 1.0}]]}, '"contents" is a int'),
        ({"result": [[{"document": DOCUMENT}]]}, 'result 0, document 0 has no "score"'),
        ({"result": [[{"document": DOCUMENT, "score": "high"}]]}, "\"score\" is 'high', not a finite number"),
        (b'{"result": [[{"document": {"contents": "x"}, "score": NaN}]]}', "not a finite number"),
    ],
)
def test_answers_outside_the_protocol_are_errors(content: Any, says: str) -> None:
    with pytest.raises(RetrievalError, match=says) as error:
        answered(content)
    assert "api='retrieve'" in str(error.value)


@pytest.mark.parametrize(
    "fault", [Reply(b"overloaded", 500), Reply(b"", 503), Reply(b"slow down", 429), Reply(hang_up=True)], ids=str
)
def test_passing_faults_are_tried_again(fault: Reply) -> None:
    good = Reply({"result": [[{"document": DOCUMENT, "score": 1.5}]]})
    with fake_server(lambda asked, before: fault if before < 2 else good) as fake:
        assert client(fake.url).search(["who"], 3) == [[ADA]]
        assert len(fake.asked) == 3
    with fake_server(lambda asked, before: fault) as fake:
        with pytest.raises(RetrievalError, match="no answer in 3 tries.*retries=2"):
            client(fake.url).search(["who"], 3)
        assert len(fake.asked) == 3


@pytest.mark.parametrize("status", [400, 404, 422])
def test_refusals_are_not_tried_again(status: int) -> None:
    with fake_server(lambda asked, before: Reply({"detail": "no such thing"}, status)) as fake:
        with pytest.raises(RetrievalError, match=f"HTTP {status}.*no such thing"):
            client(fake.url).search(["who"], 3)
        assert len(fake.asked) == 1


def test_slow_server_is_given_up_after_the_timeout() -> None:
    with (
        fake_server(lambda asked, before: Reply({"result": [[]]}, pause=0.4)) as fake,
        pytest.raises(RetrievalError, match="timed out.*timeout=0.05"),
    ):
        client(fake.url, timeout=0.05, retries=1).search(["who"], 3)


def test_server_that_is_down_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RetrievalError, match=f"{url}/retrieve gave no answer in 3 tries.*refused"):
        client(url).search(["who"], 3)


def test_pauses_double_and_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    state = random.getstate()
    monkeypatch.setattr("rlft.retrieval.http.time.sleep", pauses.append)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RetrievalError):
        client(url, backoff=1.0, retries=8).search(["who"], 3)
    means = [1, 2, 4, 8, 16, 30, 30, 30]
    assert all(0.5 * mean <= pause <= 1.5 * mean for pause, mean in zip(pauses, means, strict=True))
    assert len(set(pauses)) == len(pauses)
    assert random.getstate() == state, "training draws from this generator"


def test_colbert_server_is_read() -> None:
    def answer(asked: dict[str, Any], before: int) -> Reply:
        hits = [
            {"text": f"Ada | on {asked['query']} | and more", "pid": 11, "rank": 1, "score": 20.5, "prob": 0.9},
            {"text": "no bar", "pid": 12, "rank": 2, "score": 3, "prob": 0.1},
        ]
        return Reply({"query": asked["query"], "topk": hits[: int(asked["k"])]})

    with fake_server(answer) as fake:
        found = client(fake.url, api="colbert").search(["a&b", "", "ü"], 2)
        assert client(f"{fake.url}/api/search", api="colbert").search(["x"], 1)[0][0].text == "on x | and more"
    assert found[0] == [Passage("11", "Ada", "on a&b | and more", 20.5), Passage("12", "", "no bar", 3.0)]
    assert found[1] == []
    assert found[2][0].text == "on ü | and more"
    assert sorted(asked["query"] for asked in fake.asked) == ["a&b", "x", "ü"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"result": [[]]}, 'no "topk"'),
        ({"topk": {}}, '"topk" is a dict'),
        ({"topk": [{"text": "a | b", "score": 1}]}, 'hit 0 has no "pid"'),
        ({"topk": [{"text": None, "pid": 1, "score": 1}]}, '"text" is a NoneType'),
    ],
)
def test_colbert_faults(content: Any, says: str) -> None:
    with pytest.raises(RetrievalError, match=says):
        answered(content, api="colbert")


def test_names_tell_servers_and_corpora_apart() -> None:
    names = {
        HTTPRetriever("http://h:1", **settings).name
        for settings in ({}, {"corpus": "wiki-18"}, {"corpus": "wiki-24"}, {"api": "colbert"})
    }
    assert len(names) == 4
    assert HTTPRetriever("http://h:1").name == HTTPRetriever("http://h:1/retrieve/").name
    assert HTTPRetriever("http://h:1", corpus="wiki-18").name == HTTPRetriever("http://other:2", corpus="wiki-18").name


@pytest.mark.parametrize(
    "settings",
    [{"url": "127.0.0.1:8000"}, {"url": "ftp://h"}, {"api": "grpc"}, {"timeout": 0}, {"retries": -1}, {"batch": 0}],
    ids=str,
)
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RetrievalError, match=next(iter(settings))):
        HTTPRetriever(**{"url": "http://h:1", **settings})


def test_a_proxy_is_passed_by_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert answered({"result": [[]]}, retries=0) == [[]]
    assert "http" in urllib.request.getproxies()


def test_queries_travel_whole() -> None:
    query = 'quote " backslash \\ 日本 \U0001f600 \ud800'
    with fake_server(lambda asked, before: Reply({"result": [[{"contents": asked["queries"][0]}]]})) as fake:
        assert client(fake.url).search([query], 1)[0][0].text == query
    assert json.loads(json.dumps(fake.asked[0]["queries"])) == [query]
