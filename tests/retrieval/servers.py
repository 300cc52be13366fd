"""Fake retrieval servers on loopback, to be misbehaved with."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Reply:
    """What a server sends: JSON, or bytes as they are, after a pause; nothing at all if `hang_up`."""

    content: Any = None
    status: int = 200
    pause: float = 0.0
    hang_up: bool = False


@dataclass
class Fake:
    """A running server and what it was asked: bodies of POST, queries of GET."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def fake_server(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[Fake]:
    """Serve `answer(request, how many came before)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_GET(self) -> None:
            self.reply({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})

        def reply(self, asked: dict[str, Any]) -> None:
            fake.asked.append({"path": urlsplit(self.path).path, **asked})
            reply = answer(asked, len(fake.asked) - 1)
            time.sleep(reply.pause)
            if reply.hang_up:
                self.close_connection = True
                return
            content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = Fake(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
