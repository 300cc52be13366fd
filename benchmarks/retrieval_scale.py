"""What does a corpus cost? BM25 over N synthetic passages: index, serve, search in process and over HTTP.

    python benchmarks/retrieval_scale.py                        1 million passages
    python benchmarks/retrieval_scale.py --passages 100000

Passages have 60 to 100 words, drawn from a Zipf law over 400,000 word types, and a title of 2. A query is 6 words of
one passage, drawn from it at random, so that frequent words are as frequent as in text. Building and serving run as
`rlft index` and `rlft serve-retriever` do, in processes of their own, whose memory is measured.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TYPES, EXPONENT, SEED = 400_000, 1.05, 0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def write_corpus(path: Path, passages: int) -> None:
    """Write the synthetic corpus, seeded."""
    rng = np.random.default_rng(SEED)
    words = np.array([f"w{rank:x}" for rank in range(TYPES)], dtype=object)
    shares = 1 / np.arange(1, TYPES + 1) ** EXPONENT
    cumulative = np.cumsum(shares / shares.sum())
    with path.open("w") as file:
        for i in range(passages):
            drawn = words[np.searchsorted(cumulative, rng.random(2 + int(rng.integers(60, 101))))]
            file.write(json.dumps({"id": str(i), "contents": f'"{" ".join(drawn[:2])}"\n{" ".join(drawn[2:])}'}) + "\n")


def some_queries(path: Path, count: int) -> list[str]:
    """Queries of 6 words each from passages spread over the file."""
    rng, size, queries = np.random.default_rng(SEED + 1), path.stat().st_size, []
    with path.open("rb") as file:
        for _ in range(count):
            file.seek(int(rng.integers(0, size * 0.99)))
            file.readline()
            words = json.loads(file.readline())["contents"].split()
            queries.append(" ".join(rng.choice(words, 6, replace=False)))
    return queries


def built(path: Path) -> dict[str, float]:
    """Build the index in a child process; its CPU and wall seconds and peak memory, the corpus check included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "rlft", "index", "--corpus", str(path)]
    subprocess.run(command, env=ENVIRONMENT, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": wall,
        "peak_rss_gb": after.ru_maxrss / 1e6,
    }


def memory_of(process: int) -> dict[str, float]:
    """Resident memory in GB: a process's own, and pages of mapped files, which the system takes back when it must."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    kib = {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "VmHWM")}
    return {
        "own_gb": kib["RssAnon"] / 1e6,
        "mapped_files_gb": kib["RssFile"] / 1e6,
        "peak_rss_gb": kib["VmHWM"] / 1e6,
    }


def per_second(search: Callable[[list[str]], Any], queries: list[str], batch: int) -> float:
    """Queries per second of wall time, `batch` in each call."""
    start = time.perf_counter()
    for first in range(0, len(queries), batch):
        search(queries[first : first + batch])
    return len(queries) / (time.perf_counter() - start)


def in_process(path: Path, queries: list[str], k: int) -> dict[str, float]:
    """Load the built index here and search it."""
    from rlft.retrieval import BM25Retriever

    start = time.perf_counter()
    retriever = BM25Retriever(path)
    loading = time.perf_counter() - start
    retriever.search(queries, k)  # reads the files once, so that what follows measures searching
    return {
        "load_seconds": loading,
        "queries_per_second_single": per_second(lambda batch: retriever.search(batch, k), queries, 1),
        "queries_per_second_batch_64": per_second(lambda batch: retriever.search(batch, k), queries, 64),
        "without_40_most_frequent_words_queries_per_second": per_second(
            lambda batch: retriever.search(batch, k), [rare(query) for query in queries], 1
        ),
    }


def rare(query: str) -> str:
    """The query without the 40 most frequent words, as with stop words."""
    return " ".join(word for word in query.split() if int(word.strip('"')[1:], 16) >= 40)


def served(path: Path, queries: list[str], k: int) -> dict[str, Any]:
    """Serve in a child process and search over HTTP."""
    from rlft.retrieval import HTTPRetriever

    command = [sys.executable, "-m", "rlft", "serve-retriever", "--corpus", str(path), "--port", "0"]
    server = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        retriever = HTTPRetriever(server.stdout.readline().split()[0])
        started = memory_of(server.pid)
        retriever.search(queries, k)
        speed = {
            f"queries_per_second_{label}": per_second(lambda batch: retriever.search(batch, k), queries, size)
            for label, size in (("single", 1), ("batch_64", 64))
        }
        return {"memory_at_start": started, **speed, "memory_after": memory_of(server.pid)}
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Measure one corpus size and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/retrieval_scale.json")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.jsonl"
        write_corpus(path, options.passages)
        building = built(path)
        print(json.dumps(building), flush=True)
        queries = some_queries(path, options.queries)
        files = {file.name: file.stat().st_size / 1e9 for file in sorted(Path(f"{path}.bm25").iterdir())}
        result = {
            "settings": {key: value for key, value in vars(options).items() if key != "output"},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {package: version(package) for package in ("bm25s", "numpy", "fastapi", "uvicorn")},
            "corpus_gb": path.stat().st_size / 1e9,
            "index_gb": sum(files.values()),
            "build": building,
            "in_process": in_process(path, queries, options.k),
            "http": served(path, queries, options.k),
        }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
