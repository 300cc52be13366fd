"""A completions server over loopback, with a table in the place of a model and a script of faults."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from rlft.rollouts import server_policy
from rlft.rollouts.policy import Draw
from rlft.rollouts.server_policy import ServerPolicy

VOCABULARY, STOP = 8, 7
Answer = Callable[["CompletionsServer", dict[str, Any]], tuple[int, bytes]]


def table(last: int) -> np.ndarray:
    """Next-token probabilities (V,) of a model that looks at the last token only."""
    weights = np.random.default_rng(last).dirichlet(np.ones(VOCABULARY))
    return weights / weights.sum()


def sample(request: dict[str, Any]) -> dict[str, Any]:
    """What vLLM answers: ids with the stop token, log-probabilities, and why it ended."""
    key = hashlib.sha256(f"{request['seed']}".encode()).digest()
    rng = np.random.default_rng(list(key))
    ids, logprobs, reason = [], [], "length"
    last = request["prompt"][-1]
    for _ in range(request["max_tokens"]):
        probs = table(last)
        last = int(probs.argmax() if request["temperature"] == 0 else rng.choice(VOCABULARY, p=probs))
        ids.append(last)
        logprobs.append(float(np.log(probs[last])))
        if last in request["stop_token_ids"]:
            reason = "stop"
            break
    return {
        "index": 0,
        "text": "never read",
        "token_ids": ids,
        "finish_reason": reason,
        "stop_reason": last if reason == "stop" else None,
        "logprobs": {"token_logprobs": logprobs, "tokens": [f"token_id:{token}" for token in ids]},
    }


def complete(server: "CompletionsServer", request: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps({"object": "text_completion", "choices": [sample(request)]}).encode()


class CompletionsServer(ThreadingHTTPServer):
    """Answers with `script[n]` on the n-th request, and with completions after that."""

    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Answer] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: CompletionsServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append({"path": self.path, **request})
            self.server.headers.append(dict(self.headers))
            answer = self.server.script.pop(0) if self.server.script else complete
        status, body = answer(self.server, request)
        if status == 0:  # hang up
            self.connection.close()
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompletionsServer]:
    monkeypatch.setattr(server_policy, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with CompletionsServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def status(code: int, body: bytes = b"overloaded") -> Answer:
    return lambda server, request: (code, body)


def changed(**fields: Any) -> Answer:
    """A completion with some fields of its choice replaced, or dropped where the new value is `...`."""

    def answer(server: CompletionsServer, request: dict[str, Any]) -> tuple[int, bytes]:
        choice = {**sample(request), **fields}
        choice = {name: value for name, value in choice.items() if value is not ...}
        return 200, json.dumps({"choices": [choice]}).encode()

    return answer


def policy(server: CompletionsServer, **settings: Any) -> ServerPolicy:
    return ServerPolicy(server.url, "tiny", {STOP}, **{"timeout": 5.0, "retries": 2, **settings})


DRAWS = [Draw([index % 5, index % 3], seed=index, max_new_tokens=1 + index % 9) for index in range(60)]
