"""What a client cannot do to `serve-retriever`: send too much, too slowly or nonsense, and get a long answer."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("fastapi")

from rlft.retrieval.limits import Limits
from rlft.retrieval.passage import Passage
from tests.retrieval.asgi import ask

FEW = Limits(body_bytes=6000, queries=3, query_chars=20, topk=5, body_seconds=0.2)


class Counting:
    """A retriever that counts what reaches it."""

    name = "counting"

    def __init__(self) -> None:
        self.searches = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.searches += 1
        return [[] for _ in queries]


def body(**fields: Any) -> bytes:
    return json.dumps({"queries": ["who"], **fields}).encode()


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        (body(queries=["a"] * 4), 413, "queries: 4 asked for, 3 at most"),
        (body(queries=["a" * 21]), 413, "characters in a query: 21 asked for, 20 at most"),
        (body(topk=6), 413, "topk: 6 asked for, 5 at most"),
        (body(junk="x" * 6000), 413, "the body is larger than 6000 bytes"),
        (body(topk=-1), 422, "body.topk: Input should be greater than or equal to 1"),
        (body(topk="many"), 422, "body.topk: Input should be a valid integer"),
        (body(queries={"a": 1}), 422, "body.queries: Input should be a valid list"),
        (body(queries=[None]), 422, "body.queries.0: Input should be a valid string"),
        (b"", 422, "body: Field required"),
        (b"{", 422, "JSON decode error"),
        (b"\xff\xfe", 422, "JSON decode error"),
        (b"[" * 5900, 400, "error parsing the body"),
        (b'{"queries": ["a"], "topk": 1' + b"0" * 5900 + b"}", 400, "error parsing the body"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_too_much_or_malformed_is_refused_in_one_short_line(asked: bytes, status: int, says: str) -> None:
    retriever = Counting()
    answered, content = ask(retriever, asked, limits=FEW)
    assert answered == status
    assert says in content["detail"]
    assert len(content["detail"]) < 200
    assert retriever.searches == 0


def test_what_lies_at_the_bounds_is_served() -> None:
    retriever = Counting()
    asked = body(queries=["a" * 20] * 3, topk=5)
    assert ask(retriever, asked[:10], asked[10:], limits=FEW) == (200, {"result": [[], [], []]})
    assert retriever.searches == 1


def test_a_body_is_counted_as_it_comes_and_no_further() -> None:
    """Whatever length the client claims: the third piece passes the bound and the others are not waited for."""
    assert ask(Counting(), *[b"x" * 2400] * 1000, limits=FEW, pause=0.001)[0] == 413


def test_a_body_that_trickles_is_given_up() -> None:
    status, content = ask(Counting(), *[b" "] * 100, limits=FEW, pause=0.1)
    assert (status, content["detail"]) == (408, "the body did not arrive within 0.2 s")
