"""What one request to `rlft serve-retriever` may ask for; a body that is too big or too slow is stopped.

The size of a body is counted as it arrives, since a client may say nothing about it, or something false.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of how many there are at once."""

    body_bytes: int = 16 * 2**20
    queries: int = 4096
    query_chars: int = 16_384
    topk: int = 1000
    body_seconds: float = 30.0
    """Within which the whole body must have arrived."""
    connections: int = 256
    """Open at once; another client is answered 503, which clients try again."""


DEFAULT_LIMITS = Limits()


class TooMuch(Exception):
    """A request that is answered with 413 and a short message."""


class BoundedBody:
    """An ASGI application that reads a request's body within the limits and hands it on whole.

    Args:
        app: what answers requests of bearable size.
        limits: the bounds.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; 413 if its body is too big, 408 if it is too slow."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._body(receive), self._limits.body_seconds)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not arrive within {self._limits.body_seconds:g} s")
        except TooMuch as error:
            await _refuse(send, 413, str(error))
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                raise TooMuch(f"the body is larger than {self._limits.body_bytes} bytes; send fewer queries at once")
            if not message.get("more_body"):
                break
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, and then whatever the client does."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _refuse(send: Send, status: int, detail: str) -> None:
    """A short answer, after which the connection is closed: what is left of the body is never read."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
