"""Serve a retriever as `POST /retrieve`, which search-RL projects' clients speak. `pip install "rlft[serve]"`."""

import contextlib
import json
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel, Field

from rlft.retrieval.passage import RetrievalError, Retriever
from rlft.retrieval.protocol import result_of


class Request(BaseModel):
    """What a client sends."""

    queries: list[str]
    topk: int | None = Field(default=None, ge=1)
    return_scores: bool = False


def app_of(retriever: Retriever, topk: int = 3) -> FastAPI:
    """The server as an ASGI application: `POST /retrieve` and `GET /health`.

    Args:
        retriever: what answers. Requests run in several threads.
        topk: passages per query where the client does not say.
    """
    app = FastAPI(title="rlft serve-retriever")

    @app.post("/retrieve")
    def retrieve(request: Request) -> Response:
        try:
            found = retriever.search(request.queries, request.topk or topk)
        except RetrievalError as error:
            return _json({"detail": str(error)}, 502)
        return _json(result_of(found, request.return_scores))

    @app.get("/health")
    def health() -> Response:
        return _json({"status": "ok", "retriever": retriever.name})

    return app


def serve(retriever: Retriever, host: str = "127.0.0.1", port: int = 8000, topk: int = 3) -> None:
    """Serve until interrupted, after one line that says where.

    Args:
        retriever: what answers.
        host: address to listen on; `0.0.0.0` for other machines as well.
        port: 0 takes a free one.
        topk: passages per query where the client does not say.

    Raises:
        RetrievalError: if the address is taken or not this machine's.
    """
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise RetrievalError(f"cannot listen on {host}:{port} ({error}); name another --port or --host") from error
    server = uvicorn.Server(uvicorn.Config(app_of(retriever, topk), log_level="warning"))
    url = f"http://{host}:{listener.getsockname()[1]}"
    print(f"{url}/retrieve serves {retriever.name}", flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again after it has shut down
        server.run(sockets=[listener])


def _json(content: Any, status: int = 200) -> Response:
    # ASCII, since a passage may hold half a surrogate pair, which UTF-8 has not.
    return Response(json.dumps(content), status, media_type="application/json")
