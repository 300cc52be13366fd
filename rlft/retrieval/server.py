"""Serve a retriever as `POST /retrieve`, which search-RL projects' clients speak. `pip install "rlft[serve]"`.

There is no access control: whoever reaches the port may search, within `Limits`.
"""

import contextlib
import json
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field

from rlft.retrieval.limits import DEFAULT_LIMITS, App, BoundedBody, Limits, TooMuch
from rlft.retrieval.passage import RetrievalError, Retriever
from rlft.retrieval.protocol import result_of


class Request(BaseModel):
    """What a client sends."""

    queries: list[str]
    topk: int | None = Field(default=None, ge=1, le=2**31)
    return_scores: bool = False


def app_of(retriever: Retriever, topk: int = 3, limits: Limits = DEFAULT_LIMITS) -> App:
    """The server as an ASGI application: `POST /retrieve` and `GET /health`.

    Args:
        retriever: what answers. Requests run in several threads.
        topk: passages per query where the client does not say.
        limits: what a request may ask for; more is answered with 4xx and one line that says which bound was passed.
    """
    app = FastAPI(title="rlft serve-retriever", openapi_url=None)  # no pages that load scripts from elsewhere

    @app.post("/retrieve")
    def retrieve(request: Request) -> Response:
        try:
            refuse_too_much(request, limits)
            found = retriever.search(request.queries, request.topk or topk)
        except TooMuch as error:
            return _json({"detail": str(error)}, 413)
        except RetrievalError as error:
            return _json({"detail": str(error)}, 502)
        return _json(result_of(found, request.return_scores))

    @app.get("/health")
    def health() -> Response:
        return _json({"status": "ok", "retriever": retriever.name})

    @app.exception_handler(RequestValidationError)
    def malformed(_: Any, error: RequestValidationError) -> Response:
        """Where the first fault lies, without what was sent."""
        first = error.errors()[0]
        return _json({"detail": f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:80]}"}, 422)

    return BoundedBody(app, limits)


def refuse_too_much(request: Request, limits: Limits) -> None:
    """Refuse a request that asks for more than the limits allow.

    Raises:
        TooMuch: naming the bound that was passed.
    """
    longest = max(map(len, request.queries), default=0)
    asked = [
        ("queries", len(request.queries), limits.queries, "send fewer at once, or serve with --max_queries"),
        ("characters in a query", longest, limits.query_chars, "shorten it"),
        ("topk", request.topk or 0, limits.topk, "lower it"),
    ]
    for what, seen, most, knob in asked:
        if seen > most:
            raise TooMuch(f"{what}: {seen} asked for, {most} at most; {knob}")


def serve(
    retriever: Retriever, host: str = "127.0.0.1", port: int = 8000, topk: int = 3, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Serve until interrupted, after one line that says where.

    Args:
        retriever: what answers.
        host: address to listen on; `0.0.0.0` for other machines as well.
        port: 0 takes a free one.
        topk: passages per query where the client does not say.
        limits: of a request, and of how many there are at once.

    Raises:
        RetrievalError: if the address is taken or not this machine's.
    """
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise RetrievalError(f"cannot listen on {host}:{port} ({error}); name another --port or --host") from error
    app = app_of(retriever, topk, limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", limit_concurrency=limits.connections))
    url = f"http://{host}:{listener.getsockname()[1]}"
    print(f"{url}/retrieve serves {retriever.name}", flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again after it has shut down
        server.run(sockets=[listener])


def _json(content: Any, status: int = 200) -> Response:
    # ASCII, since a passage may hold half a surrogate pair, which UTF-8 has not.
    return Response(json.dumps(content), status, media_type="application/json")
