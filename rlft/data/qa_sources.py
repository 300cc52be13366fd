"""Sources of question-answering rows: a file, a folder with a file per split, or a Hub id; each row with its place."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from rlft.data.json_rows import iter_json_rows
from rlft.data.prompts import DataError, listed, read_table

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
"""Each row with its place: file and line, or split and number."""
SUFFIXES = {".json", ".jsonl", ".parquet"}
ALIASES_FILE = "id_aliases.json"
"""2Wiki's aliases, `{"Q_id", "aliases", ...}` per line; used when it lies beside the questions."""


def open_splits(name: str, config: str | None, train_split: str, test_split: str) -> dict[str, Rows]:
    """Rows of the training split, and after it of the test split where there is another; nothing is read yet.

    Args:
        name: a file, a folder, or a Hub id.
        config: configuration name of a Hub data set.
        train_split: a split's name, or words that a file's name has.
        test_split: the same for the test split; not asked for where there is only one split.

    Raises:
        DataError: if a split cannot be told, or the file's kind cannot hold lists.
    """
    splits = _splits(name, config)
    if len(splits) == 1:
        return {train_split: next(iter(splits.values()))}
    wanted = {train_split: "train_split", test_split: "test_split"}
    return {split: splits[_find(split, list(splits), name, option)] for split, option in wanted.items()}


def _splits(name: str, config: str | None) -> dict[str, Rows]:
    path = Path(name)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES and file.name != ALIASES_FILE]
        if not files:
            raise DataError(f"{name} holds no file that ends in {listed(sorted(SUFFIXES))}.")
        return {file.name: _file(file) for file in files}
    if path.suffix in SUFFIXES:
        return {path.name: _file(path)}
    if path.suffix in (".csv", ".tsv", ".txt"):
        raise DataError(f"{name}: lists of answers need a file that ends in {listed(sorted(SUFFIXES))}.")
    return {split: _table(f"{name}, split {split}", table) for split, table in load_dataset(name, config).items()}


def _find(split: str, known: list[str], name: str, option: str) -> str:
    """The split of that name, or the file whose name has all of its words."""
    found = [one for one in known if one == split] or [one for one in known if _words(split) <= _words(one)]
    if len(found) != 1:
        seen = f"several splits that fit {split!r}: {listed(found)}" if found else f"no {split!r} in {listed(known)}"
        raise DataError(f"{name} has {seen}; set {option} to words that only the wanted one's name has.")
    return found[0]


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def _file(path: Path) -> Rows:
    if path.suffix == ".parquet":
        if not path.is_file():
            raise DataError(f"{path}: no such file.")
        (table,) = read_table(str(path), "parquet").values()
        yield from _table(str(path), table)
        return
    aliases = _aliases(path.parent / ALIASES_FILE)
    for place, row in iter_json_rows(path):
        known = aliases.get(row.get("answer_id") or "")
        yield place, row | {"answer_aliases": known} if known else row


def _table(name: str, table: Dataset) -> Rows:
    # Decoding HotpotQA's passages would take longer than all the rest; MuSiQue's mark the gold ones.
    slim = table.remove_columns([column for column in table.column_names if column == "context"])
    yield from ((f"{name}, row {number}", row) for number, row in enumerate(slim))


def _aliases(path: Path) -> dict[str, list[str]]:
    aliases = {}
    for place, row in iter_json_rows(path) if path.is_file() else ():
        if not isinstance(row.get("Q_id"), str) or not isinstance(row.get("aliases"), list):
            raise DataError(f"{place}: an alias row has 'Q_id' (a text) and 'aliases' (a list), not {listed(row)}.")
        aliases[row["Q_id"]] = row["aliases"]
    return aliases
