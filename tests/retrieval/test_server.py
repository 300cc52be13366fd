"""`rlft serve-retriever` and `rlft index`, as commands, and clients of the public protocol."""

import contextlib
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlft.cli import main
from rlft.retrieval import BM25Retriever, HTTPRetriever, Passage, RetrievalError
from tests.retrieval.conftest import some_rows

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tests.retrieval.asgi import ask


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some_rows()))
    return path


@pytest.fixture(scope="module")
def url(corpus: Path) -> Iterator[str]:
    """A served corpus, by the command's own start-up line."""
    command = [sys.executable, "-m", "rlft", "serve-retriever", "--corpus", str(corpus), "--port", "0", "--topk", "2"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        where, serves, name = server.stdout.readline().split(maxsplit=2)
        assert (serves, name.strip()) == ("serves", BM25Retriever(corpus).name)
        yield where.removesuffix("/retrieve")
    finally:
        server.terminate()
        server.wait()


def post(url: str, payload: Any) -> Any:
    """What a client sends that knows the protocol only."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    request = urllib.request.Request(f"{url}/retrieve", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_a_client_of_the_public_protocol_is_served(url: str, corpus: Path) -> None:
    queries = ["lantern kiln", "unknown words", "Amber"]
    result = post(url, {"queries": queries, "topk": 3, "return_scores": True})["result"]
    expected = BM25Retriever(corpus).search(queries, 3)
    for i, found in enumerate(expected):
        assert len(result[i]) == len(found)
        for j, passage in enumerate(found):
            assert result[i][j]["document"]["contents"] == f"{passage.title}\n{passage.text}".lstrip("\n")
            assert result[i][j]["document"]["id"] == passage.id
            assert result[i][j]["score"] == pytest.approx(passage.score)
    assert [len(found) for found in result] == [3, 0, 3]


def test_bare_documents_and_the_default_topk(url: str) -> None:
    assert [len(found) for found in post(url, {"queries": ["lantern"]})["result"]] == [2]
    assert [len(found) for found in post(url, {"queries": ["lantern"], "topk": None})["result"]] == [2]
    (found,) = post(url, {"queries": ["lantern"], "return_scores": False})["result"]
    assert set(found[0]) == {"id", "title", "text", "contents"}
    assert post(url, {"queries": []}) == {"result": []}


def test_our_client_finds_what_is_found_in_process(url: str, corpus: Path) -> None:
    queries = ["lantern kiln", "", "unknown", "Ämber \ud800 canal", *[f"no {i}" for i in range(10)]]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda size: HTTPRetriever(url, batch=size).search(queries, 4), [1, 3, 64, 64]))
    assert answers == [BM25Retriever(corpus).search(queries, 4)] * 4


@pytest.mark.parametrize(
    "payload", [b"not json", {}, {"queries": "text"}, {"queries": [1]}, {"queries": ["a"], "topk": 0}], ids=str
)
def test_bad_requests_are_refused_and_the_server_goes_on(url: str, payload: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        post(url, payload)
    assert error.value.code == 422
    assert post(url, {"queries": ["amber"]})["result"]


def test_it_listens_to_this_machine_only(url: str) -> None:
    port = int(url.rpartition(":")[2])
    listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line}
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_clients_that_send_nothing_or_stop_half_way_keep_nobody_waiting(url: str) -> None:
    """One sends no header, one half a header, one half a body; others are served all the while."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /retrieve HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with contextlib.ExitStack() as open_ones:
        for sent in (b"", head[:30].encode(), f'{head}Content-Length: 100\r\n\r\n{{"queries"'.encode()):
            for _ in range(20):
                client = open_ones.enter_context(socket.create_connection((host, int(port))))
                client.sendall(sent)
        assert post(url, {"queries": ["amber"]})["result"]
    assert post(url, {"queries": ["amber"]})["result"]


def test_too_many_queries_are_refused_over_http_too(url: str) -> None:
    with pytest.raises(RetrievalError, match="HTTP 413.*5000 asked for, 4096 at most.*--max_queries"):
        HTTPRetriever(url, batch=5000).search([f"no {i}" for i in range(5000)], 1)


def test_health_names_the_retriever(url: str, corpus: Path) -> None:
    with urllib.request.urlopen(f"{url}/health", timeout=30) as response:
        assert json.load(response) == {"status": "ok", "retriever": BM25Retriever(corpus).name}


def test_a_failing_retriever_is_a_gateway_error() -> None:
    class Down:
        name = "down"

        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            raise RetrievalError("the other server is down")

    assert ask(Down(), b'{"queries": ["q"]}') == (502, {"detail": "the other server is down"})


def test_taken_port_is_an_error(url: str, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-retriever", "--corpus", str(corpus), "--port", url.rpartition(":")[2]]) == 1
    assert "name another --port" in capsys.readouterr().err


def test_index_command_builds_and_names(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--corpus", str(corpus), "--index_folder", str(tmp_path / "index")]) == 0
    assert capsys.readouterr().out.strip() == BM25Retriever(corpus).name
    assert (tmp_path / "index/manifest.json").is_file()
    assert main(["index", "--retriever", f"bm25(corpus={str(corpus)!r}, b=0.75)"]) == 0
    assert "b=0.75" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--corpus FILE, or --retriever SPEC"),
        (["--corpus", "absent.jsonl"], "there is no corpus file"),
        (["--corpus", "c", "--encoder", "e"], "--encoder needs --index dense"),
        (["--corpus", "c", "--index", "dense"], "needs --encoder"),
        (["--corpus", "c", "--retriever", "bm25(corpus='c')"], "leave out --corpus"),
        (["--retriever", "bm25"], "corpus"),
        (["--retriever", "bm25(corpus='c', k2=1)"], "k2"),
    ],
)
@pytest.mark.parametrize("command", ["index", "serve-retriever"])
def test_mistaken_flags_are_errors(
    command: str, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *flags]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_missing_packages_are_named_before_anything_is_built(
    package: str, monkeypatch: pytest.MonkeyPatch, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve-retriever", "--corpus", str(corpus_file)]) == 1
    assert 'pip install "rlft[serve]"' in capsys.readouterr().err
    assert not Path(f"{corpus_file}.bm25").exists()


def test_help_needs_no_retriever_s_packages() -> None:
    heavy = "{'torch', 'bm25s', 'numpy', 'fastapi', 'rlft.retrieval'}"
    for command in ("index", "serve-retriever"):
        code = (
            f"import sys; from rlft.cli import main\ntry: main([{command!r}, '--help'])\n"
            f"except SystemExit: assert not {heavy} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert "--corpus" in done.stdout
