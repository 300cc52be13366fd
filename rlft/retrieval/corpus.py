"""A corpus of passages: a JSON Lines file read in place, or a list in memory.

A file is memory-mapped and a passage is parsed when it is asked for, so that a corpus costs 8 bytes of memory per
passage, whatever its size. `rows.py` states the two row forms.
"""

import hashlib
import json
import mmap
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from rlft.retrieval.index_folder import read_index
from rlft.retrieval.passage import Passage, RetrievalError
from rlft.retrieval.rows import passage_of_row

_ROW_STARTS = "row_starts.npy"


class CorpusError(RetrievalError):
    """A corpus that cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class Corpus:
    """Passages in a fixed order, and the hash of what they hold."""

    passages: Sequence[Passage]
    fingerprint: str
    """SHA-256: of the file's bytes, or of ids, titles and texts in memory."""


class FilePassages(Sequence[Passage]):
    """Passages of a JSON Lines file, parsed on access.

    Args:
        path: the file, which must not change while it is in use.
        starts_N: byte offset of each of the N rows.
    """

    def __init__(self, path: Path, starts_N: np.ndarray) -> None:
        self._starts_N = starts_N
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts_N)

    @overload
    def __getitem__(self, index: int) -> Passage: ...

    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...

    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = int(self._starts_N[index])
        end = self._bytes.find(b"\n", start)
        return passage_of_row(json.loads(self._bytes[start : end if end >= 0 else len(self._bytes)]))


def corpus_in_memory(passages: Iterable[Passage | Mapping[str, Any]]) -> Corpus:
    """A small corpus of passages or rows.

    Raises:
        CorpusError: if there is none, one is malformed, or two have one id.
    """
    found: list[Passage] = []
    place: dict[str, int] = {}
    digest = hashlib.sha256()
    for i, item in enumerate(passages):
        try:
            row = {"id": item.id, "title": item.title, "text": item.text} if isinstance(item, Passage) else item
            passage = passage_of_row(row)
        except ValueError as error:
            raise CorpusError(f"passage {i}: {error}") from error
        if place.setdefault(passage.id, i) != i:
            raise CorpusError(f"passages {place[passage.id]} and {i} have one id, {passage.id!r}; ids must be unique")
        digest.update(json.dumps([passage.id, passage.title, passage.text]).encode() + b"\n")
        found.append(passage)
    if not found:
        raise CorpusError("the corpus has no passages")
    return Corpus(found, digest.hexdigest())


def fingerprint_of(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        CorpusError: if there is no such file, or it is compressed.
    """
    if path.suffix == ".gz":
        raise CorpusError(f"{path} is compressed, and passages are read in place; unpack it first: gzip -dk {path}")
    if not path.is_file():
        raise CorpusError(f"there is no corpus file {path.absolute()}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan_corpus(path: Path, folder: Path) -> FilePassages:
    """Check every row of a corpus file, and keep in an index's folder where each starts. Blank lines are passed over.

    Raises:
        CorpusError: naming the file and the line that is not JSON, holds no passage, or repeats an id.
    """
    starts_N = _row_starts(path)
    np.save(folder / _ROW_STARTS, starts_N)
    return FilePassages(path, starts_N)


def open_corpus(path: Path, fingerprint: str, folder: Path) -> Corpus:
    """The corpus that `scan_corpus` has checked."""
    row_starts = read_index(folder, lambda: np.load(folder / _ROW_STARTS, mmap_mode="r"))
    return Corpus(FilePassages(path, row_starts), fingerprint)


def _row_starts(path: Path) -> np.ndarray:
    """Byte offsets (N,)."""
    starts, lines, hashes, offset = array("q"), array("q"), array("q"), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                starts.append(offset)
                lines.append(number)
                hashes.append(hash(_checked(line, path, number).id))
            offset += len(line)
    if not starts:
        raise CorpusError(f"{path} has no passages")
    starts_N = np.array(starts)
    _refuse_repeated_ids(path, starts_N, np.array(lines), np.array(hashes))
    return starts_N


def _checked(line: bytes, path: Path, number: int) -> Passage:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CorpusError(f"{path}, line {number} is not JSON: {error}. It starts {line[:80]!r}") from error
    try:
        return passage_of_row(row)
    except ValueError as error:
        raise CorpusError(f"{path}, line {number}: {error}") from error


def _refuse_repeated_ids(path: Path, starts_N: np.ndarray, lines_N: np.ndarray, hashes_N: np.ndarray) -> None:
    """Only ids whose hashes collide are read again: a set of all ids would be most of a large corpus's memory."""
    _, inverse_N, counts = np.unique(hashes_N, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse_N] > 1)
    if not len(suspects):
        return
    passages, first = FilePassages(path, starts_N), dict[str, int]()
    for i in suspects.tolist():
        identity, line = passages[i].id, int(lines_N[i])
        if first.setdefault(identity, line) != line:
            raise CorpusError(f"{path}, lines {first[identity]} and {line} have one id, {identity!r}; ids are unique")
