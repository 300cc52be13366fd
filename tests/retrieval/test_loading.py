"""Retrievers by spec, and an import that needs none of their packages."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlft.plugins import PluginError
from rlft.retrieval import BM25Retriever, CachedRetriever, HTTPRetriever, Passage, RetrievalError, load_retriever

PLUGIN = """
class Mine:
    def __init__(self, word="x"):
        self.name = f"mine({word})"
    def search(self, queries, k):
        return [[] for _ in queries]
class Nameless:
    search = Mine.search
def nothing():
    return 3
def of_class():
    return Mine
"""


class Fixed:
    name = "fixed"

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        return [[] for _ in queries]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_retriever.py"
    path.write_text(PLUGIN)
    return path


def test_ready_made_retrievers_by_name(corpus_file: Path) -> None:
    bm25 = load_retriever(f"bm25(corpus={str(corpus_file)!r}, k1=1.2)")
    assert isinstance(bm25, BM25Retriever)
    assert bm25.name.startswith("bm25(k1=1.2, b=0.4")
    assert isinstance(load_retriever('http(url="http://127.0.0.1:8000", api="colbert")'), HTTPRetriever)


def test_plug_ins_by_path_and_objects_as_they_are(plugin: Path, tmp_path: Path) -> None:
    assert load_retriever(f"{plugin}:Mine(word='y')").name == "mine(y)"
    fixed = Fixed()
    assert load_retriever(fixed) is fixed
    cached = CachedRetriever(fixed, tmp_path)
    assert load_retriever(cached) is cached


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        ("Nameless", "whose name is None"),
        ("nothing", r"gives 3, which is no object with a method search\(queries, k\)"),
        ("of_class", "which is no object"),
        ("Mine(words='y')", "unexpected keyword argument 'words'.*takes: word"),
    ],
)
def test_what_is_no_retriever_is_refused(plugin: Path, attribute: str, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        load_retriever(f"{plugin}:{attribute}")


@pytest.mark.parametrize("spec", ["bm25", "http", "bm25(korpus='x')", "bm52(corpus='x')", Fixed, 3])
def test_bad_specs_are_refused(spec: object) -> None:
    with pytest.raises(PluginError):
        load_retriever(spec)


def test_a_retriever_s_own_refusal_comes_through(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="there is no corpus file"):
        load_retriever(f"bm25(corpus={str(tmp_path / 'absent.jsonl')!r})")


def test_the_documented_plug_in_works(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs/retrievers.md"
    (example, *_) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "my_retriever.py").write_text(example)
    (tmp_path / "lines.txt").write_text("a stone bridge\nan iron bridge over the canal\na kiln\n")
    spec = f"{tmp_path / 'my_retriever.py'}:Overlap(path={str(tmp_path / 'lines.txt')!r})"
    found = load_retriever(spec).search(["stone bridge", "lantern"], 5)
    assert [[p.id for p in hits] for hits in found] == [["0", "1"], []]


def test_import_needs_no_retriever_s_packages() -> None:
    heavy = "{'torch', 'bm25s', 'faiss', 'numpy', 'sentence_transformers', 'fastapi', 'uvicorn'}"
    code = (
        f"import sys, rlft.retrieval, rlft.retrieval.http, rlft.retrieval.cache; assert not {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch, corpus_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RetrievalError, match=r'pip install "rlft\[dense\]"'):
        load_retriever(f"dense(corpus={str(corpus_file)!r}, encoder='e')")
