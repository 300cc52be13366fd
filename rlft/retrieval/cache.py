"""Results kept on disk: training asks the same questions round after round."""

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TypeVar

from rlft.retrieval.passage import Passage, RetrievalError, Retriever, refuse_bad_request

logger = logging.getLogger(__name__)
_TABLE = "CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, passages TEXT NOT NULL) WITHOUT ROWID"
_LOCK_SECONDS = 60.0
_Found = TypeVar("_Found")


class CachedRetriever:
    """A retriever that answers a query from disk if it was asked before, with the same `k`.

    The key holds the retriever's name, which names corpus and parameters, so that one folder serves many. Queries are
    searched and kept with every run of white space made one blank. Several threads and processes may share a folder
    on a local disk. A damaged file is set aside, with a warning, and a new one begun.

    Args:
        retriever: what answers the rest.
        folder: where `retrieval.sqlite` lies.

    Raises:
        RetrievalError: if the folder cannot be written.
    """

    def __init__(self, retriever: Retriever, folder: str | os.PathLike[str]) -> None:
        self.name = retriever.name
        self.hits = 0
        """Queries answered from disk. A query that stands several times in one call counts once, here and below."""
        self.misses = 0
        """Queries that were passed on."""
        self._retriever, self._path, self._counting = retriever, Path(folder) / "retrieval.sqlite", threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetrievalError(f"no cache can be kept in {folder} ({error}); name another folder") from error
        self._with_file(lambda connection: None)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """As the retriever's own `search`.

        Raises:
            RetrievalError: if the retriever raises it, and then nothing is kept; or if the cache cannot be used.
        """
        refuse_bad_request(queries, k)
        plain = [" ".join(query.split()) for query in queries]
        keys = {query: self._key(query, k) for query in plain}
        kept = self._with_file(lambda connection: _load(connection, keys.values()))
        missing = [query for query, key in keys.items() if key not in kept]
        if missing:
            fresh = dict(zip((keys[query] for query in missing), self._retriever.search(missing, k), strict=True))
            self._with_file(lambda connection: _store(connection, fresh))
            kept |= fresh
        with self._counting:
            self.hits += len(keys) - len(missing)
            self.misses += len(missing)
        return [list(kept[keys[query]]) for query in plain]

    def _key(self, query: str, k: int) -> str:
        return hashlib.sha256(json.dumps([self.name, k, query]).encode()).hexdigest()

    def _with_file(self, use: Callable[[sqlite3.Connection], _Found]) -> _Found:
        """Use a connection of its own: one that outlives the call would not survive a fork or a second thread."""
        try:
            return self._connected(use)
        except sqlite3.OperationalError as error:  # locked, full or not writable, which a new file would not cure
            raise RetrievalError(f"the cache {self._path} cannot be used ({error}); name another folder") from error
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
            logger.warning("the retrieval cache %s is damaged (%s); it is set aside as %s", self._path, error, aside)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                self._path.rename(aside)
            return self._connected(use)

    def _connected(self, use: Callable[[sqlite3.Connection], _Found]) -> _Found:
        with contextlib.closing(sqlite3.connect(self._path, timeout=_LOCK_SECONDS)) as connection, connection:
            connection.execute(_TABLE)
            return use(connection)


def _load(connection: sqlite3.Connection, keys: Collection[str]) -> dict[str, list[Passage]]:
    found = {}
    for key in keys:
        for (passages,) in connection.execute("SELECT passages FROM results WHERE key = ?", (key,)):
            try:
                found[key] = [Passage(*fields) for fields in json.loads(passages)]
            except (ValueError, TypeError) as error:
                raise sqlite3.DatabaseError(f"a row is malformed: {error}") from error
    return found


def _store(connection: sqlite3.Connection, results: Mapping[str, list[Passage]]) -> None:
    rows = [(key, json.dumps([astuple(passage) for passage in found])) for key, found in results.items()]
    connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", rows)
