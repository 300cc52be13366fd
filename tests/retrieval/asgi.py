"""Requests handed to the retrieval server's application, without a socket."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from rlft.retrieval.limits import DEFAULT_LIMITS, Limits
from rlft.retrieval.server import app_of


def ask(retriever: Any, *chunks: bytes, limits: Limits = DEFAULT_LIMITS, pause: float = 0.0) -> tuple[int, Any]:
    """Status and JSON of the answer to one `POST /retrieve` whose body comes in pieces, a pause before each."""
    return asyncio.run(_ask(retriever, chunks, limits, pause))


async def _ask(retriever: Any, chunks: Sequence[bytes], limits: Limits, pause: float) -> tuple[int, Any]:
    waiting, sent = list(chunks), list[Any]()

    async def receive() -> Any:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/retrieve",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app_of(retriever, limits=limits)(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
